"""Our ONNX file against PyTorch's own export of the same network, both in onnxruntime.

    python -m benchmarks.onnx_peers [RESULTS.json]

The network is the `coincheung` preset with random weights, in PyTorch the twin with the same
ones; 512x1024, batch 1, float32, normalised pictures to logits at full size. The two files take
turns, outputs are compared first, and the ratio is PyTorch's median over ours. Needs the extras
export and torch, and `pip install onnxscript` for PyTorch's exporter.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.machine import describe_machine
from benchmarks.torch_bisenetv2 import build_twin
from bisenet_jax.convert.tensors import to_public
from bisenet_jax.data.classes import CITYSCAPES
from bisenet_jax.export.onnx import FLOAT_LOGITS, export_onnx
from bisenet_jax.files import write_json
from bisenet_jax.model.initialization import initialize
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization
from bisenet_jax.weights import Weights

HEIGHT, WIDTH = 512, 1024
WARM_UP, TURNS = 5, 40
LARGEST_DIFFERENCE = 1e-3


class MainLogits(torch.nn.Module):
    """The twin without its other outputs."""

    def __init__(self, twin: torch.nn.Module) -> None:
        super().__init__()
        self.twin = twin

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.twin(images)[0]


def write_files(folder: Path) -> dict[str, Path]:
    """The two files of one network, by who wrote them."""
    model = build_model("coincheung", num_classes=19)
    shape = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = jax.device_get(initialize(model, jax.random.key(0), shape))
    files = {"bisenet_jax": folder / "ours.onnx", "torch.onnx": folder / "torch.onnx"}
    weights = Weights(model, variables, CITYSCAPES, Normalization(), "coincheung")
    export_onnx(files["bisenet_jax"], weights, height=HEIGHT, width=WIDTH, io=FLOAT_LOGITS)

    twin = build_twin("coincheung")
    tensors = to_public("coincheung", variables)
    twin.load_state_dict(
        {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()},
        strict=False,  # the counters of its batch norms are not ours to give
    )
    pictures = torch.zeros(1, 3, HEIGHT, WIDTH)
    torch.onnx.export(
        MainLogits(twin).eval(), (pictures,), files["torch.onnx"], dynamo=True, verbose=False
    )
    return files


def measure(files: dict[str, Path]) -> list[dict[str, Any]]:
    """Seconds of both files in turns, after their outputs were compared."""
    import onnxruntime

    pictures = np.random.default_rng(0).normal(size=(1, 3, HEIGHT, WIDTH)).astype(np.float32)
    sessions = {
        name: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for name, path in files.items()
    }

    def run(name: str) -> np.ndarray:
        session = sessions[name]
        return np.asarray(session.run(None, {session.get_inputs()[0].name: pictures})[0])

    outputs = [run(name) for name in sessions]
    difference = float(np.abs(outputs[0] - outputs[1]).max())
    if difference > LARGEST_DIFFERENCE:
        raise ValueError(f"the two files differ by {difference}: not the same network")
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(WARM_UP + TURNS):
        for name in sessions:
            began = time.perf_counter()
            run(name)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - began)
    ours = statistics.median(seconds["bisenet_jax"])
    return [
        {
            "engine": f"onnxruntime {onnxruntime.__version__}, file by {name}",
            "median_ms": 1000 * statistics.median(times),
            "p90_ms": 1000 * statistics.quantiles(times, n=10)[-1],
            "ratio": statistics.median(times) / ours,
            "largest_difference": difference,
        }
        for name, times in seconds.items()
    ]


def main() -> None:
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(write_files(Path(folder)))
    for row in rows:
        print(
            f"{row['engine']:<48}{row['median_ms']:>9.1f} ms{row['p90_ms']:>9.1f} p90"
            f"{row['ratio']:>8.3f} times ours"
        )
    if len(sys.argv) == 2:
        protocol = (
            f"coincheung preset, 19 classes, {HEIGHT}x{WIDTH}, batch 1, float32, normalised "
            f"picture to logits at full size, {TURNS} calls each in turns after {WARM_UP}"
        )
        versions = {"torch": torch.__version__}
        write_json(
            sys.argv[1],
            describe_machine() | {"peers": versions, "protocol": protocol, "rows": rows},
        )


if __name__ == "__main__":
    main()
