"""Protocols against plain loops in numpy, with a network that is a formula."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax.errors import ConfigError
from bisenet_jax.evaluation.views import slide, view_probabilities, window_starts
from bisenet_jax.protocol import Protocol, protocol_of_scale
from bisenet_jax.resize import resize

WEIGHTS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def network(inputs: jax.Array) -> jax.Array:
    """Logits that depend on the pixel, its left neighbour, its row and the picture's mean."""
    left = jnp.roll(inputs, 1, axis=2).at[:, :, 0].set(0)
    rows = jnp.arange(inputs.shape[1]).reshape(1, -1, 1, 1) / 10
    mean = inputs.mean(axis=(1, 2), keepdims=True)
    return jnp.einsum("bhwc,cn->bhwn", inputs + 0.5 * left - mean + rows, WEIGHTS)


def plain_network(image: np.ndarray) -> np.ndarray:
    left = np.roll(image, 1, axis=1)
    left[:, 0] = 0
    rows = np.arange(len(image)).reshape(-1, 1, 1) / 10
    return (image + 0.5 * left - image.mean(axis=(0, 1)) + rows) @ WEIGHTS


def plain_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    out = np.zeros((height, width, image.shape[-1]))
    for row, column in itertools.product(range(height), range(width)):
        y = min(max((row + 0.5) * len(image) / height - 0.5, 0), len(image) - 1)
        x = min(max((column + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, len(image) - 1), min(left + 1, image.shape[1] - 1)
        upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
        lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
        out[row, column] = upper * (1 - y + top) + lower * (y - top)
    return out


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def plain_slide(image: np.ndarray, crop, stride) -> np.ndarray:
    height, width = image.shape[:2]
    rows, columns = max(height, crop[0]), max(width, crop[1])
    padded = np.zeros((rows, columns, 3), np.float32)
    padded[:height, :width] = image
    total, count = np.zeros((rows, columns, 4)), np.zeros((rows, columns, 1))
    top = 0
    while True:
        top = min(top, rows - crop[0])
        left = 0
        while True:
            left = min(left, columns - crop[1])
            window = np.s_[top : top + crop[0], left : left + crop[1]]
            total[window] += softmax(plain_network(padded[window]))
            count[window] += 1
            if left + crop[1] == columns:
                break
            left += stride[1]
        if top + crop[0] == rows:
            break
        top += stride[0]
    assert (count > 0).all()
    return (total / count)[:height, :width]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, 11, 14, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(11, 14), (5, 7), (22, 28), (17, 9), (1, 1)])
def test_resize(images, size):
    for image, resized in zip(images, resize(jnp.asarray(images), *size), strict=True):
        np.testing.assert_allclose(resized, plain_resize(image, *size), atol=1e-5)


def test_halving_is_the_mean_of_two_by_two():
    image = np.random.default_rng(2).normal(size=(1, 8, 6, 2)).astype(np.float32)
    means = image.reshape(1, 4, 2, 3, 2, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(resize(jnp.asarray(image), 4, 3), means, atol=1e-6)


@pytest.mark.parametrize(
    "name, scales", [("half", (1.0,)), ("double", (1.0,)), ("full", (0.5, 1.0, 1.75))]
)
@pytest.mark.parametrize("flips", [False, True])
def test_views(images, name, scales, flips):
    protocol = Protocol(name, scales, flips)
    result = view_probabilities(network, jnp.asarray(images), protocol)
    base = {"full": 1.0, "half": 0.5, "double": 2.0}[name]
    for image, probabilities in zip(images, result, strict=True):
        height, width = image.shape[:2]
        expected = []
        for scale in scales:
            view = plain_resize(
                image, round(height * base * scale), round(width * base * scale)
            )
            expected.append(softmax(plain_resize(plain_network(view), height, width)))
            if flips:
                mirrored = plain_resize(plain_network(view[:, ::-1]), height, width)
                expected.append(softmax(mirrored)[:, ::-1])
        np.testing.assert_allclose(probabilities, np.mean(expected, axis=0), atol=2e-5)
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "crop, stride", [((4, 6), (3, 4)), ((4, 6), (4, 6)), ((11, 14), (1, 1)), ((16, 5), (2, 5))]
)
def test_sliding_window(images, crop, stride):
    result = slide(network, jnp.asarray(images), crop, stride)
    for image, probabilities in zip(images, result, strict=True):
        expected = plain_slide(image, crop, stride)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_sliding_over_scales_and_mirrored(images):
    protocol = Protocol(scales=(1.0, 1.5), flips=True, crop=(6, 6), stride=(4, 5))
    result = view_probabilities(network, jnp.asarray(images), protocol)
    for image, probabilities in zip(images, result, strict=True):
        expected = []
        for scale in (1.0, 1.5):
            view = plain_resize(image, round(11 * scale), round(14 * scale)).astype(np.float32)
            expected.append(plain_resize(plain_slide(view, (6, 6), (4, 5)), 11, 14))
            mirrored = plain_slide(view[:, ::-1].copy(), (6, 6), (4, 5))
            expected.append(plain_resize(mirrored, 11, 14)[:, ::-1])
        np.testing.assert_allclose(probabilities, np.mean(expected, axis=0), atol=3e-5)


@pytest.mark.parametrize("size", [5, 8, 13])
@pytest.mark.parametrize("crop", [1, 4, 5])
@pytest.mark.parametrize("stride", [1, 3])
def test_windows_cover_every_pixel(size, crop, stride):
    stride = min(stride, crop)
    starts = list(window_starts(size, crop, stride))
    covered = {start + offset for start in starts for offset in range(crop)}
    assert covered == set(range(size)) and len(set(starts)) == len(starts)


def test_words():
    assert str(Protocol()) == (
        "protocol full (network input at full size, logits back to full size), single scale, "
        "no flip"
    )
    assert str(Protocol("half", (1.5,))) == (
        "protocol half (network input at 1.5 times half size, logits back to full size), "
        "single scale, no flip"
    )
    words = str(Protocol("half", (0.5, 1.0), True, (64, 128), (32, 64)))
    assert "protocol half (network input at half size" in words
    assert words.endswith(
        "scales 0.5, 1, mirrored as well, sliding window 128x64, stride 64x32"
    )


@pytest.mark.parametrize("scale, name", [(1.0, "full"), (0.5, "half"), (2.0, "double")])
def test_how_large_a_network_sees_pictures_is_its_protocol(scale, name):
    assert protocol_of_scale(scale) == Protocol(name)
    assert protocol_of_scale(1.25).factors == (1.25,)
    assert "at 1.25 times full size" in str(protocol_of_scale(1.25))


@pytest.mark.parametrize(
    "fields, complaint",
    [
        (
            {"name": "quarter"},
            r"protocol 'quarter' is not known; choose from \['full', 'half', 'double'",
        ),
        ({"scales": ()}, r"scales \(\) must be above 0"),
        ({"scales": (1.0, 0.0)}, "must be above 0"),
        ({"crop": (4, 4)}, "needs both, its size and its stride"),
        ({"crop": (4, 4), "stride": (4, 5)}, "stride 5 must be from 1 to the window's 4"),
    ],
)
def test_rules(fields, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Protocol(**fields)
