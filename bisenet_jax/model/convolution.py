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
    return _convolve(x, kernel, stride)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(kernel.shape[0] // 2,) * 2] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Any]:
    return convolve(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size, _, channels, features = kernel.shape
    (of_image,) = jax.linear_transpose(lambda x: _convolve(x, kernel, stride), x)(gradient)

    def by_convolution(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda kernel: _convolve(x, kernel, stride), kernel)(
            gradient
        )[0]

    # Several devices share the batch, which a loop over its images would gather on each; and
    # for narrow results the copies of the taps cost more than the products save.
    if jax.device_count() > 1 or (size > 1 and features < channels):
        return of_image, by_convolution(x, gradient)
    by_products = partial(kernel_gradient, size=size, stride=stride)
    return of_image, jax.lax.platform_dependent(
        x, gradient, cpu=by_products, default=by_convolution
    )


convolve.defvjp(_forward, _backward)


def kernel_gradient(x: jax.Array, gradient: jax.Array, *, size: int, stride: int) -> jax.Array:
    """Of `convolve`: for each image and row of the kernel one product over all pixels.

    Args:
        x: `[B, H, W, C]`, what was convolved.
        gradient: `[B, ceil(H / stride), ceil(W / stride), N]`, of the result.
        size: of the kernel.
        stride: of the convolution.

    Returns:
        `[size, size, C, N]` in the dtype of x; summed in float32 at least.
    """
    channels, (height, width, features) = x.shape[-1], gradient.shape[1:]
    rows, columns = (height - 1) * stride + 1, (width - 1) * stride + 1
    margin = (size // 2, size // 2)
    dtype = jnp.promote_types(x.dtype, jnp.float32)

    def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        image, gradient = jnp.pad(pair[0], (margin, margin, (0, 0))), pair[1]
        products = []
        for i in range(size):
            taps = [image[i : i + rows : stride, j : j + columns : stride] for j in range(size)]
            product = jax.lax.dot_general(
                jnp.concatenate(taps, axis=-1),
                gradient,
                (((0, 1), (0, 1)), ((), ())),
                preferred_element_type=dtype,
            )
            products.append(product.reshape(size, channels, features))
        return total + jnp.stack(products), None

    nothing = jnp.zeros((size, size, channels, features), dtype)
    return jax.lax.scan(add, nothing, (x, gradient))[0].astype(x.dtype)
