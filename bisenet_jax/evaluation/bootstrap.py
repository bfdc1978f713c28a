"""How far mIoU would move with other images of the same kind: a bootstrap interval.

Images are drawn with replacement, as many as there are, and mIoU is computed anew; the interval
holds the middle of the results (percentile bootstrap). It speaks of the choice of images only,
not of another training run.

IoU is a ratio of sums over images, so that two numbers per image and class are all that has to
be kept, not a confusion matrix: 8 bytes, or 7 MB for 5000 images of 171 classes.
"""

from dataclasses import dataclass

import numpy as np

from bisenet_jax.evaluation.metrics import mean_of_present, ratio

# Resamples weighed at once; the memory is this times images and this times classes.
_CHUNK = 100


@dataclass(frozen=True)
class Interval:
    """`low..high` holds the share `level` of the resamples; nan with fewer than two images."""

    low: float
    high: float
    level: float
    resamples: int


def image_counts(confusions: np.ndarray) -> np.ndarray:
    """Hits and unions of each class, `[B, 2, N] int32`, of the `[B, N, N]` of B images."""
    confusions = np.asarray(confusions)
    hits = np.diagonal(confusions, axis1=1, axis2=2)
    unions = confusions.sum(axis=1) + confusions.sum(axis=2) - hits
    return np.stack([hits, unions], axis=1).astype(np.int32)


def bootstrap_miou(
    counts: np.ndarray, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Interval:
    """The interval of mIoU over images; the same for the same counts and seed.

    In each resample the mean is over the classes that occur in it, as in `metrics.scores`.

    Args:
        counts: `[I, 2, N]` integer, `image_counts` of all images.
        seed: of the draws.
        resamples: how many.
        level: share of the resamples within the interval.
    """
    counts = np.asarray(counts)
    if counts.ndim != 3 or counts.shape[1] != 2:
        raise ValueError(f"counts must be [images, 2, classes], not {counts.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level {level} must lie between 0 and 1")
    if resamples < 1:
        raise ValueError(f"resamples {resamples} must be at least 1")
    images, _, num_classes = counts.shape
    if images < 2:
        return Interval(float("nan"), float("nan"), level, resamples)
    random = np.random.default_rng(seed)
    # Sums of integers below 2^53 are exact in float64, in whatever order they are added.
    flat = counts.reshape(images, -1).astype(np.float64)
    mious = []
    for start in range(0, resamples, _CHUNK):
        weights = np.stack(
            [
                np.bincount(random.integers(images, size=images), minlength=images)
                for _ in range(min(_CHUNK, resamples - start))
            ]
        )
        sums = (weights.astype(np.float64) @ flat).reshape(-1, 2, num_classes)
        mious.append(mean_of_present(ratio(sums[:, 0], sums[:, 1])))
    drawn = np.concatenate(mious)
    drawn = drawn[~np.isnan(drawn)]
    if not drawn.size:
        return Interval(float("nan"), float("nan"), level, resamples)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, resamples)
