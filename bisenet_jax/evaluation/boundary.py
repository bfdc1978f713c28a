"""Boundary F1: how well contours lie where they should, whatever area they enclose.

For each image and class, precision is the share of the predicted boundary that is closer than a
tolerance to the true boundary of that class, recall the share of the true boundary that is that
close to the predicted one, and F1 their harmonic mean. A class scores the mean of its F1 over
the images in which it has a boundary in truth or prediction. The measure is that of Csurka et
al. (What is a good evaluation measure for semantic segmentation?, BMVC 2013); its tolerance is
0.75 % of the image diagonal here, 0.8 % in DAVIS (Perazzi et al., CVPR 2016).

A boundary pixel has another class above, below, left or right of it. The edges of the frame and
of what the truth ignores are no boundaries, and no prediction counts on ignored pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bisenet_jax.evaluation.metrics import mean_of_present, ratio

TOLERANCE = 0.0075  # of the image diagonal
_NO_CLASS = -1


@dataclass(frozen=True, eq=False)
class BoundaryCounts:
    """Sums over images for each class; counts of several images add up with `+`."""

    f1: np.ndarray  # [N] float64
    images: np.ndarray  # [N] int64, those in which the class has a boundary

    @classmethod
    def none(cls, num_classes: int) -> BoundaryCounts:
        """Where a sum starts."""
        return cls(np.zeros(num_classes), np.zeros(num_classes, np.int64))

    def __add__(self, other: BoundaryCounts) -> BoundaryCounts:
        return BoundaryCounts(self.f1 + other.f1, self.images + other.images)


@dataclass(frozen=True, eq=False)
class BoundaryScores:
    """Boundary F1 within 0..1; nan for a class without any boundary."""

    class_f1: np.ndarray  # [N] float64
    mean_f1: float  # mean of class_f1 without nan


def count_boundaries(
    labels: np.ndarray,
    predictions: np.ndarray,
    num_classes: int,
    *,
    tolerance: float = TOLERANCE,
) -> BoundaryCounts:
    """Boundary F1 of each class in one image.

    Args:
        labels: `[H, W]` integer class ids; others than `0..N-1` are ignored.
        predictions: `[H, W]` integer class ids within `0..N-1`.
        num_classes: N.
        tolerance: share of the image diagonal.
    """
    if labels.ndim != 2 or labels.shape != predictions.shape:
        raise ValueError(
            f"labels {labels.shape} and predictions {predictions.shape} must be of one [H, W]"
        )
    if not tolerance > 0:
        raise ValueError(f"tolerance {tolerance} must be a positive share of the diagonal")
    counted = (labels >= 0) & (labels < num_classes)
    true_points = _boundary_points(np.where(counted, labels.astype(np.int32), _NO_CLASS))
    points = _boundary_points(np.where(counted, predictions.astype(np.int32), _NO_CLASS))
    reach = tolerance * math.hypot(*labels.shape)

    counts = BoundaryCounts.none(num_classes)
    for class_id in true_points.keys() | points.keys():
        counts.images[class_id] = 1
        # What only one of the two has, is all wrong: F1 stays 0.
        if class_id in true_points and class_id in points:
            precision = _share_within(reach, points[class_id], true_points[class_id])
            recall = _share_within(reach, true_points[class_id], points[class_id])
            if precision + recall > 0:
                counts.f1[class_id] = 2 * precision * recall / (precision + recall)
    return counts


def boundary_scores(counts: BoundaryCounts) -> BoundaryScores:
    """The scores of summed counts."""
    class_f1 = ratio(counts.f1, counts.images)
    return BoundaryScores(class_f1, float(mean_of_present(class_f1)))


def _boundary_points(ids: np.ndarray) -> dict[int, np.ndarray]:
    """Rows and columns `[P, 2]` of the boundary pixels of each class that has any."""
    is_boundary = np.zeros(ids.shape, bool)
    for before, after in (np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:]):
        differs = ids[before] != ids[after]
        differs &= (ids[before] != _NO_CLASS) & (ids[after] != _NO_CLASS)
        is_boundary[before] |= differs
        is_boundary[after] |= differs
    points, classes = np.argwhere(is_boundary), ids[is_boundary]
    return {int(class_id): points[classes == class_id] for class_id in np.unique(classes)}


def _share_within(reach: float, points: np.ndarray, others: np.ndarray) -> float:
    """The share of the points that are closer than `reach` to one of the others."""
    from scipy.spatial import KDTree

    # Boundaries are a few per cent of the pixels, so searching among them is quick: 0.13 s for
    # a 2048x1024 street with 19 classes, where a distance transform per class took 4.1 s.
    distances, _ = KDTree(others).query(points, distance_upper_bound=reach)
    return float(np.mean(distances < reach))
