"""Layers against plain loops: the oracles know nothing of XLA."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax.errors import ConfigError
from bisenet_jax.model.layers import (
    ConvBatchNorm,
    DepthwiseConv,
    LayerOptions,
    average_pool,
    batch_norm,
    conv,
    max_pool,
)

# Sums of at most some dozen float32 products of size one.
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def random_array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def windows(x: np.ndarray, stride: int, fill: float):
    """Every 3x3 window `[B, 3, 3, C]` of a border of one, with its place in the output."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)
    rows, columns = range(0, x.shape[1], stride), range(0, x.shape[2], stride)
    for (row, top), (column, left) in itertools.product(enumerate(rows), enumerate(columns)):
        yield row, column, padded[:, top : top + 3, left : left + 3]


def by_window(function, x: np.ndarray, stride: int, fill: float = 0.0) -> np.ndarray:
    places = [(row, column, function(w)) for row, column, w in windows(x, stride, fill)]
    batch, channels = places[0][2].shape
    y = np.zeros((batch, places[-1][0] + 1, places[-1][1] + 1, channels), np.float64)
    for row, column, value in places:
        y[:, row, column] = value
    return y


@pytest.mark.parametrize("lowering", ["shifts", "conv"])
@pytest.mark.parametrize("multiplier", [1, 6])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(4, 6), (5, 7), (4, 5), (1, 1)])
def test_depthwise_conv(lowering, multiplier, stride, size):
    x = random_array(2, *size, 3)
    kernel = random_array(3, 3, 1, 3 * multiplier, seed=1)
    layer = DepthwiseConv(
        multiplier, stride=stride, options=LayerOptions(depthwise_lowering=lowering)
    )

    def at_window(window):  # [B, 3, 3, C] -> [B, C * multiplier]
        outputs = [
            (window[..., c] * kernel[None, :, :, 0, c * multiplier + j]).sum(axis=(1, 2))
            for c in range(3)
            for j in range(multiplier)
        ]
        return np.stack(outputs, axis=-1)

    close(layer.apply({"params": {"kernel": kernel}}, x), by_window(at_window, x, stride))


@pytest.mark.parametrize("lowering", ["shifts", "conv"])
def test_depthwise_channel_order(lowering):
    # Only input channel 1 is lit: of three times four outputs, numbers 4 to 7 may answer.
    x = np.zeros((1, 3, 3, 3), np.float32)
    x[..., 1] = 1
    layer = DepthwiseConv(4, options=LayerOptions(depthwise_lowering=lowering))
    y = layer.apply({"params": {"kernel": np.ones((3, 3, 1, 12), np.float32)}}, x)
    assert np.flatnonzero(np.asarray(y)[0, 1, 1]).tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("multiplier, stride", [(1, 1), (6, 2)])
def test_lowerings_agree_in_value_and_gradient(multiplier, stride):
    x = jnp.asarray(random_array(2, 7, 6, 3))
    params = {
        "kernel": jnp.asarray(random_array(3, 3, 1, 3 * multiplier, seed=1)),
        "bias": jnp.asarray(random_array(3 * multiplier, seed=2)),
    }

    def results(lowering):
        layer = DepthwiseConv(
            multiplier,
            stride=stride,
            use_bias=True,
            options=LayerOptions(depthwise_lowering=lowering),
        )
        return jax.value_and_grad(
            lambda params, x: (layer.apply({"params": params}, x) ** 2).sum(), argnums=(0, 1)
        )(params, x)

    jax.tree.map(partial(close, rtol=2e-5), results("shifts"), results("conv"))


@pytest.mark.parametrize("lowering", ["shifts", "conv"])
def test_depthwise_kernel_gradient_survives_bfloat16(lowering):
    # The gradient is a sum over 2 x 128 x 128 pixels, far beyond what bfloat16 can count.
    x = jnp.asarray(random_array(2, 128, 128, 4) + 1).astype(jnp.bfloat16)
    kernel = jnp.ones((3, 3, 1, 4))

    def gradient(dtype):
        layer = DepthwiseConv(options=LayerOptions(dtype=dtype, depthwise_lowering=lowering))
        return jax.grad(
            lambda kernel: (
                layer.apply({"params": {"kernel": kernel}}, x).astype("float32").sum()
            )
        )(kernel)

    # Half a unit in bfloat16's last place, 2^-9, for the conv lowering's final rounding.
    np.testing.assert_allclose(gradient(jnp.bfloat16), gradient(jnp.float32), rtol=2**-8)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 2)])
