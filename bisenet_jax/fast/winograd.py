"""3x3 convolution by Winograd's minimal filtering, F(4x4, 3x3): 36 products where 144 were.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308). The
image is cut into overlapping tiles of 6x6; one matrix product for each of their 36 transformed
places gives 4x4 results. It pays where channels are many, so that the products outweigh the
transforms, and float32 alone has the digits for it.
"""

from collections.abc import Sequence

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


def transform_kernel(kernel: np.ndarray) -> np.ndarray:
    """`[3, 3, inputs, outputs] -> [6, 6, inputs, outputs] float32`, once for all images."""
    kernel = np.asarray(kernel, np.float64)
    transformed = np.einsum("ai,bj,ijco->abco", _KERNELS, _KERNELS, kernel, optimize=True)
    return transformed.astype(np.float32)


def winograd_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 1, padded by one pixel: `[B, H, W, inputs] -> [B, H, W, outputs]`.

    Args:
        x: float32, H and W divisible by 4.
        kernel: from `transform_kernel`.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // TILE, width // TILE
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x_rows = [x[:, i : i + TILE * (rows - 1) + 1 : TILE] for i in range(PLACES)]
    products = []
    for i, row_weights in enumerate(_INPUTS):
        row = _combine(row_weights, x_rows)
        pixels = [row[:, :, j : j + TILE * (columns - 1) + 1 : TILE] for j in range(PLACES)]
        # A product of its own for each place: one batched product is slower on CPU.
        products.append(
            [
                _combine(weights, pixels).reshape(-1, channels) @ kernel[i, j]
                for j, weights in enumerate(_INPUTS)
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
