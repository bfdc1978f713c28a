"""The gradient of a convolution's kernel by products is that by convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax.model.convolution import convolve, kernel_gradient


def arrays(size: int, stride: int, height: int = 6, width: int = 8, features: int = 5):
    random = np.random.default_rng(size + stride)
    x = random.normal(size=(2, height, width, 3))
    kernel = random.normal(size=(size, size, 3, features))
    gradient = random.normal(size=(2, -(-height // stride), -(-width // stride), features))
    return (jnp.asarray(array, jnp.float32) for array in (x, kernel, gradient))


def by_loops(x, gradient, size: int, stride: int) -> np.ndarray:
    """Every tap of every pixel in float64."""
    margin = size // 2
    x = np.pad(np.float64(x), ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    gradient = np.float64(gradient)
    total = np.zeros((size, size, x.shape[-1], gradient.shape[-1]))
    for i, j in np.ndindex(size, size):
        for row, column in np.ndindex(gradient.shape[1:3]):
            tap = x[:, row * stride + i, column * stride + j]
            total[i, j] += tap.T @ gradient[:, row, column]
    return total


@pytest.mark.parametrize("size, stride", [(3, 1), (3, 2), (1, 1), (1, 2), (7, 2)])
@pytest.mark.parametrize("height", [6, 7])
@pytest.mark.parametrize("features", [1, 5, 20])  # as many forms
def test_products_equal_loops(size, stride, height, features):
    x, _, gradient = arrays(size, stride, height, features=features)
    ours = kernel_gradient(x, gradient, size=size, stride=stride)
    np.testing.assert_allclose(ours, by_loops(x, gradient, size, stride), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("devices", [1, 2])
def test_gradients_are_those_of_the_convolution(devices, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    x, kernel, gradient = arrays(3, 2)

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 2),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    expected = jax.vjp(plain, x, kernel)[1](gradient)
    program = jax.jit(lambda *pair: jax.vjp(lambda *p: convolve(*p, 2), *pair)[1](gradient))
    for ours, theirs in zip(program(x, kernel), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    # One device sums by products, several by the convolution that XLA can share out.
    text = str(jax.make_jaxpr(program)(x, kernel))
    assert ("dot_general" in text) == (devices == 1)


@pytest.mark.parametrize("size, channels", [(1, 1), (3, 2), (3, 64)])
def test_bfloat16_is_summed_in_float32(size, channels):
    x = jnp.ones((1, 64, 64, channels), jnp.bfloat16)
    ours = jax.jit(lambda x: kernel_gradient(x, x, size=size, stride=1))(x)
    assert ours.dtype == jnp.bfloat16
    assert (ours[size // 2, size // 2] == 4096).all()
