"""The dense convolution of all layers; on CPU the gradient of its kernel by matrix products.

XLA's own form of that gradient is a convolution whose kernel is as large as the picture, which
its CPU libraries do slowly (python -m benchmarks.kernel_gradient).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`[B, H, W, C]` by a square kernel `[k, k, C, N]` of odd size, padded by `k // 2`."""
    return plain_convolve(x, kernel, stride)


def plain_convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(kernel.shape[0] // 2,) * 2] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Any]:
    # The plain one: by its name remat knows what to keep.
    return plain_convolve(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size, _, channels, features = kernel.shape
    (of_image,) = jax.linear_transpose(lambda x: plain_convolve(x, kernel, stride), x)(gradient)

    def by_convolution(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda kernel: plain_convolve(x, kernel, stride), kernel)(
            gradient
        )[0]

    # Several devices share the batch, which a loop over its images would gather on each.
    if jax.device_count() > 1:
        return of_image, by_convolution(x, gradient)
    by_products = partial(kernel_gradient, size=size, stride=stride)
    return of_image, jax.lax.platform_dependent(
        x, gradient, cpu=by_products, default=by_convolution
    )


convolve.defvjp(_forward, _backward)


def kernel_gradient(x: jax.Array, gradient: jax.Array, *, size: int, stride: int) -> jax.Array:
    """Of `convolve`: for each image one product over all its pixels.

    The shifts of the taps lie beside each other as copies: all on one side of the product, or
    those along the columns on one and those along the rows on the other, as copies least.

    Args:
        x: `[B, H, W, C]`, what was convolved.
        gradient: `[B, ceil(H / stride), ceil(W / stride), N]`, of the result.
        size: of the kernel.
        stride: of the convolution.

    Returns:
        `[size, size, C, N]` in the dtype of x; summed in float32 at least.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    channels, features = x.shape[-1], gradient.shape[-1]
    if size == 1:
        x = x[:, ::stride, ::stride]
        # What stands on the left is written anew, transposed: the narrower one.
        is_narrower = channels <= features
        product = (
            _product(x, gradient, dtype) if is_narrower else _product(gradient, x, dtype).T
        )
        return product.reshape(1, 1, channels, features).astype(x.dtype)
    copied = {
        _by_taps_of_both: size * (channels + features),
        _by_taps_of_gradient: size**2 * features,
        _by_taps_of_image: size**2 * channels,
    }
    # The gradient's shifts are the image's only where their pixels are the same.
    form = min(copied, key=lambda form: copied[form]) if stride == 1 else _by_taps_of_image

    def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + form(*pair, size, stride, dtype), None

    nothing = jnp.zeros((size, size, channels, features), dtype)
    return jax.lax.scan(add, nothing, (x, gradient))[0].astype(x.dtype)


def _by_taps_of_image(
    x: jax.Array, gradient: jax.Array, size: int, stride: int, dtype: Any
) -> jax.Array:
    height, width, features = gradient.shape
    rows, columns = (height - 1) * stride + 1, (width - 1) * stride + 1
    x = _pad(x, size // 2, size // 2)
    taps = [
        x[i : i + rows : stride, j : j + columns : stride]
        for i in range(size)
        for j in range(size)
    ]
    product = _product(jnp.concatenate(taps, axis=-1), gradient, dtype)
    return product.reshape(size, size, -1, features)


def _by_taps_of_gradient(
    x: jax.Array, gradient: jax.Array, size: int, stride: int, dtype: Any
) -> jax.Array:
    height, width, channels = x.shape
    gradient = _pad(gradient, size // 2, size // 2)
    # What a tap takes from before an image's pixel, the gradient has after its own.
    taps = [
        gradient[i : i + height, j : j + width]
        for i in reversed(range(size))
        for j in reversed(range(size))
    ]
    product = _product(x, jnp.concatenate(taps, axis=-1), dtype)
    return product.reshape(channels, size, size, -1).transpose(1, 2, 0, 3)


def _by_taps_of_both(
    x: jax.Array, gradient: jax.Array, size: int, stride: int, dtype: Any
) -> jax.Array:
    height, width, channels = x.shape
    x, gradient = _pad(x, 0, size // 2), _pad(gradient, size // 2, 0)
    columns = [x[:, j : j + width] for j in range(size)]
    rows = [gradient[i : i + height] for i in reversed(range(size))]
    product = _product(jnp.concatenate(columns, -1), jnp.concatenate(rows, -1), dtype)
    return product.reshape(size, channels, size, -1).transpose(2, 0, 1, 3)


def _pad(x: jax.Array, rows: int, columns: int) -> jax.Array:
    return jnp.pad(x, ((rows, rows), (columns, columns), (0, 0)))


def _product(left: jax.Array, right: jax.Array, dtype: Any) -> jax.Array:
    """`[..., M]` and `[..., N]` to `[M, N]`, summed over all pixels."""
    pixels = tuple(range(left.ndim - 1))
    # Converted first: XLA's CPU library lacks products of large bfloat16 into float32.
    left, right = left.astype(dtype), right.astype(dtype)
    return jax.lax.dot_general(left, right, ((pixels, pixels), ((), ())))
