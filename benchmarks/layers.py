"""Where the time of a frame goes, by the boxes of the paper: the profile and the roofline.

The profiler tells how long each instruction ran, and the scopes of the program tell for which
box. Instructions run beside each other and a fusion can hold work of two boxes (it counts for
the one that its result belongs to), so that what can be told is each box's share.
"""

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax

from benchmarks.ceilings import measure_ceilings
from benchmarks.jax_engines import street_program
from benchmarks.kernels import scopes_of
from benchmarks.roofline import IMAGES, LABELS, block_of, count_layers, floor_seconds
from benchmarks.subject import Subject
from benchmarks.timing import Budget, Case, measure
from bisenet_jax.complexity import BLOCKS
from bisenet_jax.errors import ConfigError
from bisenet_jax.fast.network import fasten
from bisenet_jax.inference import Network, scaled_labels
from bisenet_jax.normalization import Normalization

PyTree = Any

UNATTRIBUTED = "unattributed"
PROFILED_CALLS = 10
PROTOCOL = (
    f"Share: of the time of all instructions in {PROFILED_CALLS} calls under jax.profiler, by "
    "the box in whose scope their result was written; ms is that share of the median latency, "
    "which is measured without the profiler. Of the roofline: the box's floor over its ms. "
    "unattributed: instructions without a scope, such as copies."
)
# Each instruction shows in a trace: on a CPU only when asked for, on a GPU only outside of
# command buffers.
_PROFILED = {
    "cpu": {"xla_cpu_enable_xprof_traceme": True},
    "gpu": {"xla_gpu_enable_command_buffer": ""},
}


def measure_layers(subject: Subject, budget: Budget) -> dict[str, Any]:
    """A row for each box in the order of computation, ready for JSON, and what they share."""
    network, parameters = fasten(subject.model, subject.weights.variables)
    _, case = street_program(network, parameters, subject)
    (measurement,) = measure([case], budget)
    latency_ms = measurement.latency_ms["median"]
    seconds = profile_boxes(network, parameters, subject)
    total = sum(seconds.values())
    if not total:
        raise ConfigError(
            "the profiler told of no instruction of the program; on a GPU it needs CUPTI, "
            "which pip install 'jax[cuda12]' brings"
        )

    ceilings = measure_ceilings(subject.dtype)
    layers = count_layers(subject)
    boxes = list(dict.fromkeys(layer.block for layer in layers))
    rows = []
    for box in [*boxes, *sorted(seconds.keys() - set(boxes))]:
        inside = [layer for layer in layers if layer.block == box]
        share = seconds.get(box, 0.0) / total
        floor_ms = floor_seconds(inside, ceilings) * 1e3
        milliseconds = share * latency_ms
        rows.append(
            {
                "block": box,
                "gmacs": sum(layer.macs for layer in inside) / 1e9,
                "megabytes": sum(layer.bytes for layer in inside) / 1e6,
                "share": share,
                "milliseconds": milliseconds,
                "roofline_ms": floor_ms,
                "roofline_share": floor_ms / milliseconds if share else None,
            }
        )
    return {
        **{name: getattr(subject, name) for name in ("batch", "height", "width", "dtype")},
        "latency_ms": measurement.latency_ms,
        "ceilings": ceilings._asdict(),
        "rows": rows,
        "layers": [
            layer._asdict() | {"roofline_ms": layer.floor_seconds(ceilings) * 1e3}
            for layer in layers
        ],
    }


def profile_boxes(network: Network, parameters: PyTree, subject: Subject) -> dict[str, float]:
    """Seconds of all instructions of each box, over several calls."""
    options = _PROFILED.get(jax.default_backend())
    program, case = street_program(network, parameters, subject, _scoped_street, options)
    scopes = scopes_of(program.hlo)
    seconds: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        _record(case, folder)
        for path in Path(folder).rglob("*.xplane.pb"):
            for name, duration in _events(path):
                if name in scopes:
                    seconds[_box_of(scopes[name])] += duration
    return seconds


def _scoped_street(
    network: Network, variables: PyTree, images: jax.Array, normalization: Normalization
) -> jax.Array:
    with jax.named_scope(IMAGES):
        inputs = normalization.normalize(images)
    with jax.named_scope(LABELS):
        return scaled_labels(network, variables, inputs)


def _record(case: Case, folder: str) -> None:
    case.wait(case.call(case.inputs[0]))
    with jax.profiler.trace(folder):
        for index in range(PROFILED_CALLS):
            case.wait(case.call(case.inputs[index % len(case.inputs)]))


def _events(path: Path) -> list[tuple[str, float]]:
    """Instructions and their seconds, as the profiler wrote them."""
    events = []
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                # On a GPU an event has the name of its kernel.
                name = dict(event.stats).get("hlo_op")
                if name:
                    events.append((str(name), event.duration_ns / 1e9))
    return events


def _box_of(scope: str) -> str:
    parts = scope.split("/")
    for index, part in enumerate(parts):
        if part in BLOCKS:
            return block_of("/".join(parts[index:]))
    return next((part for part in parts if part in (IMAGES, LABELS)), UNATTRIBUTED)
