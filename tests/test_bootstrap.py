"""The interval of mIoU against a plain loop, and what it must and must not depend on."""

import math

import numpy as np
import pytest

from bisenet_jax.evaluation.bootstrap import bootstrap_miou, image_counts
from bisenet_jax.evaluation.metrics import scores

N, IMAGES = 4, 12


@pytest.fixture
def confusions() -> np.ndarray:
    """Images of different quality; class 3 is in the first only, class 2 only predicted."""
    random = np.random.default_rng(0)
    matrices = random.integers(0, 20, (IMAGES, N, N), dtype=np.int32)
    matrices[:, range(N), range(N)] += random.integers(0, 200, (IMAGES, 1), dtype=np.int32)
    matrices[:, 2] = 0
    matrices[1:, 3] = matrices[1:, :, 3] = 0
    return matrices


def test_interval_equals_a_plain_loop(confusions):
    random = np.random.default_rng(5)
    drawn = []
    for _ in range(250):
        chosen = random.integers(IMAGES, size=IMAGES)
        drawn.append(scores(confusions[chosen].sum(axis=0)).miou)
    interval = bootstrap_miou(image_counts(confusions), seed=5, resamples=250, level=0.9)
    low, high = np.quantile(drawn, [0.05, 0.95])
    assert interval.low == pytest.approx(low, rel=1e-12)
    assert interval.high == pytest.approx(high, rel=1e-12)
    assert (interval.level, interval.resamples) == (0.9, 250)


def test_every_choice_changes_the_interval(confusions):
    counts = image_counts(confusions)
    whole = scores(confusions.sum(axis=0)).miou
    default = bootstrap_miou(counts)
    assert default.low < whole < default.high
    assert bootstrap_miou(counts) == default
    assert bootstrap_miou(counts, seed=1) != default
    assert bootstrap_miou(counts, resamples=500).low != default.low
    narrow = bootstrap_miou(counts, level=0.5)
    assert default.low < narrow.low < narrow.high < default.high


def test_more_images_narrow_it(confusions):
    def width(counts: np.ndarray) -> float:
        interval = bootstrap_miou(counts)
        return interval.high - interval.low

    counts = image_counts(confusions[:, :2, :2])
    # 16 times the images, a quarter of the width.
    assert width(np.tile(counts, (16, 1, 1))) == pytest.approx(width(counts) / 4, rel=0.2)


def test_counts_are_hits_and_unions():
    counts = image_counts(np.array([[[3, 1], [0, 2]], [[0, 0], [4, 0]]]))
    assert counts.dtype == np.int32
    np.testing.assert_array_equal(counts, [[[3, 2], [4, 3]], [[0, 0], [4, 4]]])


@pytest.mark.parametrize("images", [0, 1])
def test_fewer_than_two_images_have_none(images):
    interval = bootstrap_miou(np.ones((images, 2, N), np.int32))
    assert math.isnan(interval.low) and math.isnan(interval.high)


def test_nothing_to_score_has_none():
    assert math.isnan(bootstrap_miou(np.zeros((3, 2, N), np.int32)).low)


def test_bad_input_is_named(confusions):
    with pytest.raises(ValueError, match=r"\(12, 4, 4\)"):
        bootstrap_miou(confusions)
    counts = image_counts(confusions)
    with pytest.raises(ValueError, match="level 95"):
        bootstrap_miou(counts, level=95)
    with pytest.raises(ValueError, match="resamples 0"):
        bootstrap_miou(counts, resamples=0)
