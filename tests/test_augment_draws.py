"""What is drawn for a view, read off the pixels themselves."""

import math
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from views_by_loop import (
    PLAIN,
    SCALES,
    STILL,
    drawn_view,
    grey_of,
    jitter_by_hand,
    random_frames,
    rulers,
    views,
    whole,
)

from bisenet_jax.data.classes import IGNORE
from bisenet_jax.training.augment import augment


def test_keys_decide_and_each_frame_draws_its_own():
    images, labels = (np.repeat(array, 8, axis=0) for array in random_frames(1, 64, 80))
    config = replace(STILL, scales=SCALES, flip_probability=0.5, brightness=0.2)
    first, again, other = (views(images, labels, config, seed=seed) for seed in (0, 0, 1))
    for index in range(2):
        np.testing.assert_array_equal(first[index], again[index])
        assert not np.array_equal(first[index], other[index])
    assert len({view.tobytes() for view in first[0]}) == 8
    assert len({view.tobytes() for view in first[1]}) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"scales": (1.25,)},
        {"flip_probability": 1.0},
        {"brightness": 0.4},
        {"contrast": 0.4},
        {"saturation": 0.4},
        {"scale_range": (1.1, 1.9)},
    ],
    ids=str,
)
def test_each_option_changes_the_view(change):
    images, labels = random_frames(2, 48, 40)
    before, after = (
        views(images, labels, STILL),
        views(images, labels, replace(STILL, **change)),
    )
    assert not np.isclose(before[0], after[0], atol=0.5).all(axis=(1, 2, 3)).any()
    is_colour = change.keys() & {"brightness", "contrast", "saturation"}
    assert np.array_equal(before[1], after[1]) == bool(is_colour)


def test_scales_and_flips_are_those_asked_for():
    config = replace(STILL, scales=SCALES, flip_probability=0.25)
    pixels, _ = views(*rulers(600, 90, 100), config)
    rows, columns = pixels[:, 16, 16, 0], pixels[:, 16, 16, 1]
    down = pixels[:, 17, 16, 0] - rows
    across = pixels[:, 16, 17, 1] - columns
    np.testing.assert_allclose(down, np.abs(across), atol=1e-3)
    drawn, counts = np.unique((1 / down).round(3), return_counts=True)
    np.testing.assert_array_equal(drawn, SCALES)
    # Five deviations of 600 draws with one chance in six, and one in four.
    assert np.abs(counts - 100).max() < 5 * math.sqrt(600 * 5 / 36), counts
    is_flipped = across < 0
    assert abs(is_flipped.sum() - 150) < 5 * math.sqrt(600 * 3 / 16)
    # Flips know nothing of scales.
    assert all(
        0 < is_flipped[down.round(3) == step].mean() < 0.6 for step in np.unique(down.round(3))
    )


@pytest.mark.parametrize(
    ("size", "scale"),
    [((40, 36), 1.0), ((48, 44), 0.75), ((26, 32), 1.0)],
)
def test_every_place_of_the_crop_occurs(size, scale):
    config = replace(STILL, scales=(scale,))
    pixels, classes = views(*rulers(600, *size), config)
    # Pixel 16 is inside whatever the place.
    place = np.round((pixels[:, 16, 16, :2] + 0.5) * scale - 0.5 - 16).astype(int)
    slack = np.array([round(side * scale) - 32 for side in size])
    low, high = np.minimum(slack, 0), np.maximum(slack, 0)
    for axis in range(2):
        drawn, counts = np.unique(place[:, axis], return_counts=True)
        np.testing.assert_array_equal(drawn, np.arange(low[axis], high[axis] + 1))
        share = 1 / len(drawn)
        assert np.abs(counts - 600 * share).max() <= 5 * math.sqrt(600 * share * (1 - share))
    # Rows and columns draw apart: every pair of places occurs.
    assert len({tuple(pair) for pair in place}) == np.prod(high - low + 1)
    assert (classes == IGNORE).any() == (slack < 0).any()


# Half a pixel remains of 90 * 0.75, 86 * 1.25 and 65 * 0.5.
@pytest.mark.parametrize("size", [(90, 86), (65, 131)])
def test_a_crop_never_leaves_a_larger_frame(size):
    scales = (0.5, 0.75, 0.9, 1.25, 1.5)
    assert min(size) * min(scales) >= 32
    images, labels = (np.repeat(array, 200, axis=0) for array in random_frames(1, *size))
    config = replace(STILL, scales=scales, flip_probability=0.5)
    for scale_range in (None, (0.5, 1.5)):
        _, classes = views(images, labels, replace(config, scale_range=scale_range))
        assert not (classes == IGNORE).any()


def test_any_scale_of_the_range_is_drawn():
    config = replace(STILL, scale_range=(0.5, 2.5), flip_probability=0.0)
    pixels, _ = views(*rulers(600, 90, 100), config)
    drawn = np.sort(1 / (pixels[:, 17, 16, 0] - pixels[:, 16, 16, 0]))
    assert 0.5 <= drawn[0] + 1e-3 and drawn[-1] - 1e-3 <= 2.5
    # Kolmogorov's distance from the uniform distribution: chance exceeds it once in 10^5.
    assert np.abs((drawn - 0.5) / 2 - np.linspace(0, 1, 600)).max() < 2.5 / math.sqrt(600)
    assert len(np.unique(drawn.round(4))) > 500
    fixed, _ = views(*rulers(8, 90, 100), replace(config, scale_range=(1.25, 1.25)))
    asked, _ = views(*rulers(8, 90, 100), replace(STILL, scales=(1.25,)))
    np.testing.assert_array_equal(fixed, asked)


