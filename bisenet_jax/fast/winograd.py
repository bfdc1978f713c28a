"""3x3 convolution by Winograd's minimal filtering, F(4x4, 3x3): 36 products where 144 were.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308). The
image is cut into overlapping tiles of 6x6; one matrix product for each of their 36 transformed
places gives 4x4 results. It pays where channels are many, so that the products outweigh the
transforms, and float32 alone has the digits for it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TILE = 4  # results of a tile, along one side
PLACES = TILE + 2  # pixels of a tile, and places of a transformed kernel

# Rows: what is taken of a tile's six pixels (inputs), of a kernel's three taps (kernels); and,
# of the six products, what makes a tile's four results (outputs).
_INPUTS = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNELS = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUTS = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)


class WinogradKernel(NamedTuple):
    """A 3x3 kernel in the space of the products, once for all images.

    Attributes:
        places: six rows of six `[inputs, outputs] float32`, each an array of its own: slices of
            a large one would be copied with every call.
    """

    places: tuple[tuple[np.ndarray, ...], ...]


def transform_kernel(kernel: np.ndarray) -> WinogradKernel:
    """Of `[3, 3, inputs, outputs]`; computed in float64."""
    kernel = np.asarray(kernel, np.float64)
    transformed = np.einsum("ai,bj,ijco->abco", _KERNELS, _KERNELS, kernel, optimize=True)
    rows = transformed.astype(np.float32)
    return WinogradKernel(tuple(tuple(place.copy() for place in row) for row in rows))


def winograd_conv(x: jax.Array, kernel: WinogradKernel) -> jax.Array:
    """Stride 1, padded by one pixel: `[B, H, W, inputs] -> [B, H, W, outputs] float32`.

    Args:
        x: float32, any H and W.
    """
    if any(size % TILE for size in x.shape[1:3]):
        _, height, width, _ = x.shape
        padding = ((0, 0), (0, -height % TILE), (0, -width % TILE), (0, 0))
        return winograd_conv(jnp.pad(x, padding), kernel)[:, :height, :width]
    batch, height, width, channels = x.shape
    rows, columns = height // TILE, width // TILE
    # Rows are padded here and columns below: padding x itself would draw all that made it, such
    # as the results of a layer before, into one slow loop.
    inner = x.reshape(batch, rows, TILE, width, channels)
    border = jnp.zeros((batch, 1, width, channels), x.dtype)
    x_rows = [
        jnp.concatenate([border, inner[:, :-1, -1]], axis=1),
        *(inner[:, :, i] for i in range(TILE)),
        jnp.concatenate([inner[:, 1:, 0], border], axis=1),
    ]  # of each tile
    products = []
    for row_weights, kernel_row in zip(_INPUTS, kernel.places, strict=True):
        row = _combine(row_weights, x_rows)
        row = jnp.pad(row, ((0, 0), (0, 0), (1, 1), (0, 0)))
        pixels = [row[:, :, j : j + TILE * (columns - 1) + 1 : TILE] for j in range(PLACES)]
        # A product of its own for each place: one batched product is slower on CPU.
        products.append(
            [
                _combine(weights, pixels).reshape(-1, channels) @ place
                for weights, place in zip(_INPUTS, kernel_row, strict=True)
            ]
        )
    by_column = [
        [_combine(weights, column) for weights in _OUTPUTS]
        for column in zip(*products, strict=True)
    ]  # of each place in a row of tiles the four rows of results
    y = jnp.stack(
        [
            jnp.stack(
                [
                    _combine(weights, row).reshape(batch, rows, columns, -1)
                    for weights in _OUTPUTS
                ],
                axis=3,
            )
            for row in zip(*by_column, strict=True)
        ],
        axis=2,
    )  # [B, rows, TILE, columns, TILE, outputs]
    return y.reshape(batch, height, width, -1)


def _combine(weights: np.ndarray, terms: Sequence[jax.Array]) -> jax.Array:
    """The weighted sum, without what has the weight 0."""
    total = None
    for weight, term in zip(weights, terms, strict=True):
        if weight:
            scaled = term if weight == 1 else term * np.float32(weight)
            total = scaled if total is None else total + scaled
    assert total is not None
    return total
