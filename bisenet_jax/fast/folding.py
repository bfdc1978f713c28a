"""Batch norm folded into the convolution before it, as programs that only infer want it.

A batch norm that uses its running statistics is a scale and a shift of each channel, so that
`convolution, batch norm` is one convolution with another kernel and a bias.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from bisenet_jax.model.bisenetv2 import BiSeNetV2, without_boosters

PyTree = Any


class Convolution(NamedTuple):
    """`kernel: [height, width, inputs / groups, outputs]`, `bias: [outputs]`, both float32."""

    kernel: np.ndarray
    bias: np.ndarray


class ScaleShift(NamedTuple):
    """A batch norm that follows no convolution: `x * scale + shift`, each `[C] float32`."""

    scale: np.ndarray
    shift: np.ndarray


class Folded(NamedTuple):
    """All numbers of the network by the path of the layer that they stand for.

    Attributes:
        convolutions: a `ConvBatchNorm` or `DepthwiseConvBatchNorm` by its own path, such as
            `detail_branch/s1_1`; a convolution without batch norm likewise.
        scale_shifts: the other batch norms.
    """

    convolutions: Mapping[str, Convolution]
    scale_shifts: Mapping[str, ScaleShift]


def fold_batchnorm(model: BiSeNetV2, variables: PyTree) -> Folded:
    """The network in inference without batch norm and without boosters.

    Computed in float64 and rounded once.

    Args:
        model: the network that the variables belong to.
        variables: `params` and `batch_stats`.
    """
    kept = without_boosters(variables)
    params = _layers(kept["params"])
    statistics = _layers(kept["batch_stats"])
    norms = {
        path: _scale_shift(params[path], statistics[path], model.batch_norm_epsilon)
        for path in statistics
    }
    convolutions = {}
    for path, layer in params.items():
        if "kernel" not in layer:
            continue
        box, _, name = path.rpartition("/")
        bias = layer.get("bias", np.zeros(layer["kernel"].shape[-1]))
        norm = norms.pop(f"{box}/bn", None) if name == "conv" else None
        if norm is None:
            convolutions[path] = Convolution(_float32(layer["kernel"]), _float32(bias))
            continue
        scale, shift = norm
        convolutions[box] = Convolution(
            _float32(layer["kernel"] * scale), _float32(bias * scale + shift)
        )
    scale_shifts = {path: ScaleShift(*map(_float32, norm)) for path, norm in norms.items()}
    return Folded(convolutions, scale_shifts)


def _layers(tree: PyTree) -> dict[str, dict[str, np.ndarray]]:
    """Layers by path, each with its arrays in float64."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for path, array in traverse_util.flatten_dict(tree).items():
        layers.setdefault("/".join(path[:-1]), {})[path[-1]] = np.asarray(array, np.float64)
    return layers


def _scale_shift(
    params: dict[str, np.ndarray], statistics: dict[str, np.ndarray], epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    scale = params["scale"] / np.sqrt(statistics["var"] + epsilon)
    return scale, params["bias"] - statistics["mean"] * scale


def _float32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32)
