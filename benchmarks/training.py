"""Speed of training: our step against the same step of the PyTorch twin, in turns in one run.

Engines start from the same weights and see the same crops; their losses over the first steps
are compared before anything is timed. See `PROTOCOL` for what is inside the timer.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.timing import Budget, Case, Measurement
from bisenet_jax.config import Config
from bisenet_jax.convert.names import LAYOUTS
from bisenet_jax.convert.tensors import to_public
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.errors import ConfigError
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.model.presets import build_model, graph_differences
from bisenet_jax.normalization import Normalization
from bisenet_jax.training.augment import augment
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.pace import step_flops
from bisenet_jax.training.state import TrainState, start_state
from bisenet_jax.training.step import make_train_step, make_update

PEERS = ("torch-eager", "torch-compile")
OURS, WHOLE = "bisenet_jax", "bisenet_jax, whole step"
INPUTS = 4
COMPARED_STEPS = 3
# Of the first loss, and of those after it, which rounding in the gradients moves apart.
LARGEST_DIFFERENCES = {"float32": (1e-4, 2e-2), "bfloat16": (1e-2, 5e-2)}
PROTOCOL = (
    "Inside the timer of every engine: forward pass with boosters, loss at full resolution, "
    "backward pass, SGD with momentum, schedule and weight decay on kernels, batch statistics; "
    "on normalised crops and labels that lie on the device, the same for all, labels in the "
    "dtype that each wants. float32 parameters; activations in the dtype of the run, by "
    "torch.autocast there. PyTorch: channels last, fused SGD, cudnn.benchmark, TF32 allowed, "
    "torch.compile of the network in its default mode, loss and optimiser eager. "
    "Ours: the compiled step, its state's memory used anew. "
    "Dropout is off on both sides, so that losses can be compared: over the first "
    f"{COMPARED_STEPS} steps, before the timer runs. The row '{WHOLE}' is what train.py runs: "
    "uint8 frames on the device, augmentation and dropout inside. Step: one at a time, each "
    f"waited for; images/s: at most {timing.IN_FLIGHT} steps under way, on a CPU one. "
    f"{INPUTS} batches in turn, engines in {timing.ROUNDS} rounds of turns, each after "
    f"{timing.PAUSE_SECONDS * 1e3:.0f} ms of rest and a step that is not timed; first steps "
    "and warm-up outside. "
    "Ratio: an engine's median step over ours. Peak: of the rate of a large matrix product in "
    "the same dtype by XLA in this run; the work of a step is two operations for each "
    "multiply-accumulate of the forward pass's convolutions, times three. Memory: ours by the "
    "compiler, PyTorch's by its allocator, its peak in one step; it does not tell on CPU."
)


class _Engine(NamedTuple):
    """A case to time, after its first steps.

    Attributes:
        losses: of those steps, in their order.
        first_seconds: of the first of them, compilation included.
        memory_bytes: that a step needs, weights and inputs included; None where none tells.
    """

    name: str
    case: Case
    losses: list[float]
    first_seconds: float
    memory_bytes: int | None


def count_steps(against: Sequence[str]) -> int:
    """How often `measure_training` calls `progress`."""
    return (2 + len(against)) * (1 + timing.ROUNDS)


def prepare_config(config: Config, batch: int, crop: tuple[int, int]) -> Config:
    """The same run with another batch, and a crop that the network sees `height, width` of."""
    height, width = (int(size / config.augment.input_scale) for size in crop)
    size = {"crop_height": height, "crop_width": width}
    return dataclasses.replace(
        config,
        augment=dataclasses.replace(config.augment, **size),
        train=dataclasses.replace(config.train, batch_size=batch),
    )


def measure_training(
    config: Config,
    against: Sequence[str],
    budget: Budget,
    progress: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """One row, ready for JSON, for each engine; ours first.

    Args:
        config: network, loss, optimiser, batch and crop; its data set is not read.
        against: names of `PEERS`.
        budget: of one engine.
        progress: called after each step of the work, `count_steps` times in all.

    Raises:
        ConfigError: for a network that has no twin, for options that the twin lacks, and when
            the losses of two engines differ.
    """
    classes = len(find_class_set(config.data.classes))
    model = build_model(num_classes=classes, **dataclasses.asdict(config.model))
    if against:
        _require_twin(config, model)
    frames = draw_frames(config, classes)
    crops = [crop_frames(config, frame, jax.random.key(n)) for n, frame in enumerate(frames)]
    engines = [_our_engine(config, model.clone(dropout_rate=0.0), crops)]
    progress()
    for peer in against:
        engines.append(_peer_engine(peer, config, model, crops))
        progress()
    _require_equal_losses(engines, config.model.dtype)
    engines.append(_whole_engine(config, model, frames))
    progress()
    measurements = timing.measure(
        [engine.case for engine in engines],
        budget,
        pause=timing.PAUSE_SECONDS,
        progress=progress,
    )
    peak = matmul_flops_per_second(config.model.dtype)
    flops = step_flops(model, config)
    ours = measurements[0].latency_ms["median"]
    return [
        _result(config, engine, measurement, flops / peak, ours)
        for engine, measurement in zip(engines, measurements, strict=True)
    ]


def peer_versions(against: Sequence[str]) -> dict[str, str]:
    """Of the libraries behind the peers."""
    return {"torch": version("torch")} if against else {}


def matmul_flops_per_second(dtype: str) -> float:
    """What XLA reaches on this device with a large matrix product: the peak in practice."""
    size = 8192 if jax.default_backend() != "cpu" else 2048
    matrix = jnp.ones((size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    seconds = timing.time_calls(
        Case(lambda x: multiply(x, x), [matrix], 1), iter([matrix] * 12), Budget(11, 10.0)
    )
    return 2 * size**3 / min(seconds)


def table(rows: Sequence[dict[str, Any]]) -> str:
    columns = ("median ms", "p90", "images/s", "ratio", "of peak", "MiB", "first s")
    lines = [f"{'engine':<26}" + "".join(f"{name:>11}" for name in columns)]
    lines.append("-" * len(lines[0]))
    for row in rows:
        memory = row["memory_bytes"]
        lines.append(
            f"{row['engine']:<26}{row['step_ms']['median']:>11.1f}{row['step_ms']['p90']:>11.1f}"
            f"{row['images_per_second']:>11.2f}{row['ratio']:>11.3f}"
            f"{row['share_of_peak']:>11.1%}"
            + (f"{memory / 2**20:>11,.0f}" if memory else f"{'-':>11}")
            + f"{row['first_step_seconds']:>11.1f}"
        )
    return "\n".join(lines)


def _require_twin(config: Config, model: BiSeNetV2) -> None:
    preset = config.model.preset
    if preset not in LAYOUTS:
        raise ConfigError(
            f"config.model.preset {preset!r} has no PyTorch twin to train against; set "
            f"--config.model.preset=coincheung (there is {', '.join(sorted(LAYOUTS))}), or "
            "measure ours alone by --against=''"
        )
    twin = build_model(preset, num_classes=model.num_classes)
    differing = graph_differences(model, twin, with_boosters=True)
    if differing:
        listed = "; ".join(f"{name} {a!r}, there {b!r}" for name, (a, b) in differing.items())
        raise ConfigError(f"the PyTorch twin of {preset} is another network: {listed}")
    lacking = {
        "config.train.micro_batches": (config.train.micro_batches, 1),
        "config.train.remat": (config.train.remat, False),
        "config.train.max_skipped_steps": (config.train.max_skipped_steps, 0),
        "config.model.frozen_batch_norm": (bool(config.model.frozen_batch_norm), False),
        "config.augment.enlarge": (config.augment.enlarge, 1),
        "config.optimizer.method": (config.optimizer.method, "sgd"),
        "config.optimizer.ema_decay": (config.optimizer.ema_decay, 0),
    }
    for name, (value, only) in lacking.items():
        if value != only:
            raise ConfigError(f"{name} {value}: the PyTorch twin has no such; set it to {only}")


def draw_frames(config: Config, classes: int) -> list[dict[str, jax.Array]]:
    """Batches of streets, as large as the crop before it shrinks."""
    height, width = config.augment.crop_height, config.augment.crop_width
    batch = config.train.batch_size
    # Few streets, mirrored and shifted by the augmentation: they are slow to draw.
    streets = [draw_street(0, index, height, width) for index in range(INPUTS)]
    images, labels = (np.stack(arrays) for arrays in zip(*streets, strict=True))
    labels = np.where(labels == IGNORE, labels, labels % classes)
    sizes = np.tile(np.array([height, width], np.int32), (batch, 1))
    batches = []
    for first in range(INPUTS):
        chosen = (first + np.arange(batch)) % INPUTS
        frames = {"image": images[chosen], "label": labels[chosen], "size": sizes}
        batches.append(jax.device_put(frames))
    return batches


def crop_frames(
    config: Config, frames: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """As training sees them: normalised `[B, H, W, 3] float32` and labels `[B, H, W]`."""
    normalization = Normalization(config.data.mean, config.data.std)
    draw = jax.jit(
        lambda key, image, label, size: augment(
            key, image, label, size, config.augment, normalization
        )
    )
    return draw(key, frames["image"], frames["label"], frames["size"])


def _our_engine(
    config: Config, model: BiSeNetV2, crops: list[tuple[jax.Array, jax.Array]]
) -> _Engine:
    update = make_update(model, make_optimizer(config.optimizer, config.train.steps), config)
    key = jax.random.key(config.train.seed)

    def step(state: TrainState, crop: tuple[jax.Array, jax.Array]) -> Any:
        images, labels = crop
        return update(state, images, labels, key)

    return _compiled_engine(OURS, step, start_state(model, config), crops)


def _whole_engine(config: Config, model: BiSeNetV2, frames: list[Any]) -> _Engine:
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    step = make_train_step(model, optimizer, config)
    return _compiled_engine(WHOLE, step, start_state(model, config), frames)


def _compiled_engine(
    name: str, step: Callable[..., Any], state: TrainState, inputs: list[Any]
) -> _Engine:
    began = time.perf_counter()
    program = jax.jit(step, donate_argnums=0).lower(state, inputs[0]).compile()

    def run(batch: Any) -> jax.Array:
        nonlocal state
        state, metrics = program(state, batch)
        return metrics["loss"]

    memory = program.memory_analysis()
    held = None
    if memory is not None:
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes
        held += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    case = Case(run, inputs, len(jax.tree.leaves(inputs[0])[0]))
    return _first_steps(name, case, began, lambda loss: float(loss), lambda: held)


def _peer_engine(
    name: str, config: Config, model: BiSeNetV2, crops: list[tuple[jax.Array, jax.Array]]
) -> _Engine:
    from benchmarks.torch_training import make_torch_step

    began = time.perf_counter()
    step = make_torch_step(
        config,
        model.num_classes,
        to_public(config.model.preset, jax.device_get(start_state(model, config).variables)),
        [(np.asarray(images), np.asarray(labels)) for images, labels in crops],
        is_compiled=name == "torch-compile",
    )
    case = Case(step.run, step.batches, config.train.batch_size, wait=step.wait)
    return _first_steps(name, case, began, lambda result: result[1].item(), step.step_bytes)


def _first_steps(
    name: str,
    case: Case,
    began: float,
    loss_of: Callable[[Any], float],
    memory: Callable[[], int | None],
) -> _Engine:
    losses = [loss_of(case.call(case.inputs[0]))]
    first_seconds = time.perf_counter() - began
    losses += [loss_of(case.call(case.inputs[n])) for n in range(1, COMPARED_STEPS)]
    return _Engine(name, case, losses, first_seconds, memory())


def _require_equal_losses(engines: Sequence[_Engine], dtype: str) -> None:
    first, later = LARGEST_DIFFERENCES[dtype]
    bounds = np.array([first] + [later] * (COMPARED_STEPS - 1))
    ours = np.array(engines[0].losses)
    for engine in engines[1:]:
        # Written so that nan is refused, too.
        if not (np.abs(np.array(engine.losses) - ours) <= bounds * np.abs(ours)).all():
            raise ConfigError(
                f"losses of the first {COMPARED_STEPS} steps are {engines[0].losses} here and "
                f"{engine.losses} with {engine.name}: not the same training, so nothing was "
                "timed; a lower --config.optimizer.learning_rate tells rounding from a fault"
            )


def _result(
    config: Config,
    engine: _Engine,
    measurement: Measurement,
    least_seconds: float,
    ours_ms: float,
) -> dict[str, Any]:
    milliseconds = measurement.latency_ms
    height, width = config.augment.input_size
    return {
        "engine": engine.name,
        "batch": measurement.images,
        "height": height,
        "width": width,
        "dtype": config.model.dtype,
        "ohem": config.loss.ohem,
        "step_ms": {name: milliseconds[name] for name in ("median", "p90")},
        "images_per_second": measurement.images_per_second,
        "ratio": milliseconds["median"] / ours_ms,
        "share_of_peak": least_seconds / (milliseconds["median"] / 1e3),
        "memory_bytes": engine.memory_bytes,
        "first_step_seconds": engine.first_seconds,
        "first_losses": engine.losses,
        "steps": {"latency": len(measurement.latencies), "stream": measurement.stream_calls},
    }
