"""Instance-weighted IoU of Cityscapes (iIoU): objects count alike, however near they stand.

`count_instances` looks at one image, the counts of all images are added up, and
`instance_scores` reads iIoU from the sum as cityscapesScripts does. An object adds its share of
hit pixels times the average size of its class, so that the hits of a small one weigh more than
its pixels. False positives belong to no object and are counted in plain pixels, which is why
iIoU needs the confusion matrix too, and why it is comparable on frames of 2048x1024 only: the
average sizes are pixels of those. Crowds, regions of several objects that the truth does not
tell apart, are no objects: what is hit of them counts nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bisenet_jax.data.cityscapes.labels import LABEL_IDS
from bisenet_jax.data.classes import CITYSCAPES
from bisenet_jax.errors import DataError
from bisenet_jax.evaluation.metrics import mean_of_present, ratio

NUM_LABEL_IDS = 34
# Mean pixels of an object (cityscapesScripts, evalPixelLevelSemanticLabeling.py). Classes that
# are not named have no objects.
AVERAGE_SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}

_CATEGORIES = list(CITYSCAPES.categories.values())
_NUM_CLASSES = len(CITYSCAPES)
_SIZES = np.array([AVERAGE_SIZES.get(name, 0.0) for name in CITYSCAPES.names])
_HAS_INSTANCES = _SIZES > 0
# Only a category all of whose classes have objects has a score.
_SCORED_CATEGORIES = np.array([_HAS_INSTANCES[list(ids)].all() for ids in _CATEGORIES])
_NO_CLASS = -1
# Train id of each label id, and of one behind the last.
_TRAIN_IDS = np.full(NUM_LABEL_IDS + 1, _NO_CLASS)
_TRAIN_IDS[list(LABEL_IDS)] = np.arange(_NUM_CLASSES)
# Category of each uint8 train id.
_CATEGORY_IDS = np.full(256, _NO_CLASS)
for _category, _members in enumerate(_CATEGORIES):
    _CATEGORY_IDS[list(_members)] = _category


@dataclass(frozen=True, eq=False)
class InstanceCounts:
    """Sums over the objects of each class; counts of several images add up with `+`."""

    instances: np.ndarray  # [19] int64, how many
    hits: np.ndarray  # [19] float64, their shares of pixels predicted as the class
    category_hits: np.ndarray  # [19] float64, their shares predicted as any of the category

    @classmethod
    def none(cls) -> InstanceCounts:
        """Where a sum starts."""
        return cls(np.zeros(_NUM_CLASSES, np.int64), *np.zeros((2, _NUM_CLASSES)))

    def __add__(self, other: InstanceCounts) -> InstanceCounts:
        return InstanceCounts(
            self.instances + other.instances,
            self.hits + other.hits,
            self.category_hits + other.category_hits,
        )


@dataclass(frozen=True, eq=False)
class InstanceScores:
    """iIoU within 0..1; nan for what has no objects and for what was nowhere."""

    class_iou: np.ndarray  # [19] float64
    category_iou: np.ndarray  # [7] float64, in the order of CITYSCAPES.categories
    mean_class_iou: float  # mean of class_iou without nan
    mean_category_iou: float  # mean of category_iou without nan


def read_instances(root: str | Path, split: str, name: str) -> np.ndarray:
    """The instance ids of one Cityscapes frame, `[H, W] int32`, from the extracted gtFine.

    Args:
        root: the folder that holds gtFine/.
        split: train or val.
        name: such as `aachen_000000_000019`.
    """
    city = name.partition("_")[0]
    path = Path(root) / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png"
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return np.asarray(image, np.int32)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); --instances must be the folder that holds "
            "gtFine/ with the *_instanceIds.png files"
        ) from error


def count_instances(predictions: np.ndarray, instances: np.ndarray) -> InstanceCounts:
    """The objects of one image.

    Args:
        predictions: `[H, W] uint8` train ids. Others than 0 to 18 hit nothing.
        instances: `[H, W]` integer, a `*_instanceIds.png`: label id * 1000 + number for the
            pixels of an object, the bare label id for all others.

    Raises:
        DataError: an id in `instances` belongs to no object of Cityscapes.
    """
    if predictions.shape != instances.shape or predictions.dtype != np.uint8:
        raise ValueError(
            f"predictions {predictions.shape} {predictions.dtype} must be uint8 and of the "
            f"shape of instances, {instances.shape}"
        )
    if not np.issubdtype(instances.dtype, np.integer):
        raise ValueError(f"instances must hold integer ids, not {instances.dtype}")
    is_object = instances >= 1000
    ids, predicted = instances[is_object].astype(np.int64), predictions[is_object]
    sizes = np.bincount(ids)
    found = np.flatnonzero(sizes)
    classes = _classes_of(found)
    found, classes = found[classes != _NO_CLASS], classes[classes != _NO_CLASS]

    pixel_classes = _TRAIN_IDS[ids // 1000]
    is_hit = predicted == pixel_classes
    is_category_hit = _CATEGORY_IDS[predicted] == _CATEGORY_IDS[pixel_classes]
    shares = [
        np.bincount(ids[hit], minlength=len(sizes))[found] / sizes[found]
        for hit in (is_hit, is_category_hit)
    ]
    return InstanceCounts(
        np.bincount(classes, minlength=_NUM_CLASSES),
        *(np.bincount(classes, weights=share, minlength=_NUM_CLASSES) for share in shares),
    )


def instance_scores(counts: InstanceCounts, confusion: np.ndarray) -> InstanceScores:
    """iIoU of the summed counts and the summed confusion `[19, 19]` of the same images."""
    confusion = np.asarray(confusion)
    if confusion.shape != (_NUM_CLASSES, _NUM_CLASSES):
        raise ValueError(
            f"confusion matrix {confusion.shape} must be that of the {_NUM_CLASSES} classes of "
            "Cityscapes"
        )
    total = counts.instances * _SIZES
    false_positives = confusion.sum(axis=0, dtype=np.int64) - np.diagonal(confusion)
    class_iou = ratio(counts.hits * _SIZES, total + false_positives)
    class_iou[~_HAS_INSTANCES] = np.nan

    category_iou = np.full(len(_CATEGORIES), np.nan)
    for category in np.flatnonzero(_SCORED_CATEGORIES):
        inside = np.array(_CATEGORIES[category])
        outside = np.setdiff1d(np.arange(_NUM_CLASSES), inside)
        mistaken = confusion[np.ix_(outside, inside)].sum(dtype=np.int64)
        hits = (counts.category_hits * _SIZES)[inside].sum()
        category_iou[category] = ratio(hits, total[inside].sum() + mistaken)
    return InstanceScores(
        class_iou=class_iou,
        category_iou=category_iou,
        mean_class_iou=float(mean_of_present(class_iou)),
        mean_category_iou=float(mean_of_present(category_iou)),
    )


def _classes_of(ids: np.ndarray) -> np.ndarray:
    """Train ids of instance ids, `_NO_CLASS` for labels that are not scored."""
    labels = ids // 1000
    train_ids = _TRAIN_IDS[np.minimum(labels, NUM_LABEL_IDS)]
    is_stuff = (train_ids != _NO_CLASS) & ~_HAS_INSTANCES[train_ids]
    if (wrong := ids[is_stuff | (labels >= NUM_LABEL_IDS)]).size:
        raise DataError(
            f"instance id {wrong[0]} names an object of label {wrong[0] // 1000}, but of the "
            f"scored labels only {[LABEL_IDS[i] for i in np.flatnonzero(_HAS_INSTANCES)]} have "
            "objects; use the *_instanceIds.png files of Cityscapes"
        )
    return train_ids
