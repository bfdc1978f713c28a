"""Names and shapes of the public checkpoints, and numbers for them.

`names_coincheung.txt` and `names_mmseg.txt` list what the repositories' own code makes for 19
classes, heads for training included; `norm` stands for the five tensors of a batch norm.
"""

from pathlib import Path

import numpy as np


def listed_shapes(layout: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    text = Path(__file__).with_name(f"names_{layout}.txt").read_text(encoding="utf-8")
    for name, *kind, size in map(str.split, text.splitlines()):
        if kind:
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{name}.{leaf}"] = (int(size),)
            shapes[f"{name}.num_batches_tracked"] = ()
        else:
            shapes[name] = tuple(map(int, size.split("x")))
    return shapes


def draw_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """No two alike and none constant, statistics included.

    Variances are so large that the signal keeps its size from layer to layer, as it does in a
    trained network: logits of size one, not thirty, which would only multiply the rounding.
    """
    random = np.random.default_rng(0)
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) == 4:
            values = random.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith("running_var"):
            values = random.uniform(1, 3, shape)
        elif name.endswith("weight"):
            values = random.uniform(0.5, 1.5, shape)
        elif name.endswith("num_batches_tracked"):
            values = np.asarray(7)
        else:
            values = random.normal(size=shape) * 0.3
        tensors[name] = values.astype(np.float32)
    return tensors