def test_max_pool(size):
    x = random_array(2, *size, 3) - 5  # all negative: a border of zeros would win
    close(max_pool(jnp.asarray(x)), by_window(lambda w: w.max(axis=(1, 2)), x, 2, -np.inf))


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 2)])
@pytest.mark.parametrize("counts_padding", [True, False])
def test_average_pool(size, counts_padding):
    x = random_array(2, *size, 3)
    # A border that is not a number marks the pixels that do not count.
    mean = partial(np.mean if counts_padding else np.nanmean, axis=(1, 2))
    expected = by_window(mean, x, 2, 0.0 if counts_padding else np.nan)
    close(average_pool(jnp.asarray(x), counts_padding=counts_padding), expected)


def test_average_pool_conventions_differ_at_the_border_only():
    x = jnp.ones((1, 6, 6, 1))
    counted = average_pool(x, counts_padding=True)[0, :, :, 0]
    excluded = average_pool(x, counts_padding=False)[0, :, :, 0]
    close(excluded, np.ones((3, 3)))
    close(counted, np.outer([2, 3, 3], [2, 3, 3]) / 9)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_stride_two_convolution_pads_both_sides(size):
    # 'SAME' would pad (0, 1) on the even sizes and read the window one pixel further.
    x, kernel = random_array(2, *size, 3), random_array(3, 3, 3, 5, seed=1)
    layer = conv(5, stride=2, options=LayerOptions(), name="conv")
    expected = by_window(lambda w: np.einsum("bijc,ijcd->bd", w, kernel), x, 2)
    close(layer.apply({"params": {"kernel": kernel}}, x), expected)


def test_batch_norm_uses_its_momentum_and_epsilon():
    options = LayerOptions(batch_norm_momentum=0.75, batch_norm_epsilon=0.5)
    x = random_array(3, 4, 5, 2) * [2, 3] + [1, -4]
    stats = {"mean": np.float32([10, 20]), "var": np.float32([2, 4])}
    params = {"scale": np.float32([1.5, 0.5]), "bias": np.float32([0.25, -1])}
    variables = {"params": params, "batch_stats": stats}

    layer = batch_norm(is_training=True, options=options, name="bn")
    y, updates = layer.apply(variables, x.astype(np.float32), mutable=["batch_stats"])
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    close(updates["batch_stats"]["mean"], 0.75 * stats["mean"] + 0.25 * mean)
    close(updates["batch_stats"]["var"], 0.75 * stats["var"] + 0.25 * variance)
    close(y, (x - mean) / np.sqrt(variance + 0.5) * params["scale"] + params["bias"])

    frozen = batch_norm(is_training=False, options=options, name="bn")
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 0.5) * params["scale"]
    close(frozen.apply(variables, x.astype(np.float32)), expected + params["bias"])


def test_defaults_are_those_of_the_authors_earlier_code():
    assert LayerOptions().batch_norm_momentum == 0.9
    assert LayerOptions().batch_norm_epsilon == 1e-5


@pytest.mark.parametrize("mode, fan", [("fan_out", 9 * 64), ("fan_in", 9 * 16)])
def test_initialization_is_kaiming_normal(mode, fan):
    layer = conv(64, options=LayerOptions(initialization=mode), name="conv")
    kernel = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))["params"]["kernel"]
    # 9216 draws: the deviation's own standard error is 0.7 percent.
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / fan), rtol=0.03)
    assert np.abs(kernel).max() > 3 * np.sqrt(2 / fan), "a truncated normal"


def test_relu_and_zero_initialization():
    x = jnp.asarray(random_array(2, 4, 4, 3))

    def layer(**fields):
        return ConvBatchNorm(4, options=LayerOptions(conv_bias=True), **fields)

    variables = layer().init(jax.random.key(0), x, is_training=False)
    assert set(variables["params"]["conv"]) == {"kernel", "bias"}
    plain = layer(use_relu=False).apply(variables, x, is_training=False)
    assert plain.min() < 0
    close(layer().apply(variables, x, is_training=False), np.maximum(plain, 0))
    zero = jax.eval_shape(
        lambda: layer(is_zero_initialized=True).init(jax.random.key(0), x, is_training=False)
    )
    assert jax.tree.map(jnp.shape, zero) == jax.tree.map(jnp.shape, variables)
    norm = batch_norm(
        is_training=False, is_zero_initialized=True, options=LayerOptions(), name="bn"
    )
    assert not norm.init(jax.random.key(0), x)["params"]["scale"].any()


@pytest.mark.parametrize("field", ["depthwise_lowering", "initialization"])
def test_unknown_choice(field):
    with pytest.raises(ConfigError, match=f"{field} 'best' is not known; choose from"):
        LayerOptions(**{field: "best"})
