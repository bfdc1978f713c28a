"""Engines against each other: one network, one set of inputs, from uint8 images to labels."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from benchmarks.ceilings import Ceilings, measure_ceilings
from benchmarks.engines import OURS, PEERS, PLAIN, Prepared, prepare
from benchmarks.roofline import Layer, count_layers, floor_seconds
from benchmarks.subject import INPUTS, Subject
from benchmarks.timing import Budget, Measurement
from bisenet_jax.errors import ConfigError, UserError

# Share of pixels whose label may differ between two engines that round differently; another
# graph, such as nearest for bilinear upsampling, changes a quarter of them and more.
TOLERATED = {"float32": 0.005, "float16": 0.03, "bfloat16": 0.08}
PROTOCOL = (
    "One process, one device, drawn weights. Labels of all engines are compared first. "
    "Latency: one call at a time, each waited for (JAX by block_until_ready, PyTorch on a GPU "
    "by an event behind its last kernel; onnxruntime returns when done). Throughput: calls "
    f"started with at most {timing.IN_FLIGHT} under way, the last waited for, as many as fit "
    f"into a block one by one. {INPUTS} inputs in turn. Engines take turns, {timing.ROUNDS} "
    "rounds of a block of calls each; "
    f"before each block {timing.PAUSE_SECONDS * 1e3:.0f} ms of rest, in which the threads of "
    "the engine before stop spinning, and one call that is not timed. Compilation and warm-up "
    "are outside the timer. ratio is an engine's median latency over that of bisenet_jax: "
    "above 1, ours is quicker. TFLOP/s and the share of the roofline are those of the "
    "throughput."
)


class FailedEngineError(UserError):
    """An engine that cannot run, or computes something else; the others can be timed."""

    def __init__(self, engine: str, reason: str) -> None:
        super().__init__(f"{engine} {reason}; leave it out of --against")
        self.engine, self.reason = engine, reason


def refuse(error: FailedEngineError) -> None:
    """Have a failed engine end the measurement."""
    raise error


def count_steps(engines: Sequence[str]) -> int:
    """How often `measure_inference` calls `progress`."""
    return len(engines) * (1 + timing.ROUNDS)


def measure_inference(
    subject: Subject,
    engines: Sequence[str],
    budget: Budget,
    progress: Callable[[], Any] = lambda: None,
    lose: Callable[[FailedEngineError], Any] = refuse,
) -> list[dict[str, Any]]:
    """One row, ready for JSON, for each engine.

    Args:
        engines: `OURS` and `PLAIN` and whom they are measured against.
        budget: of one row.
        progress: called after each step of the work, `count_steps` times in all.
        lose: is told of a peer that cannot run here, or whose labels are not those of the plain
            model; where it returns, the others go on.

    Raises:
        ConfigError: when the batch does not fit into the memory of the device.
        FailedEngineError: by `lose`, and when our own labels are not those of the plain model.
    """
    prepared: list[Prepared] = []
    prepare_seconds = {}
    try:
        for engine in engines:
            began = time.perf_counter()
            with _peer(engine, lose):
                prepared.append(prepare(engine, subject))
            prepare_seconds[engine] = time.perf_counter() - began
            progress()
        differences = compare_labels(prepared, subject, lose)
        prepared = [e for e in prepared if e.engine in differences or e.labels is None]
        cases = [entry.case for entry in prepared]
        measurements = timing.measure(
            cases, budget, pause=timing.PAUSE_SECONDS, progress=progress
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(
            f"--batch {subject.batch} at {subject.height}x{subject.width} does not fit into "
            f"the memory of {jax.devices()[0].device_kind}; give a smaller --batch, --height "
            "or --width"
        ) from error
    layers, ceilings = count_layers(subject), measure_ceilings(subject.dtype)
    ours = measurements[[entry.engine for entry in prepared].index(OURS)].latency_ms["median"]
    return [
        _row(subject, entry, measurement, layers, ceilings)
        | {
            "ratio": measurement.latency_ms["median"] / ours,
            "labels_differ": differences.get(entry.engine),
            "prepare_seconds": prepare_seconds[entry.engine],
        }
        for entry, measurement in zip(prepared, measurements, strict=True)
    ]


def first_line(error: Exception) -> str:
    """What an error is and says, in short: those of compilers go on for pages."""
    line = str(error).strip().split("\n")[0]
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"


@contextmanager
def _peer(engine: str, lose: Callable[[FailedEngineError], Any]) -> Generator[None]:
    try:
        yield
    except Exception as error:
        if engine not in PEERS:
            raise
        # Each of them has errors of its own, some of no class but Exception.
        lose(FailedEngineError(engine, f"cannot run: {first_line(error)}"))


def compare_labels(
    prepared: Sequence[Prepared],
    subject: Subject,
    lose: Callable[[FailedEngineError], Any] = refuse,
) -> dict[str, float]:
    """By engine, the share of pixels with another label than the plain model gives.

    Args:
        lose: as `measure_inference` takes it; what is lost is left out.

    Raises:
        FailedEngineError: where it is more than rounding explains, by `lose` or for ours.
    """
    image = subject.draw_images()[-1]
    labels: dict[str, np.ndarray] = {}
    for entry in prepared:
        if entry.labels:
            # No engine may be asked twice: some write their next labels over the last.
            with _peer(entry.engine, lose):
                labels[entry.engine] = np.array(entry.labels(image))
    differences = {}
    for name, found in labels.items():
        share = float(np.mean(found != labels[PLAIN]))
        if share <= TOLERATED[subject.dtype]:
            differences[name] = share
            continue
        error = FailedEngineError(
            name,
            f"gives {share:.2%} of the pixels another label than the plain model in "
            f"{subject.dtype}, more than the {TOLERATED[subject.dtype]:.1%} that rounding "
            "explains: it is not the same network",
        )
        (lose if name in PEERS else refuse)(error)
    return differences


def _row(
    subject: Subject,
    prepared: Prepared,
    measurement: Measurement,
    layers: Sequence[Layer],
    ceilings: Ceilings,
) -> dict[str, Any]:
    macs = sum(layer.macs for layer in layers)
    calls_per_second = measurement.images_per_second / subject.batch
    return {
        "engine": prepared.engine,
        "batch": subject.batch,
        "dtype": subject.dtype,
        "height": subject.height,
        "width": subject.width,
        "latency_ms": measurement.latency_ms,
        "frames_per_second": measurement.frames_per_second,
        "images_per_second": measurement.images_per_second,
        "tflops": 2 * macs * calls_per_second / 1e12,
        "roofline_ms": floor_seconds(layers, ceilings) * 1e3,
        "roofline_share": floor_seconds(layers, ceilings) * calls_per_second,
        "ceilings": ceilings._asdict(),
        "kernels": prepared.kernels,
        "compile_seconds": prepared.compile_seconds,
        "memory_bytes": prepared.memory_bytes,
        "calls": {
            "latency": len(measurement.latencies),
            "throughput": measurement.stream_calls,
        },
        "inside_timer": prepared.inside_timer,
        "settings": prepared.settings,
    }
