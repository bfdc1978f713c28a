"""iIoU by hand; the whole of it is held to cityscapesScripts in test_referee."""

import numpy as np
import pytest

from bisenet_jax.data.classes import CITYSCAPES
from bisenet_jax.errors import DataError
from bisenet_jax.evaluation.instances import (
    AVERAGE_SIZES,
    InstanceCounts,
    count_instances,
    instance_scores,
)

ROAD, PERSON, RIDER, CAR = (
    CITYSCAPES.names.index(name) for name in ("road", "person", "rider", "car")
)


@pytest.fixture
def frame() -> tuple[np.ndarray, np.ndarray]:
    """Persons of 4 pixels (2 hit, 1 called rider) and of 1 (hit), a crowd of 2 (hit), road."""
    instances = np.array([[24001] * 4 + [24002] + [24] * 2 + [7] * 3], np.int32)
    predictions = np.array(
        [[PERSON, PERSON, RIDER, ROAD, PERSON, PERSON, PERSON, ROAD, ROAD, PERSON]], np.uint8
    )
    return predictions, instances


def test_iiou_by_hand(frame):
    predictions, instances = frame
    counts = count_instances(predictions, instances)
    assert counts.instances[PERSON] == 2 and counts.instances.sum() == 2
    assert counts.hits[PERSON] == 2 / 4 + 1 and counts.category_hits[PERSON] == 3 / 4 + 1

    confusion = np.zeros((19, 19), np.int64)
    confusion[PERSON, [PERSON, RIDER, ROAD]] = 5, 1, 1
    confusion[ROAD, [ROAD, PERSON]] = 2, 1
    result = instance_scores(counts, confusion)
    size = AVERAGE_SIZES["person"]
    assert result.class_iou[PERSON] == pytest.approx(1.5 * size / (2 * size + 1), rel=1e-12)
    assert result.class_iou[RIDER] == 0  # predicted once, nowhere in the truth
    assert np.isnan(np.delete(result.class_iou, [PERSON, RIDER])).all()
    assert result.mean_class_iou == pytest.approx(result.class_iou[PERSON] / 2, rel=1e-12)
    human = list(CITYSCAPES.categories).index("human")
    assert result.mean_category_iou == pytest.approx(1.75 * size / (2 * size + 1), rel=1e-12)
    assert result.mean_category_iou == result.category_iou[human]
    assert np.isnan(np.delete(result.category_iou, human)).all()


def test_images_add_up(frame):
    predictions, instances = frame
    parts = [count_instances(predictions, instances), count_instances(predictions, instances)]
    total = sum(parts, start=InstanceCounts.none())
    # The same object numbers in another image are other objects.
    assert total.instances[PERSON] == 4 and total.hits[PERSON] == 3
    assert InstanceCounts.none().instances[PERSON] == 0


def test_objects_that_are_not_scored_count_nowhere(frame):
    predictions, instances = frame
    for label_id in (29, 30, 5):  # caravan, trailer, dynamic
        other = np.where(instances >= 1000, label_id * 1000, instances)
        assert count_instances(predictions, other).instances.sum() == 0
    assert count_instances(predictions, instances // 1000).instances.sum() == 0


def test_a_prediction_of_no_class_is_a_miss(frame):
    predictions, instances = frame
    counts = count_instances(np.full_like(predictions, 255), instances)
    assert counts.instances[PERSON] == 2
    assert counts.hits.sum() == counts.category_hits.sum() == 0


@pytest.mark.parametrize("wrong", [7001, 34000, 255001])
def test_ids_of_another_encoding_are_refused(frame, wrong):
    predictions, instances = frame
    instances[0, -1] = wrong
    with pytest.raises(DataError, match=f"instance id {wrong} .*instanceIds"):
        count_instances(predictions, instances)


def test_bad_input_is_named(frame):
    predictions, instances = frame
    with pytest.raises(ValueError, match="int64"):
        count_instances(predictions.astype(np.int64), instances)
    with pytest.raises(ValueError, match=r"\(10, 1\)"):
        count_instances(predictions, instances.T)
    with pytest.raises(ValueError, match="float64"):
        count_instances(predictions, instances.astype(float))
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        instance_scores(InstanceCounts.none(), np.eye(3, dtype=int))
