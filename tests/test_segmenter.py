"""What a person holds: pictures of any size in, labels out, and words that help."""

import dataclasses
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import bisenet_jax
from bisenet_jax.errors import ConfigError, DataError, WeightsError
from bisenet_jax.evaluation.views import predict_by_protocol
from bisenet_jax.inference import predict_logits
from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.pictures import overlay
from bisenet_jax.protocol import protocol_of_scale
from bisenet_jax.segmenter import Segmenter
from bisenet_jax.weights import write_weights

RANDOM = np.random.default_rng(1)
IMAGES = RANDOM.integers(0, 256, (2, 40, 70, 3), np.uint8)


@pytest.fixture(scope="module")
def path(tiny_weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    write_weights(path, tiny_weights)
    return path


@pytest.fixture(scope="module")
def segmenter(path):
    return bisenet_jax.load(path)


@pytest.fixture(scope="module")
def expected_logits(tiny_weights):
    """Straight from the network as it was before it went through a file."""
    weights = tiny_weights
    return np.asarray(
        jax.jit(predict_logits, static_argnums=(0, 3))(
            weights.model, weights.variables, IMAGES, weights.normalization
        )
    )


def test_predictions_are_those_of_the_network(segmenter, expected_logits):
    logits, labels = segmenter.logits(IMAGES), segmenter.predict(IMAGES)
    assert isinstance(logits, np.ndarray) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-4)
    assert isinstance(labels, np.ndarray) and labels.dtype == np.uint8
    assert labels.shape == (2, 40, 70)
    best = np.sort(expected_logits, axis=-1)
    is_clear = best[..., -1] - best[..., -2] > 1e-3
    assert is_clear.mean() > 0.99
    np.testing.assert_array_equal(labels[is_clear], expected_logits.argmax(-1)[is_clear])


def test_a_file_holds_one_checkpoint(path):
    with pytest.raises(ConfigError, match="checkpoint 'latest' is of a train.py run; .* holds"):
        bisenet_jax.load(path, checkpoint="latest")


def test_one_picture_or_several(segmenter):
    one = segmenter.predict(IMAGES[1])
    assert one.shape == (40, 70)
    assert (one == segmenter.predict(IMAGES)[1]).mean() > 0.99
    assert segmenter.logits(IMAGES[1]).shape == (40, 70, 11)
    np.testing.assert_array_equal(segmenter.start(IMAGES), segmenter.predict(IMAGES))


def test_normalization_of_the_file_is_used(segmenter, tiny_weights):
    other = dataclasses.replace(
        tiny_weights, normalization=tiny_weights.normalization._replace(mean=(0.1, 0.1, 0.1))
    )
    assert segmenter.normalization == tiny_weights.normalization
    assert not np.allclose(Segmenter(other).logits(IMAGES), segmenter.logits(IMAGES), atol=1e-2)


@pytest.mark.parametrize("input_scale", [0.5, 1.25, 2.0])
def test_input_scale_of_the_file_is_used_and_is_the_protocol(
    input_scale, segmenter, tiny_weights
):
    scaled = Segmenter(tiny_weights.with_input_scale(input_scale))
    labels = scaled.predict(IMAGES)
    assert labels.shape == (2, 40, 70) and (labels != segmenter.predict(IMAGES)).any()
    expected = predict_by_protocol(
        tiny_weights.model,
        without_boosters(tiny_weights.variables),
        IMAGES,
        np.full((2, 2), (40, 70), np.int32),
        tiny_weights.normalization,
        protocol_of_scale(input_scale),
    )
    # Of nearly equal scores the fast network may rank two classes otherwise.
    assert (labels == np.asarray(expected)).mean() > 0.999
    assert (scaled.logits(IMAGES).argmax(-1) == labels).mean() > 0.999


def test_overlay(segmenter):
    expected = overlay(IMAGES[0], segmenter.predict(IMAGES[0]), segmenter.class_set)
    np.testing.assert_array_equal(segmenter.overlay(IMAGES[0]), expected)
    sky = np.zeros((40, 70), np.uint8)
    np.testing.assert_array_equal(
        segmenter.overlay(IMAGES[0], sky), overlay(IMAGES[0], sky, segmenter.class_set)
    )
    with pytest.raises(DataError, match="one picture"):
        segmenter.overlay(IMAGES)


def test_it_says_what_it_is(segmenter, path):
    about = segmenter.description
    assert segmenter.class_set.name == about["class_set"] == "camvid"
    assert about["preset"] == "coincheung" and about["dtype"] == "float32"
    assert about["miou"] == 0.5 and about["protocol"] == "whole images"
    assert about["step"] == 6 and len(about["content_hash"]) == 64
    counted = re.search(r"([\d,]+) parameters", repr(segmenter)).group(1)
    assert int(counted.replace(",", "")) == about["parameters"] > 1000
    assert "mIoU 50.00 % on val, step 6" in repr(segmenter) and str(path) in repr(segmenter)


def test_weights_without_a_score_say_so(tiny_weights):
    bare = Segmenter(dataclasses.replace(tiny_weights, score=None, step=None))
    assert "not scored, from memory" in repr(bare)
    assert bare.description["miou"] is None and bare.description["content_hash"] is None


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES / 255, r"float64 \[2, 40, 70, 3\], must be a uint8 array"),
        (IMAGES.astype(np.int32), "int32"),
        ([[1, 2, 3]], "images are list"),
        (IMAGES[0, ..., 0], r"\[40, 70\], must be \[H, W, 3\]"),
        (IMAGES[None], r"\[1, 2, 40, 70, 3\], must be"),
        (IMAGES[..., :1], "grey picture three times"),
        (IMAGES[:0], "not empty"),
    ],
)
def test_wrong_images(segmenter, images, message):
    for function in (segmenter.predict, segmenter.logits, segmenter.start):
        with pytest.raises(DataError, match=message):
            function(images)


def test_nothing_there(tmp_path):
    with pytest.raises(WeightsError, match="does not exist; give a weights file"):
        bisenet_jax.load(tmp_path / "nowhere")


def test_importing_the_package_is_light():
    code = "import bisenet_jax, sys; print({'jax', 'flax', 'numpy'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()" and bisenet_jax.load.__doc__


def test_a_size_compiled_before_is_not_compiled_again(tiny_weights, caplog):
    segmenter = Segmenter(tiny_weights)
    segmenter.compile(32, 64, batch=2)

    def compilations(images):
        caplog.clear()
        with jax.log_compiles():
            segmenter.predict(images)
        return [message for message in caplog.messages if "XLA compilation" in message]

    assert not compilations(np.zeros((2, 32, 64, 3), np.uint8))
    assert compilations(np.zeros((1, 32, 64, 3), np.uint8))
