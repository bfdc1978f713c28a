"""What an exported program says of itself: JSON values that need nothing of ours to be read."""

from typing import Any

import numpy as np
from flax import traverse_util

from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.weights import Weights, content_hash

# What goes in and what comes out.
UINT8_LABELS = "uint8-labels"
FLOAT_LOGITS = "float-logits"
IOS = (UINT8_LABELS, FLOAT_LOGITS)


def describe(weights: Weights, io: str) -> dict[str, Any]:
    """Classes, preprocessing, origin and score.

    `content_hash` is that of the weights file they come from or, of a run, would make.
    """
    score = weights.score
    return {
        "io": io,
        "class_names": list(weights.class_set.names),
        "class_colours": [list(colour) for colour in weights.class_set.colours],
        "class_set": weights.class_set.name,
        "mean": list(weights.normalization.mean),
        "std": list(weights.normalization.std),
        "input_scale": weights.input_scale,
        "preset": weights.preset,
        "content_hash": weights.content_hash or _content_hash(weights),
        "miou": None if score is None else score.miou,
        "split": None if score is None else score.split,
        "protocol": None if score is None else score.protocol,
        "step": weights.step,
        "version": weights.version,
    }


def _content_hash(weights: Weights) -> str:
    tensors = traverse_util.flatten_dict(without_boosters(weights.variables), sep="/")
    return content_hash(
        {name: np.asarray(array, np.float32) for name, array in tensors.items()}
    )
