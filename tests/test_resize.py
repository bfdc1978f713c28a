"""Enlargement against numpy, one textbook formula per convention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax.resize import METHODS, upsample, upsampled_argmax


def half_pixel(x: np.ndarray, factor: int) -> np.ndarray:
    """Blend of the two nearest centres along axis 0, edges repeated."""
    position = (np.arange(len(x) * factor) + 0.5) / factor - 0.5
    low = np.floor(position).astype(int)
    share = (position - low).reshape(-1, *[1] * (x.ndim - 1))
    last = len(x) - 1
    return x[low.clip(0, last)] * (1 - share) + x[(low + 1).clip(0, last)] * share


def corner_to_corner(x: np.ndarray, factor: int) -> np.ndarray:
    target = np.linspace(0, len(x) - 1, len(x) * factor)
    return np.apply_along_axis(lambda line: np.interp(target, np.arange(len(x)), line), 0, x)


def blocks(x: np.ndarray, factor: int) -> np.ndarray:
    return np.kron(x, np.ones((factor,) + (1,) * (x.ndim - 1)))


ORACLES = {"bilinear": half_pixel, "align_corners": corner_to_corner, "nearest": blocks}


def random_map(height: int, width: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(2, height, width, 3))
    return x.astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor, size", [(2, (4, 5)), (4, (3, 6)), (8, (5, 1)), (4, (1, 1))])
def test_upsample(method, factor, size):
    x = random_map(*size)
    expected = np.moveaxis(ORACLES[method](np.moveaxis(x, 1, 0), factor), 0, 1)
    expected = np.moveaxis(ORACLES[method](np.moveaxis(expected, 2, 0), factor), 0, 2)
    y = upsample(jnp.asarray(x), factor, method)
    assert y.shape == (2, size[0] * factor, size[1] * factor, 3)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [4, 8])
def test_bilinear_is_that_of_jax_image(factor):
    x = jnp.asarray(random_map(5, 6))
    shape = (2, 5 * factor, 6 * factor, 3)
    expected = jax.image.resize(x, shape, "bilinear", antialias=False)
    np.testing.assert_allclose(upsample(x, factor), expected, rtol=1e-5, atol=1e-5)


def test_methods_differ():
    x = jnp.asarray(random_map(4, 4))
    results = [upsample(x, 4, method) for method in METHODS]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert np.abs(results[one] - results[other]).max() > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_is_kept(method):
    x = jnp.asarray(random_map(5, 6))
    y = upsample(x.astype(jnp.bfloat16), 4, method)
    assert y.dtype == jnp.bfloat16
    # Three roundings to 8 bits of numbers below 4.
    np.testing.assert_allclose(y.astype(jnp.float32), upsample(x, 4, method), atol=3 * 4 / 2**8)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_shares_out_every_output_pixel(method):
    x = jnp.asarray(random_map(3, 5))
    gradient = jax.grad(lambda x: upsample(x, 4, method).sum())(x)
    assert np.isfinite(gradient).all() and gradient.min() > 0
    # The weights of each output pixel sum to one.
    np.testing.assert_allclose(gradient.sum(), 2 * 12 * 20 * 3, rtol=1e-5)


def test_unknown_method():
    with pytest.raises(ValueError, match="upsampling method 'cubic' is not known; choose from"):
        upsample(jnp.zeros((1, 2, 2, 1)), 2, "cubic")


@pytest.mark.parametrize("channels", [1, 5, 40])
@pytest.mark.parametrize("factor, size", [(8, (3, 4)), (2, (1, 5))])
def test_upsampled_argmax(channels, factor, size):
    x = np.random.default_rng(1).normal(size=(2, *size, channels)).astype(np.float32)
    x[0, 0, 0] = 7.0  # equals, of which the first counts
    expected = np.asarray(upsample(jnp.asarray(x), factor)).argmax(-1)
    labels = jax.jit(upsampled_argmax, static_argnums=1)(x, factor)
    assert labels.dtype == jnp.uint8
    np.testing.assert_array_equal(labels, expected)
    assert labels[0, 0, 0] == 0 and (channels == 1 or len(np.unique(labels)) > 1)
