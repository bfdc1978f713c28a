"""Kaiming-normal kernels (paper, section 5.1), all drawn at once."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

PyTree = Any

INITIALIZATIONS = ("fan_out", "fan_in")


def kaiming_normal(mode: str) -> Callable[..., jax.Array]:
    """The initialiser of one kernel `[k, k, in, out]`; no text settles the mode."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.normal(key, shape, dtype) * kaiming_deviation(shape, mode)

    return init


def kaiming_deviation(shape: tuple[int, ...], mode: str) -> float:
    """Deviation of a kernel, `sqrt(2 / fan)`; grouped kernels as PyTorch counts them."""
    fan = math.prod(shape[:2]) * (shape[3] if mode == "fan_out" else shape[2])
    return math.sqrt(2 / fan)


def initialize(model: nn.Module, key: jax.Array, images: jax.ShapeDtypeStruct) -> PyTree:
    """Variables of a network as `model.init` makes them, from a single draw of normal numbers.

    A draw per kernel is a program of its own to compile, some seventy of them: most of a
    minute on two cores, where one draw takes less than a second.

    Args:
        model: with a field `initialization`.
        key: the only source of chance.
        images: shape and dtype of a batch; any size serves, as parameters do not depend on it.

    Returns:
        `params` (boosters included) and `batch_stats`.
    """

    def init() -> PyTree:
        # Dropout draws, too, but leaves no trace in the variables.
        keys = {"params": key, "dropout": key}
        return model.init(keys, jnp.zeros(images.shape, images.dtype), is_training=True)

    paths, treedef = jax.tree_util.tree_flatten_with_path(jax.eval_shape(init))
    is_kernel = [jax.tree_util.keystr(path[-1:], simple=True) == "kernel" for path, _ in paths]
    shapes = [leaf.shape for _, leaf in paths]

    def make() -> list[jax.Array]:
        # What is not a kernel is constant, so that XLA drops the draws behind `init`.
        leaves = jax.tree.leaves(init())
        total = sum(math.prod(s) for s, kernel in zip(shapes, is_kernel, strict=True) if kernel)
        normals, start = jax.random.normal(key, (total,), jnp.float32), 0
        for index, shape in enumerate(shapes):
            if is_kernel[index]:
                flat = normals[start : start + math.prod(shape)]
                leaves[index] = flat.reshape(shape) * kaiming_deviation(
                    shape, model.initialization
                )
                start += math.prod(shape)
        return leaves

    return jax.tree.unflatten(treedef, jax.jit(make)())
