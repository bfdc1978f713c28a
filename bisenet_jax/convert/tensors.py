"""Public tensors to our variables and back: pure functions of names, shapes and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bisenet_jax.convert.names import (
    booster_prefixes,
    classifier_name,
    head_prefix,
    public_names,
)
from bisenet_jax.model.bisenetv2 import BOOSTER_NAMES, STRIDE, BiSeNetV2
from bisenet_jax.model.initialization import initialize
from bisenet_jax.model.presets import build_model

PyTree = Any
Tensors = Mapping[str, np.ndarray]

# PyTorch counts batches in every batch norm; nothing computes with it.
COUNTER = ".num_batches_tracked"
_IMAGES = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), jnp.float32)


@dataclass(frozen=True)
class Comparison:
    """Names and shapes of a public checkpoint against those of its network.

    Attributes:
        has_boosters: whether the checkpoint has any tensor of the heads for training.
        missing: names that the network needs.
        unexpected: names that it does not have.
        mismatched: name to (shape in the checkpoint, shape in the network).
        counters: how many of PyTorch's batch counters were left out.
        ignored_heads: names left out because the heads are drawn anew.
        old_head: what is known of an older form of the head, or None.
    """

    has_boosters: bool
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    counters: int
    ignored_heads: tuple[str, ...] = ()
    old_head: str | None = None

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)


def count_classes(layout: str, tensors: Tensors) -> int | None:
    """How many classes the main head tells apart; None where it has no classifier of today."""
    kernel = tensors.get(classifier_name(layout))
    return kernel.shape[0] if kernel is not None and kernel.ndim == 4 else None


def recognise_old_head(layout: str, tensors: Tensors) -> str | None:
    """Words on a main head that CoinCheung's code had before 2021-07, or None.

    Its history: in 2020-08 a 1x1 convolution and bilinear growth, from 2020-09 to 2021-06 a 1x1
    convolution to 64 values per class and a pixel shuffle, since then the form of today.
    """
    if layout != "coincheung":
        return None
    direct, shuffled = (tensors.get(f"head.conv_out{part}.weight") for part in ("", ".0"))
    if direct is not None and direct.ndim == 4:
        return (
            f"its head is that of 2020-08, a 1x1 convolution to {direct.shape[0]} classes with "
            "aligned corners"
        )
    if shuffled is not None and shuffled.ndim == 4 and shuffled.shape[0] % 64 == 0:
        return (
            "its head is that of 2020-09 to 2021-06, a 1x1 convolution to "
            f"{shuffled.shape[0] // 64} classes times 64 and a pixel shuffle"
        )
    return None


def compare(
    layout: str, tensors: Tensors, num_classes: int, *, fresh_heads: bool = False
) -> Comparison:
    """Compare a checkpoint's names and shapes with those of the layout's network.

    Args:
        layout: a name of `names.LAYOUTS`.
        tensors: of the checkpoint.
        num_classes: of the network.
        fresh_heads: leave the heads out of it.
    """
    heads = (head_prefix(layout), *booster_prefixes(layout))
    has_boosters = any(name.startswith(heads[1:]) for name in tensors)
    held = {name: array.shape for name, array in tensors.items() if not name.endswith(COUNTER)}
    counters = len(tensors) - len(held)
    wanted = public_shapes(layout, num_classes, with_boosters=has_boosters)
    ignored: tuple[str, ...] = ()
    if fresh_heads:
        ignored = tuple(sorted(name for name in held if name.startswith(heads)))
        held, wanted = (
            {name: shape for name, shape in table.items() if not name.startswith(heads)}
            for table in (held, wanted)
        )
    return Comparison(
        has_boosters=has_boosters,
        missing=tuple(sorted(wanted.keys() - held.keys())),
        unexpected=tuple(sorted(held.keys() - wanted.keys())),
        mismatched={
            name: (held[name], wanted[name])
            for name in sorted(held.keys() & wanted.keys())
            if held[name] != wanted[name]
        },
        counters=counters,
        ignored_heads=ignored,
        old_head=recognise_old_head(layout, tensors),
    )


def public_shapes(
    layout: str, num_classes: int, *, with_boosters: bool
) -> dict[str, tuple[int, ...]]:
    """Every name of the layout's network but the counters, and its shape there."""
    ours = _abstract_variables(layout, num_classes, with_boosters)
    names = public_names(layout, ours)
    return {names[name]: public_shape(leaf.shape) for name, leaf in ours.items()}


def from_public(
    layout: str, tensors: Tensors, num_classes: int, *, fresh_heads: bool = False
) -> tuple[BiSeNetV2, PyTree]:
    """The network of a checkpoint that fits (`Comparison.fits`), and its variables.

    Running statistics are taken as they are. With `fresh_heads` all heads, boosters too, are
    drawn as at the start of a training.

    Returns:
        The network, and `params` and `batch_stats` as numpy float32.
    """
    model = build_model(layout, num_classes=num_classes)
    if fresh_heads:
        variables = jax.device_get(initialize(model, jax.random.key(0), _IMAGES))
        ours = _flatten(variables)
    else:
        has_boosters = any(name.startswith(booster_prefixes(layout)) for name in tensors)
        ours = _abstract_variables(layout, num_classes, has_boosters)
    names = public_names(layout, ours)
    heads = ("head", *BOOSTER_NAMES)
    converted = {
        name: leaf
        if fresh_heads and name.split("/")[1] in heads
        else our_layout(tensors[names[name]])
        for name, leaf in ours.items()
    }
    return model, traverse_util.unflatten_dict(converted, sep="/")


def to_public(layout: str, variables: PyTree) -> dict[str, np.ndarray]:
    """Every tensor of the public network under its name there, float32; counters are zero."""
    ours = _flatten(variables)
    names = public_names(layout, ours)
    tensors = {}
    for name, array in ours.items():
        tensors[names[name]] = _public_layout(np.asarray(array, np.float32))
        if name.endswith("/var"):
            tensors[names[name].removesuffix(".running_var") + COUNTER] = np.zeros((), np.int64)
    return tensors


@cache
def _abstract_variables(layout: str, num_classes: int, with_boosters: bool) -> dict[str, Any]:
    """Shapes by name; kept, for tracing a network takes a second."""
    model = build_model(layout, num_classes=num_classes)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    return _flatten(
        jax.eval_shape(partial(model.init, is_training=with_boosters), keys, _IMAGES)
    )


# Kernels are OIHW there and HWIO here. A depth-wise one has one input per group, and output
# channel c * multiplier + j reads input channel c in both, so that it turns like any other.


def our_layout(array: np.ndarray) -> np.ndarray:
    """A tensor of theirs as one of ours, float32."""
    array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    return np.ascontiguousarray(array, np.float32)


def _public_layout(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)


def public_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape there of a tensor of ours."""
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape


def _flatten(variables: PyTree) -> dict[str, Any]:
    return traverse_util.flatten_dict(variables, sep="/")
