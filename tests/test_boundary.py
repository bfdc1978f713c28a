"""Boundary F1 against a brute-force count, and the rules one by one."""

import math

import numpy as np
import pytest

from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.evaluation.boundary import (
    TOLERANCE,
    BoundaryCounts,
    boundary_scores,
    count_boundaries,
)

SIDE = 40  # its diagonal is 56.6 pixels
TWO_PIXELS = 2.5 / (SIDE * math.sqrt(2))


def brute_boundary(ids: np.ndarray, void: np.ndarray, class_id: int) -> list[tuple[int, int]]:
    height, width = ids.shape
    found = []
    for row, column in zip(*np.nonzero((ids == class_id) & ~void), strict=True):
        for near_row, near_column in (
            *((row - 1, column), (row + 1, column)),
            *((row, column - 1), (row, column + 1)),
        ):
            inside = 0 <= near_row < height and 0 <= near_column < width
            if inside and not void[near_row, near_column]:
                if ids[near_row, near_column] != class_id:
                    found.append((row, column))
                    break
    return found


def brute_f1(
    labels: np.ndarray, predictions: np.ndarray, class_id: int, reach: float
) -> float | None:
    """F1 of one class in one image; None where it has no boundary."""
    void = labels == IGNORE
    truth = brute_boundary(labels, void, class_id)
    found = brute_boundary(predictions, void, class_id)

    def share(points: list, others: list) -> float:
        if not points:
            return 0.0
        return np.mean([any(math.dist(a, b) < reach for b in others) for a in points])

    if not truth and not found:
        return None
    precision, recall = share(found, truth), share(truth, found)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def square(left: int, class_id: int = 1) -> np.ndarray:
    """A square of 10 pixels on class 0."""
    ids = np.zeros((SIDE, SIDE), np.uint8)
    ids[10:20, left : left + 10] = class_id
    return ids


@pytest.mark.parametrize("tolerance", [TOLERANCE, 0.03])
def test_counts_equal_brute_force(tolerance):
    random = np.random.default_rng(0)
    expected = [[] for _ in range(19)]
    counts = BoundaryCounts.none(19)
    for index in range(3):
        _, labels = draw_street(2, index, 64, 64)
        predictions = np.roll(labels, (1, -1), axis=(0, 1))
        predictions[random.random(labels.shape) < 0.01] = 3
        predictions[predictions == IGNORE] = 8
        labels[:5, :30] = IGNORE
        counts += count_boundaries(labels, predictions, 19, tolerance=tolerance)
        for class_id in range(19):
            reach = tolerance * math.hypot(64, 64)
            f1 = brute_f1(labels, predictions, class_id, reach)
            if f1 is not None:
                expected[class_id].append(f1)
    np.testing.assert_array_equal(counts.images, [len(values) for values in expected])
    np.testing.assert_allclose(counts.f1, [sum(values) for values in expected], rtol=1e-12)
    assert len({len(values) for values in expected}) > 1
    result = boundary_scores(counts)
    means = [np.mean(values) if values else np.nan for values in expected]
    np.testing.assert_allclose(result.class_f1, means, rtol=1e-12)
    assert result.mean_f1 == pytest.approx(np.nanmean(means), rel=1e-12)


def test_shift_within_the_tolerance_is_perfect():
    near, far = square(12), square(14)
    assert boundary_scores(
        count_boundaries(square(10), near, 2, tolerance=TWO_PIXELS)
    ).class_f1.tolist() == [1, 1]
    assert (
        boundary_scores(count_boundaries(square(10), far, 2, tolerance=TWO_PIXELS)).mean_f1 < 1
    )


def test_a_point_at_the_tolerance_is_too_far():
    labels, predictions = np.zeros((3, 40), np.uint8), np.zeros((3, 40), np.uint8)
    labels[:, 20:], predictions[:, 23:] = 1, 1
    diagonal = math.hypot(3, 40)
    for reach, expected in ((3.0, 0), (3.0001, 1)):
        counts = count_boundaries(labels, predictions, 2, tolerance=reach / diagonal)
        np.testing.assert_array_equal(counts.f1, [expected, expected])


def test_class_of_one_side_only_is_all_wrong():
    counts = count_boundaries(square(10, 1), square(10, 2), 4, tolerance=TWO_PIXELS)
    np.testing.assert_array_equal(counts.images, [1, 1, 1, 0])
    np.testing.assert_array_equal(counts.f1, [1, 0, 0, 0])
    result = boundary_scores(counts)
    np.testing.assert_array_equal(result.class_f1, [1, 0, 0, np.nan])
    assert result.mean_f1 == pytest.approx(1 / 3)


def test_nothing_counts_on_ignored_pixels_or_at_their_edge():
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[5:25, 5:25] = IGNORE
    counts = count_boundaries(labels, square(10), 2)
    assert not counts.images.any()
    assert np.isnan(boundary_scores(counts).mean_f1)
    # What is seen of the prediction beside the ignored part does count.
    assert count_boundaries(labels, square(18), 2).images.all()


def test_bad_input_is_named():
    ids = square(10)
    with pytest.raises(ValueError, match=r"\(40, 40\).*\(1, 40, 40\)"):
        count_boundaries(ids, ids[None], 2)
    with pytest.raises(ValueError, match="tolerance 0"):
        count_boundaries(ids, ids, 2, tolerance=0)
