"""The network without batch norm is the network."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.fast.folding import fold_batchnorm
from bisenet_jax.inference import scaled_logits
from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.model.presets import PRESETS
from bisenet_jax.normalization import Normalization


def logits_of(model, variables):
    images, _ = draw_street(0, 0, 64, 96)
    inputs = Normalization().normalize(jax.numpy.asarray(images[None]))
    return np.asarray(jax.jit(lambda inputs: scaled_logits(model, variables, inputs))(inputs))


def unfold(model, folded):
    """The folded numbers in a network of the same shape whose batch norms do nothing.

    Every convolution of it has a bias, so that nothing of the folded form can get lost.
    """
    model = model.clone(conv_bias=True, bga_pointwise_bias=True)
    shapes = jax.eval_shape(
        lambda: model.init(
            jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), is_training=False
        )
    )
    neutral = {"mean": 0, "var": 1 - model.batch_norm_epsilon, "scale": 1, "bias": 0}
    variables = {}
    for (collection, *path, name), leaf in traverse_util.flatten_dict(shapes).items():
        layer, box = "/".join(path), "/".join(path[:-1])
        if layer in folded.scale_shifts and name in ("scale", "bias"):
            scale, shift = folded.scale_shifts[layer]
            array = scale if name == "scale" else shift
        elif path[-1] == "bn":
            array = np.full(leaf.shape, neutral[name])
        else:
            key = layer if layer in folded.convolutions else box
            array = getattr(folded.convolutions[key], name)
        assert array.shape == leaf.shape
        variables[collection, *path, name] = np.asarray(array, np.float32)
    return model, traverse_util.unflatten_dict(variables)


@pytest.mark.parametrize(
    ("preset", "fields"),
    [
        *((preset, {}) for preset in PRESETS),
        ("paper", {"conv_bias": True, "batch_norm_epsilon": 0.5}),
    ],
)
def test_folded_is_the_network(preset, fields, random_weights):
    # The other lowering compiles in less time.
    weights = random_weights(preset, depthwise_lowering="conv", **fields)
    expected = logits_of(weights.model, without_boosters(weights.variables))
    folded = logits_of(*unfold(weights.model, fold_batchnorm(weights.model, weights.variables)))
    assert np.std(expected) > 0.5
    np.testing.assert_allclose(folded, expected, atol=1e-4, rtol=0)


def test_one_layer_by_hand(random_weights):
    weights = random_weights("paper", conv_bias=True)
    folded = fold_batchnorm(weights.model, weights.variables)
    layer = weights.variables["params"]["detail_branch"]["s1_1"]
    statistics = weights.variables["batch_stats"]["detail_branch"]["s1_1"]["bn"]
    x = np.random.default_rng(0).normal(size=(3, 3, 3)).astype(np.float32)
    y = np.einsum("hwi,hwio->o", x, layer["conv"]["kernel"]) + layer["conv"]["bias"]
    expected = (y - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
    expected = expected * layer["bn"]["scale"] + layer["bn"]["bias"]
    kernel, bias = folded.convolutions["detail_branch/s1_1"]
    assert kernel.dtype == bias.dtype == np.float32
    np.testing.assert_allclose(np.einsum("hwi,hwio->o", x, kernel) + bias, expected, rtol=1e-5)


def test_what_is_left(random_weights):
    weights = random_weights("mmseg")
    folded = fold_batchnorm(weights.model, weights.variables)
    # The pooled vector's batch norm follows no convolution.
    assert set(folded.scale_shifts) == {"semantic_branch/context_embedding/bn"}
    assert not [path for path in folded.convolutions if path.startswith("booster")]
    assert not [path for path in folded.convolutions if path.endswith(("/conv", "/bn"))][1:]
    assert "head/classifier" in folded.convolutions and "head/conv" in folded.convolutions