def shares_of(classes: np.ndarray) -> np.ndarray:
    """The share of the largest class of each view among its labelled pixels."""
    counts = np.stack([np.bincount(view.reshape(-1), minlength=256) for view in classes])
    return counts[:, :IGNORE].max(1) / counts[:, :IGNORE].sum(1)


def test_no_class_fills_more_than_its_share():
    labels = np.zeros((200, 96, 96), np.uint8)
    labels[:, :48, :48], labels[:, :8] = np.arange(48)[:, None] // 16 + 1, IGNORE
    images = np.zeros((*labels.shape, 3), np.uint8)
    _, free = views(images, labels, STILL)
    _, limited = views(images, labels, replace(STILL, class_share_limit=0.7))
    # Counted on every eighth pixel, so nearly.
    assert (shares_of(free) > 0.85).mean() > 0.4
    assert (shares_of(limited) > 0.85).mean() < 0.05
    # What was drawn first by luck is kept, and shares below the limit still differ.
    assert shares_of(limited).std() > 0.02


def test_ignored_pixels_have_no_share():
    # Class 1 fills a third of the left half, but all that is labelled there.
    labels = np.where(np.random.default_rng(0).random((64, 96)) < 1 / 3, 1, IGNORE)
    labels[:, 48:] = np.arange(64)[:, None] // 8
    images, labels = np.zeros((200, 64, 96, 3), np.uint8), np.uint8(labels)[None].repeat(200, 0)
    _, free = views(images, labels, STILL)
    _, limited = views(images, labels, replace(STILL, class_share_limit=0.5))
    assert (shares_of(free) > 0.9).mean() > 0.2
    assert (shares_of(limited) > 0.9).mean() == 0


@pytest.mark.parametrize("only", [5, IGNORE])
def test_after_ten_tries_the_last_one_counts(only):
    images, _ = rulers(4, 90, 100)
    labels = np.full((4, 90, 100), only, np.uint8)
    config = replace(STILL, scale_range=(0.8, 1.5), class_share_limit=0.5)
    pixels, classes = views(images, labels, config)
    assert (classes == only).all()
    for pixel, key in zip(pixels, jax.random.split(jax.random.key(0), 4), strict=True):
        view = drawn_view(jax.random.split(key, 5)[:4], labels[0], config)
        np.testing.assert_allclose(pixel[16, 16, :2], view.source(16, 16), atol=1e-3)


def test_without_a_limit_nothing_is_counted():
    frames = random_frames(2, 64, 64)

    def program(limit: float) -> str:
        config = replace(STILL, class_share_limit=limit)
        run = partial(augment, config=config, normalization=PLAIN)
        return str(jax.make_jaxpr(run)(jax.random.key(0), *frames, whole(frames[0])))

    assert "scatter" in program(0.99) and "scatter" not in program(1.0)


def factor_of(after: np.ndarray, before: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The one factor of each frame by which its distance to the base has changed."""
    axes = (1, 2, 3)
    factor = ((after - base) * (before - base)).sum(axes) / np.square(before - base).sum(axes)
    shaped = factor[:, None, None, None]
    np.testing.assert_allclose(after, shaped * (before - base) + base, atol=0.01)
    return factor


def test_jitter_is_brightness_then_contrast_then_saturation():
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    random = np.random.default_rng(0)
    labels = np.zeros((64, 32, 32), np.uint8)
    # Alone, and far from the ends of the range, each shows its factor.
    images = random.integers(70, 150, (64, 32, 32, 3), dtype=np.uint8)
    grey = grey_of(images)
    base = {"brightness": 0.0, "contrast": grey.mean((1, 2, 3), keepdims=True)}
    factors = {}
    for name in strengths:
        after, _ = views(images, labels, replace(STILL, **{name: 0.4}))
        factors[name] = factor_of(after, images, base.get(name, grey))
        assert 0.6 <= factors[name].min() < 0.65 and 1.35 < factors[name].max() <= 1.4
    # Each frame and each change has a factor of its own.
    assert len(np.unique(np.concatenate(list(factors.values())).round(5))) > 180
    # The same key draws the same factors for all three together.
    images = random.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    after, _ = views(images, labels, replace(STILL, **strengths))
    brightness, contrast, saturation = (
        factor[:, None, None, None] for factor in factors.values()
    )
    expected = jitter_by_hand(images, brightness, contrast, saturation)
    np.testing.assert_allclose(after, expected, atol=0.02)


def test_jitter_keeps_the_range():
    images, labels = random_frames(16, 32, 32)
    images[:, :16] = images[:, :16] // 128 * 255
    strong = replace(STILL, brightness=1.0, contrast=1.0, saturation=1.0)
    pixels, _ = views(images, labels, strong)
    assert pixels.min() == 0 and 254 < pixels.max() <= 255
    assert np.isfinite(pixels).all()
