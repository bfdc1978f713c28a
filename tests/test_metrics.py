"""Scores against counts by hand and against a plain loop; one device against two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bisenet_jax.data.class_sets import CLASS_SETS
from bisenet_jax.data.classes import CAMVID, CITYSCAPES, IGNORE
from bisenet_jax.evaluation.metrics import (
    confusion_matrix,
    confusion_matrix_per_image,
    group_confusion,
    scores,
)

N = 5


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    """Labels with ignored pixels and predictions, `[4, 12, 10] uint8`."""
    random = np.random.default_rng(0)
    labels = random.integers(0, N, (4, 12, 10), dtype=np.uint8)
    labels[random.random(labels.shape) < 0.2] = IGNORE
    return labels, random.integers(0, N, labels.shape, dtype=np.uint8)


def count_by_loop(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.zeros((num_classes, num_classes), np.int64)
    for label, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if 0 <= label < num_classes:
            counts[label, prediction] += 1
    return counts


def test_scores_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 255, 255], np.uint8)
    predictions = np.array([0, 0, 0, 1, 1, 1, 2, 2, 0, 0, 1], np.uint8)
    counts = confusion_matrix(labels, predictions, 3)
    np.testing.assert_array_equal(counts, [[3, 1, 0], [0, 2, 1], [1, 0, 1]])
    result = scores(np.asarray(counts))
    np.testing.assert_allclose(result.class_iou, [3 / 5, 2 / 4, 1 / 3], rtol=1e-12)
    np.testing.assert_allclose(result.class_accuracy, [3 / 4, 2 / 3, 1 / 2], rtol=1e-12)
    np.testing.assert_array_equal(result.class_pixels, [4, 3, 2])
    assert result.miou == pytest.approx((3 / 5 + 2 / 4 + 1 / 3) / 3, rel=1e-12)
    assert result.mean_accuracy == pytest.approx((3 / 4 + 2 / 3 + 1 / 2) / 3, rel=1e-12)
    assert result.pixel_accuracy == pytest.approx(6 / 9, rel=1e-12)
    assert result.frequency_weighted_iou == pytest.approx(
        (4 * 3 / 5 + 3 * 2 / 4 + 2 * 1 / 3) / 9, rel=1e-12
    )
    assert result.pixels == 9


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("wrap", [lambda count: count, lambda count: jax.jit(count)])
def test_matrix_equals_loop(maps, dtype, wrap):
    labels, predictions = (array.astype(dtype) for array in maps)
    counts = wrap(lambda a, b: confusion_matrix(a, b, N))(labels, predictions)
    assert counts.shape == (N, N) and counts.dtype == jnp.int32
    np.testing.assert_array_equal(counts, count_by_loop(labels, predictions, N))


def test_many_classes_do_not_overflow_uint8():
    labels = np.arange(200, dtype=np.uint8)
    counts = confusion_matrix(labels, labels[::-1], 200)
    np.testing.assert_array_equal(counts, np.eye(200)[::-1])


# The last one times N is 4 past 2^32: cell 4 again in int32.
@pytest.mark.parametrize("outside", [-1, -2, N, N + 1, 255, -(2**31), (2**32 + 4) // N])
def test_truth_outside_the_classes_is_left_out(outside):
    labels = np.array([[0, outside], [outside, 2]], np.int32)
    predictions = np.array([[0, 1], [0, 3]], np.int32)
    expected = np.zeros((N, N))
    expected[0, 0] = expected[2, 3] = 1
    np.testing.assert_array_equal(confusion_matrix(labels, predictions, N), expected)


def test_prediction_outside_the_classes_lands_in_no_other_cell():
    counts = confusion_matrix(np.array([0, 1, 1]), np.array([1, N, -1]), N)
    assert counts[0, 1] == 1 and counts.sum() == 1


def test_sum_over_images_equals_whole(maps):
    labels, predictions = maps
    whole = confusion_matrix(labels, predictions, N)
    parts = [confusion_matrix(a, b, N) for a, b in zip(labels, predictions, strict=True)]
    np.testing.assert_array_equal(sum(parts), whole)
    flat = confusion_matrix(labels.ravel(), predictions.ravel(), N)
    np.testing.assert_array_equal(flat, whole)


def test_each_image_has_its_own_matrix(maps):
    labels, predictions = maps
    per_image = jax.jit(lambda a, b: confusion_matrix_per_image(a, b, N))(labels, predictions)
    assert per_image.shape == (4, N, N) and per_image.dtype == jnp.int32
    for counts, label, prediction in zip(per_image, labels, predictions, strict=True):
        np.testing.assert_array_equal(counts, count_by_loop(label, prediction, N))


@pytest.mark.parametrize("split", [(8,), (1,) * 8, (3, 5), (2, 4, 2)])
def test_scores_equal_those_of_scikit_learn(split):
    random = np.random.default_rng(1)
    count = len(CAMVID)
    labels = random.integers(0, count - 1, (8, 16, 24), dtype=np.uint8)  # bicyclist is absent
    wrong = random.random(labels.shape) < random.random((8, 1, 1))
    predictions = np.where(wrong, random.integers(0, count, labels.shape), labels)
    labels[random.random(labels.shape) < 0.1] = IGNORE

    total = np.zeros((count, count), np.int64)
    for batch in np.split(np.arange(8), np.cumsum(split)[:-1]):
        total += np.asarray(confusion_matrix(labels[batch], predictions[batch], count))
    scored = labels != IGNORE
    pair = labels[scored], predictions[scored]
    ids = range(count)
    np.testing.assert_array_equal(total, sklearn.metrics.confusion_matrix(*pair, labels=ids))

    result = scores(total)
    iou = sklearn.metrics.jaccard_score(*pair, labels=ids, average=None)
    np.testing.assert_allclose(result.class_iou, iou, rtol=1e-12)
    assert result.miou == pytest.approx(iou.mean(), rel=1e-12)
    assert result.pixel_accuracy == pytest.approx(
        sklearn.metrics.accuracy_score(*pair), rel=1e-12
    )
    truth = range(count - 1)
    recall = sklearn.metrics.recall_score(*pair, labels=truth, average=None)
    np.testing.assert_allclose(result.class_accuracy, [*recall, np.nan], rtol=1e-12)
    assert result.mean_accuracy == pytest.approx(recall.mean(), rel=1e-12)
    weighted = sklearn.metrics.jaccard_score(*pair, labels=ids, average="weighted")
    assert result.frequency_weighted_iou == pytest.approx(weighted, rel=1e-12)


def test_groups_equal_labels_merged_beforehand(maps):
    labels, predictions = maps
    merged = np.array([1, 0, 1, 2, 0])
    groups = {"first": (1, 4), "second": [0, 2], "third": (3,)}
    expected = np.zeros((3, 3), np.int64)
    for label, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if label < N:
            expected[merged[label], merged[prediction]] += 1
    grouped = group_confusion(confusion_matrix(labels, predictions, N), groups)
    assert grouped.dtype == np.int64
    np.testing.assert_array_equal(grouped, expected)


@pytest.mark.parametrize("ids", [(0,), (0, 1, 1), (0, 1, 2)])
def test_groups_hold_each_class_once(ids):
    with pytest.raises(ValueError, match="each of the 2 classes once"):
        group_confusion(np.eye(2, dtype=int), {"all": ids})


def test_categories_of_every_class_set_hold_each_class_once():
    assert CITYSCAPES.categories
    for class_set in CLASS_SETS.values():
        if class_set.categories:
            count = len(class_set)
            grouped = group_confusion(np.ones((count, count), int), class_set.categories)
            assert grouped.sum() == count**2
        hash(class_set)  # static arguments of jax need it


def test_two_devices_equal_one(maps):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    batch = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    labels, predictions = (jax.device_put(array, batch) for array in maps)
    assert len(labels.sharding.device_set) == 2
    count = jax.jit(lambda a, b: confusion_matrix(a, b, N), out_shardings=everywhere)
    counts = jax.block_until_ready(count(labels, predictions))
    np.testing.assert_array_equal(counts, count_by_loop(maps[0], maps[1], N))
    for shard in counts.addressable_shards:
        np.testing.assert_array_equal(shard.data, counts)


def test_absent_class_is_nan_and_not_in_the_mean():
    result = scores(np.array([[4, 0, 0], [0, 0, 0], [2, 0, 2]]))
    np.testing.assert_allclose(result.class_iou, [4 / 6, np.nan, 2 / 4])
    assert result.miou == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert result.mean_accuracy == pytest.approx((1 + 2 / 4) / 2)


def test_class_only_predicted_counts_as_zero():
    result = scores(np.array([[3, 1], [0, 0]]))
    np.testing.assert_allclose(result.class_iou, [3 / 4, 0])
    np.testing.assert_allclose(result.class_accuracy, [3 / 4, np.nan])
    assert result.miou == pytest.approx(3 / 8)


def test_all_ignored_is_nan():
    ignored = np.full((2, 3), IGNORE, np.uint8)
    counts = confusion_matrix(ignored, np.zeros_like(ignored), N)
    assert counts.sum() == 0
    result = scores(np.asarray(counts))
    assert result.pixels == 0
    for value in (result.miou, result.mean_accuracy, result.pixel_accuracy, *result.class_iou):
        assert np.isnan(value)


def test_counts_past_int32():
    total = np.zeros((2, 2), np.int64)
    batch = np.array([[2**30, 0], [2**30, 2**30]], np.int32)
    for _ in range(6):
        total += batch
    result = scores(total)
    assert result.pixels == 18 * 2**30
    np.testing.assert_allclose(result.class_iou, [1 / 2, 1 / 2], rtol=1e-12)


def test_int32_sums_are_widened():
    # Each count fits int32 here, their sum does not.
    result = scores(np.full((2, 2), 2**30, np.int32))
    assert result.pixels == 2**32
    np.testing.assert_allclose(result.class_iou, [1 / 3, 1 / 3], rtol=1e-12)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        confusion_matrix(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), N)
    with pytest.raises(ValueError, match="predictions.*float32"):
        confusion_matrix(np.zeros(3, np.uint8), np.zeros(3, np.float32), N)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        scores(np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match="float64"):
        scores(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="-7"):
        scores(np.array([[1, 0], [-7, 1]]))
