"""Inference: labels of any picture, and no trace of a booster."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax.inference import (
    LOGITS_STRIDE,
    make_label_function,
    predict_labels,
    predict_logits,
)
from bisenet_jax.model.bisenetv2 import BOOSTER_NAMES, BiSeNetV2, without_boosters
from bisenet_jax.normalization import Normalization
from bisenet_jax.resize import resize, upsample

MODEL = BiSeNetV2(
    num_classes=7,
    detail_channels=(8, 8, 16),
    semantic_ratio=0.5,
    semantic_late_channels=(8, 16),
    semantic_repeats=(1, 1, 1),
    expansion=2,
    head_channels=8,
    booster_channels=(4, 4, 4, 4),
)
NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
# Compiling is most of what these tests cost; the program runs once.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def random_images(*shape):
    return np.random.default_rng(5).integers(0, 256, (*shape, 3), np.uint8)


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        partial(MODEL.init, is_training=True), jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape) * 0.3
        if path[-1].key == "kernel":
            values /= 0.3 * np.sqrt(np.prod(leaf.shape[:3]) / 2)
        elif path[-1].key in ("scale", "var"):
            values = np.abs(values) + 0.5
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def infer():
    """Labels and logits of one program per size."""

    def both(variables, images):
        return (
            predict_labels(MODEL, variables, images, NORMALIZATION),
            predict_logits(MODEL, variables, images, NORMALIZATION),
        )

    return jit(both)


@pytest.fixture(scope="module")
def apply():
    """The bare network, one program per size."""
    return jit(partial(MODEL.apply, is_training=False))


def test_labels_are_the_best_of_the_enlarged_logits(variables, infer, apply):
    images = random_images(2, 64, 96)
    labels, logits = infer(variables, images)
    # A multiple of 32: no padding, and so nothing but the network itself.
    inputs = (images / 255 - NORMALIZATION.mean) / NORMALIZATION.std
    outputs = apply(variables, jnp.asarray(inputs, jnp.float32))
    expected = upsample(outputs.logits, LOGITS_STRIDE)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert labels.dtype == jnp.uint8 and labels.shape == (2, 64, 96)
    np.testing.assert_array_equal(labels, logits.argmax(axis=-1))
    assert len(np.unique(labels)) > 3, "labels of one colour prove little"


def test_batch_of_two_is_two_of_one(variables, infer):
    images = random_images(2, 64, 96)
    _, together = infer(variables, images)
    for image, logits in zip(images, together, strict=True):
        _, alone = infer(variables, image[None])
        np.testing.assert_allclose(alone[0], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("height, width", [(97, 131), (1, 1)])
def test_any_size(height, width, variables, infer, apply):
    images = random_images(1, height, width)
    labels, logits = infer(variables, images)
    assert labels.shape == (1, height, width)
    assert logits.shape == (1, height, width, 7) and np.isfinite(logits).all()
    # Padding by hand with the mean colour, which normalisation turns into zeros.
    inputs = np.zeros((1, -(-height // 32) * 32, -(-width // 32) * 32, 3), np.float32)
    inputs[:, :height, :width] = (images / 255 - NORMALIZATION.mean) / NORMALIZATION.std
    outputs = apply(variables, jnp.asarray(inputs))
    expected = upsample(outputs.logits, LOGITS_STRIDE)[:, :height, :width]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "input_scale, seen, stride", [(2.0, (96, 128), 4), (4.0, (192, 256), 2)]
)
def test_what_is_seen_enlarged_has_its_logits_closer(
    input_scale, seen, stride, variables, apply
):
    images = random_images(1, 41, 61)

    def both(variables, images):
        arguments = MODEL, variables, images, NORMALIZATION, input_scale
        return predict_labels(*arguments), predict_logits(*arguments)

    labels, logits = jit(both)(variables, images)
    inputs = (images / 255 - NORMALIZATION.mean) / NORMALIZATION.std
    height, width = (round(size * input_scale) for size in images.shape[1:3])
    scaled = resize(jnp.asarray(inputs, jnp.float32), height, width)
    padded = jnp.zeros((1, *seen, 3)).at[:, :height, :width].set(scaled)
    expected = upsample(apply(variables, padded).logits, stride)[:, :41, :61]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(labels, logits.argmax(axis=-1))
    _, plain = jit(lambda *a: (None, predict_logits(MODEL, *a, NORMALIZATION)))(
        variables, images
    )
    assert np.abs(plain - logits).max() > 0.1


def test_label_function(variables, infer):
    images = random_images(2, 64, 96)
    labels = make_label_function(MODEL, variables, NORMALIZATION)(images)
    expected, logits = infer(variables, images)
    best = np.sort(logits, axis=-1)
    # Two programs may round differently where two classes are as good as equal.
    is_clear = best[..., -1] - best[..., -2] > 1e-3
    assert is_clear.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(labels)[is_clear], np.asarray(expected)[is_clear])


def test_boosters_are_left_behind_and_change_nothing(variables, infer):
    pruned = without_boosters(variables)
    assert set(variables["params"]) - set(pruned["params"]) == set(BOOSTER_NAMES)
    assert set(variables["batch_stats"]) - set(pruned["batch_stats"]) == set(BOOSTER_NAMES)
    infer_shapes = jax.eval_shape(
        lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), is_training=False)
    )
    assert jax.tree.map(jnp.shape, pruned) == jax.tree.map(jnp.shape, infer_shapes)
    images = random_images(2, 64, 96)
    for one, other in zip(infer(variables, images), infer(pruned, images), strict=True):
        np.testing.assert_array_equal(one, other)


def test_program_has_no_booster(variables):
    images = random_images(1, 64, 96)

    def label(variables, images):
        return predict_labels(MODEL, variables, images, NORMALIZATION)

    def train(variables, images):
        return MODEL.apply(variables, images, is_training=True, mutable=["batch_stats"])

    def text(function, *inputs):
        return jax.jit(function).lower(*inputs).as_text(debug_info=True)

    # Operations carry the names of their modules: the training program shows that the search
    # finds a booster where there is one, the name of the head that names are there at all.
    training = text(train, variables, jnp.zeros((1, 64, 96, 3)))
    pruned = without_boosters(variables)
    inference = text(label, pruned, images)
    assert all(name in training for name in BOOSTER_NAMES)
    assert "head/classifier" in inference
    assert not any(name in inference for name in BOOSTER_NAMES)
    compiled = jit(label).lower(pruned, images).compile().as_text()
    assert "head/classifier" in compiled
    assert not any(name in compiled for name in BOOSTER_NAMES)

    # Every input of the program is read, and the inputs are the variables and the images.
    jaxpr = jax.make_jaxpr(label)(pruned, images).jaxpr
    leaves = len(jax.tree.leaves(pruned))
    assert len(jaxpr.invars) == leaves + 1
    read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
    assert all(id(variable) in read for variable in jaxpr.invars)
    assert leaves < len(jax.tree.leaves(variables))


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((1, 32, 32, 3), np.float32), "type float32 but expected .*uint8"),
        (np.zeros((1, 32, 32, 3), np.int32), "type int32 but expected .*uint8"),
        (np.zeros((32, 32, 3), np.uint8), "rank 3 .* but expected 4"),
    ],
)
def test_wrong_images(images, message, variables):
    with pytest.raises(AssertionError, match=message):
        predict_labels(MODEL, variables, images, NORMALIZATION)


def test_normalization():
    pixels = np.array([[[0, 128, 255]]], np.uint8)
    expected = (pixels / 255 - NORMALIZATION.mean) / NORMALIZATION.std
    result = NORMALIZATION.normalize(jnp.asarray(pixels))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
