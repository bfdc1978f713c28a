"""Speed of inference: the full street from a uint8 image to uint8 labels, and the bare network.

Three rows for each batch and dtype, timed in turns:

- `uint8 to labels`: what a service runs on images that are on the device already.
- `bare network`: normalised numbers in, logits at 1/8 out, as many papers time.
- `host to host`: the first row and both transfers, what a user's numpy array costs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.timing import Budget, Case, Measurement, Program
from bisenet_jax.complexity import count_model_macs
from bisenet_jax.config import Config
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.errors import ConfigError
from bisenet_jax.inference import predict_labels
from bisenet_jax.model.bisenetv2 import STRIDE, BiSeNetV2, Outputs, without_boosters
from bisenet_jax.model.initialization import initialize
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization

PyTree = Any

INPUTS = 4
PROGRAMS = 2  # compiled for each batch and dtype
ROWS = 3
COMMON_PROTOCOL = (
    "Random weights, float32 parameters, no boosters, batch norm not folded, one device. "
    "Latency: one call at a time, each waited for; frames a second are batch / median. "
    f"Throughput: calls dispatched with at most {timing.IN_FLIGHT} under way, the last waited "
    f"for. {INPUTS} inputs in turn; the rows of one batch in {timing.ROUNDS} rounds of turns; "
    "compilation and warm-up outside the timer."
)


class _Row(NamedTuple):
    """A case and the words and figures that go with its measurement."""

    name: str
    dtype: str
    size: tuple[int, int]
    case: Case
    program: Program
    inside_timer: str


def model_of(config: Config, dtype: str) -> BiSeNetV2:
    """The network of a config, its activations in another dtype."""
    fields = dataclasses.asdict(config.model) | {"dtype": dtype}
    return build_model(num_classes=len(find_class_set(config.data.classes)), **fields)


def padded_size(height: int, width: int) -> tuple[int, int]:
    """The size that the network sees: both sides grow to the next multiple of its stride."""
    return height + -height % STRIDE, width + -width % STRIDE


def count_steps(batches: Sequence[int], dtypes: Sequence[str]) -> int:
    """How often `measure_inference` calls `progress`."""
    return len(batches) * len(dtypes) * (PROGRAMS + ROWS * timing.ROUNDS)


def measure_inference(
    config: Config,
    *,
    height: int,
    width: int,
    batches: Sequence[int],
    dtypes: Sequence[str],
    budget: Budget,
    progress: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """One row, ready for JSON, for each batch, dtype and street.

    Args:
        height, width: of the images; the network sees them padded to its stride.
        dtypes: of the activations; parameters are float32 always.
        budget: of one row.
        progress: called after each step of the work, `count_steps` times in all.

    Raises:
        ConfigError: when a batch does not fit into the memory of the device.
    """
    results = []
    for batch in batches:
        # The rows of one batch are timed in turns; those of other batches would only hold
        # memory meanwhile.
        try:
            rows = [
                row
                for dtype in dtypes
                for row in _prepare(config, (height, width), batch, dtype, progress)
            ]
            measurements = timing.measure([row.case for row in rows], budget, progress=progress)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise ConfigError(
                f"--batch {batch} at {height}x{width} does not fit into the memory of "
                f"{jax.devices()[0].device_kind}; give a smaller --batch, --height or --width"
            ) from error
        macs = count_model_macs(model_of(config, dtypes[0]), *padded_size(height, width))
        results += map(partial(_result, macs), rows, measurements)
    return results


def _prepare(
    config: Config,
    size: tuple[int, int],
    batch: int,
    dtype: str,
    progress: Callable[[], Any],
) -> list[_Row]:
    """Compile the programs of one batch and dtype and lay out their inputs."""
    model = model_of(config, dtype)
    # The speed does not depend on the weights.
    images = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), jnp.float32)
    variables = without_boosters(initialize(model, jax.random.key(0), images))
    normalization = Normalization(config.data.mean, config.data.std)
    generator = np.random.default_rng(0)
    host_images = [
        generator.integers(0, 256, (batch, *size, 3), np.uint8) for _ in range(INPUTS)
    ]
    images = [jax.device_put(image) for image in host_images]
    street = timing.compile_program(
        lambda variables, images: predict_labels(model, variables, images, normalization),
        variables,
        images[0],
    )
    progress()

    padded = padded_size(*size)
    margins = ((0, 0), *((0, large - small) for large, small in zip(padded, size, strict=True)))
    normalize = jax.jit(
        lambda image: jnp.pad(
            normalization.normalize(image).astype(model.dtype), (*margins, (0, 0))
        )
    )
    inputs = [normalize(image) for image in images]
    network = timing.compile_program(partial(_logits, model), variables, inputs[0])
    progress()

    def host_call(image: np.ndarray) -> jax.Array:
        labels = street.run(variables, jax.device_put(image))
        labels.copy_to_host_async()
        return labels

    shape, padded_shape = (_shape(batch, *pair) for pair in (size, padded))
    steps = "normalise, network, bilinear x8, argmax"
    return [
        _Row(
            *("uint8 to labels", dtype, size),
            Case(partial(street.run, variables), images, batch),
            street,
            f"uint8 images {shape} on the device -> {steps} -> uint8 labels on the device; "
            "no transfer",
        ),
        _Row(
            *("bare network", dtype, padded),
            Case(partial(network.run, variables), inputs, batch),
            network,
            f"normalised {dtype} images {padded_shape} on the device -> network -> float32 "
            "logits at 1/8 on the device; no normalising, upsampling, argmax or transfer",
        ),
        _Row(
            *("host to host", dtype, size),
            Case(host_call, host_images, batch, wait=np.asarray),
            street,
            f"uint8 images {shape} in numpy -> transfer, {steps}, transfer -> uint8 labels in "
            "numpy; no decoding",
        ),
    ]


def _logits(model: BiSeNetV2, variables: PyTree, inputs: jax.Array) -> jax.Array:
    return cast(Outputs, model.apply(variables, inputs, is_training=False)).logits


def _result(macs: int, row: _Row, measurement: Measurement) -> dict[str, Any]:
    height, width = row.size
    flops = row.program.flops
    return {
        "name": row.name,
        "batch": measurement.images,
        "dtype": row.dtype,
        "height": height,
        "width": width,
        "latency_ms": measurement.latency_ms,
        "frames_per_second": measurement.frames_per_second,
        "images_per_second": measurement.images_per_second,
        "gmacs_per_second": measurement.images_per_second * macs / 1e9,
        "compile_seconds": row.program.compile_seconds,
        "xla_gflops_per_call": None if flops is None else flops / 1e9,
        "program_bytes": row.program.memory_bytes,
        "device_peak_bytes_so_far": timing.peak_memory_bytes(jax.devices()[:1]),
        "calls": {
            "latency": len(measurement.latencies),
            "throughput": measurement.stream_calls,
        },
        "inside_timer": row.inside_timer,
        "protocol": _protocol(row, measurement),
    }


def _protocol(row: _Row, measurement: Measurement) -> str:
    return (
        f"Inside the timer: {row.inside_timer}. Batch {measurement.images}, activations in "
        f"{row.dtype}. Latency of {len(measurement.latencies)} calls, throughput of "
        f"{measurement.stream_calls}. {COMMON_PROTOCOL}"
    )


def _shape(batch: int, height: int, width: int) -> str:
    return f"[{batch}, {height}, {width}, 3]"
