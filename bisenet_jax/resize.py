"""Resizing of pictures and feature maps: `upsample` by a whole factor, `resize` to any size.

Three conventions exist in public code and give different numbers, so each has its name:

- `bilinear`: half-pixel centres (PyTorch `align_corners=False`, OpenCV `INTER_LINEAR`).
- `align_corners`: corner pixels map onto corner pixels (PyTorch `align_corners=True`).
- `nearest`: every pixel becomes a block.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MOST_UNROLLED = 32  # channels: quicker than a loop, but each is compiled by itself
METHODS = ("bilinear", "align_corners", "nearest")


def upsample(x: jax.Array, factor: int, method: str = "bilinear") -> jax.Array:
    """Enlarge `x: [B, H, W, C]` to `[B, H * factor, W * factor, C]` in its own dtype."""
    if method not in METHODS:
        raise ValueError(f"upsampling method {method!r} is not known; choose from {METHODS}")
    if factor == 1:
        return x
    if method == "nearest":
        return _repeat_axis(_repeat_axis(x, factor, axis=2), factor, axis=1)
    if method == "align_corners":
        for axis in (1, 2):
            matrix = jnp.asarray(_aligned_weights(x.shape[axis], factor), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis)), 0, axis)
        return x
    return _upsample_axis(_upsample_axis(x, factor, axis=1), factor, axis=2)


def upsampled_argmax(x: jax.Array, factor: int) -> jax.Array:
    """`argmax(upsample(x, factor), -1)` of `[B, H, W, C]`, `uint8 [B, H * factor, W * factor]`.

    Of equal values the first counts; C is at most 256. The enlarged map is never stored: each
    phase of the columns keeps its largest value so far.
    """
    # Planes, so that neighbours in memory are neighbours in the picture.
    planes = _upsample_axis(jnp.moveaxis(x, -1, 0), factor, axis=2)
    phases = list(_phases(planes, factor, axis=3))

    def blend(channel: Any) -> list[jax.Array]:
        return [planes[channel] * (1 - w) + neighbours[channel] * w for neighbours, w in phases]

    def compare(channel: Any, best: list) -> list:
        return [
            (
                jnp.maximum(value, largest),
                jnp.where(value > largest, jnp.asarray(channel, jnp.uint8), label),
            )
            for value, (largest, label) in zip(blend(channel), best, strict=True)
        ]

    best = [(value, jnp.zeros(value.shape, jnp.uint8)) for value in blend(0)]
    if len(planes) <= _MOST_UNROLLED:
        for channel in range(1, len(planes)):
            best = compare(channel, best)
    else:
        best = jax.lax.fori_loop(1, len(planes), compare, best)
    labels = jnp.stack([label for _, label in best], axis=-1)
    return labels.reshape(*labels.shape[:2], -1)


def resize(x: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear with half-pixel centres and two taps a side, `[B, H, W, C]` in its own dtype.

    As PyTorch's `interpolate` and OpenCV do it: nothing is smoothed before shrinking, and
    halving an even size gives the mean of two by two pixels.
    """
    return _resize_axis(_resize_axis(x, height, axis=1), width, axis=2)


def _resize_axis(x: jax.Array, size: int, *, axis: int) -> jax.Array:
    old = x.shape[axis]
    if size == old:
        return x
    position = np.clip((np.arange(size) + 0.5) * (old / size) - 0.5, 0, old - 1)
    low = np.floor(position).astype(np.int32)
    high = np.minimum(low + 1, old - 1)
    shape = [1] * x.ndim
    shape[axis] = size
    weight = jnp.asarray((position - low).reshape(shape), x.dtype)
    return x.take(low, axis) * (1 - weight) + x.take(high, axis) * weight


def _repeat_axis(x: jax.Array, factor: int, *, axis: int) -> jax.Array:
    """As `jnp.repeat`, but the gradient is a sum of slices, quicker on CPU than a reduction."""
    shape = (*x.shape[:axis], x.shape[axis] * factor, *x.shape[axis + 1 :])
    return jnp.stack([x] * factor, axis=axis + 1).reshape(shape)


def _upsample_axis(x: jax.Array, factor: int, *, axis: int) -> jax.Array:
    """Half-pixel bilinear along one axis, one linear blend of neighbours per output phase."""
    blends = [
        x * (1 - weight) + neighbours * weight
        for neighbours, weight in _phases(x, factor, axis=axis)
    ]
    shape = (*x.shape[:axis], x.shape[axis] * factor, *x.shape[axis + 1 :])
    return jnp.stack(blends, axis=axis + 1).reshape(shape)


def _phases(x: jax.Array, factor: int, *, axis: int) -> Iterator[tuple[jax.Array, float]]:
    """For each output phase the neighbours that pixels are blended with, and their weight."""
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis)
    before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, -1, axis=axis)], axis=axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, None, axis=axis), last], axis=axis)
    for phase in range(factor):
        # Output pixel i * factor + phase lies this far from the centre of input pixel i.
        offset = (phase + 0.5) / factor - 0.5
        yield (before, -offset) if offset < 0 else (after, offset)


def _aligned_weights(size: int, factor: int) -> np.ndarray:
    """Interpolation matrix `[size * factor, size]` of the align-corners convention."""
    position = np.linspace(0.0, size - 1.0, size * factor)
    low = np.minimum(np.floor(position).astype(int), max(size - 2, 0))
    weights = np.zeros((size * factor, size), np.float32)
    rows = np.arange(size * factor)
    weights[rows, low] = 1 - (position - low)
    if size > 1:
        weights[rows, low + 1] = position - low
    return weights
