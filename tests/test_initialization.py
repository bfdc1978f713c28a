"""Kernels drawn at once: the formula's deviations, nothing shared; the rest as in the model."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax.model.initialization import initialize, kaiming_deviation, kaiming_normal
from bisenet_jax.model.presets import build_model

IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
MODEL = build_model(
    "coincheung",
    num_classes=3,
    detail_channels=(8, 8, 16),
    semantic_late_channels=(8, 16),
    semantic_repeats=(1, 1, 1),
    head_channels=8,
    booster_channels=(4, 4, 4, 4),
    initialization="fan_out",
)


class Small(nn.Module):
    """A wide and a depth-wise convolution, with all that a network may hold beside them."""

    initialization: str

    @nn.compact
    def __call__(self, images: jax.Array, *, is_training: bool) -> jax.Array:
        init = kaiming_normal(self.initialization)
        x = nn.Conv(40, (3, 3), kernel_init=init, name="wide")(images)
        x = nn.BatchNorm(use_running_average=not is_training, name="bn")(x)
        x = nn.Dropout(0.5, deterministic=not is_training, name="dropout")(x)
        x = nn.Conv(400, (3, 3), feature_group_count=40, kernel_init=init, name="grouped")(x)
        return nn.Conv(60, (1, 1), kernel_init=init, name="narrow")(x)


SMALL_FANS = {  # by hand: window * output channels, window * input channels of a group
    "wide": {"fan_out": 9 * 40, "fan_in": 9 * 3},
    "grouped": {"fan_out": 9 * 400, "fan_in": 9 * 1},
    "narrow": {"fan_out": 60, "fan_in": 400},
}


def named(tree) -> dict:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def init_as_flax_does():
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return MODEL.init(keys, jnp.zeros(IMAGES.shape), is_training=True)


@pytest.fixture(scope="module")
def variables():
    return initialize(MODEL, jax.random.key(0), IMAGES)


@pytest.fixture(scope="module")
def kernels(variables) -> dict[str, np.ndarray]:
    leaves = named(variables).items()
    return {name: np.asarray(leaf) for name, leaf in leaves if name.endswith("kernel")}


def test_tree_is_that_of_the_model(variables):
    expected = jax.eval_shape(init_as_flax_does)
    assert jax.tree.structure(variables) == jax.tree.structure(expected)
    actual_leaves = named(variables)
    for name, leaf in named(expected).items():
        actual = actual_leaves[name]
        assert (actual.shape, actual.dtype) == (leaf.shape, leaf.dtype), name
        assert np.isfinite(actual).all(), name


def test_all_but_kernels_equal_the_model(variables):
    def without_kernels():
        leaves = named(init_as_flax_does())
        return {name: leaf for name, leaf in leaves.items() if not name.endswith("kernel")}

    expected = jax.jit(without_kernels)()
    # This preset zeroes the last batch norm of its expansion layers.
    assert {float(value) for leaf in expected.values() for value in leaf.ravel()} == {0, 1}
    assert any(name.endswith("scale") and not leaf.any() for name, leaf in expected.items())
    for name, leaf in expected.items():
        np.testing.assert_array_equal(named(variables)[name], leaf, err_msg=name)


def test_every_kernel_has_its_deviation_and_mean_zero(kernels):
    assert len(kernels) > 40
    for name, kernel in kernels.items():
        height, width, _, outputs = kernel.shape
        deviation = math.sqrt(2 / (height * width * outputs))
        root_mean_square = math.sqrt(np.square(kernel).mean())
        # Five times the sampling error.
        assert abs(root_mean_square / deviation - 1) < 5 / math.sqrt(2 * kernel.size), name
        assert abs(kernel.mean()) < 5 * deviation / math.sqrt(kernel.size), name


def test_no_two_kernels_share_numbers(kernels):
    normals = [
        kernel.ravel() / math.sqrt(2 / math.prod((*kernel.shape[:2], kernel.shape[3])))
        for kernel in kernels.values()
    ]
    # Single numbers may meet by chance, three in a row do not.
    triples = [
        tuple(flat[i : i + 3].round(4)) for flat in normals for i in range(flat.size - 2)
    ]
    assert len(set(triples)) == len(triples) > 10_000


@pytest.mark.parametrize("mode", ["fan_out", "fan_in"])
def test_both_modes(mode):
    params = initialize(Small(mode), jax.random.key(3), IMAGES)["params"]
    for layer, fans in SMALL_FANS.items():
        kernel = np.asarray(params[layer]["kernel"], np.float64)
        expected = math.sqrt(2 / fans[mode])
        assert kaiming_deviation(kernel.shape, mode) == pytest.approx(expected, rel=1e-12)
        assert kernel.std() == pytest.approx(expected, rel=4 / math.sqrt(2 * kernel.size))
        # Normal, not uniform or truncated: a third lies beyond one deviation, 5 % beyond two.
        size = np.abs(kernel) / expected
        tolerance = 4 / math.sqrt(kernel.size)
        assert (size > 1).mean() == pytest.approx(0.3173, abs=0.4659 * tolerance)
        assert (size > 2).mean() == pytest.approx(0.0455, abs=0.2084 * tolerance)
        alone = kaiming_normal(mode)(jax.random.key(5), kernel.shape)
        assert alone.dtype == jnp.float32
        assert float(alone.std()) == pytest.approx(kernel.std(), rel=4 / math.sqrt(kernel.size))


def test_key_decides():
    first, again, other = (
        initialize(Small("fan_out"), jax.random.key(seed), IMAGES) for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for name, leaf in named(first).items():
        assert np.array_equal(leaf, named(other)[name]) != name.endswith("kernel"), name


def test_size_of_the_images_does_not_matter():
    small, large = (
        initialize(Small("fan_in"), jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
        for shape in ((1, 8, 8, 3), (2, 24, 16, 3))
    )
    jax.tree.map(np.testing.assert_array_equal, small, large)
