"""Scores of a segmentation: one confusion matrix over a whole split, then every number from it.

`confusion_matrix` runs on the device inside the jitted evaluation step. The caller adds up the
matrices on the host in int64 (a full Cityscapes split is past 10^9 pixels) and `scores` reads
IoU and accuracy from the sum, as cityscapesScripts does. A mean of per-image IoU is something
else and is not computed here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


def confusion_matrix(
    labels: jax.Array | np.ndarray, predictions: jax.Array | np.ndarray, num_classes: int
) -> jax.Array:
    """Counts of pixels by truth (row) and prediction (column), `[N, N] int32`.

    Args:
        labels: `[...]` integer class ids; others than `0..N-1` (ignored, padding) are left out.
        predictions: integer class ids of the same shape, each within `0..N-1`. A pixel with
            another prediction has no column and is left out too.
        num_classes: N.
    """
    labels, predictions = jnp.asarray(labels), jnp.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(
            f"labels {labels.shape} and predictions {predictions.shape} must have one shape"
        )
    for name, ids in (("labels", labels), ("predictions", predictions)):
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(f"{name} must hold integer class ids, not {ids.dtype}")
    # Widened first: uint8 would overflow in the cell number.
    rows, columns = labels.astype(jnp.int32), predictions.astype(jnp.int32)
    counted = (rows >= 0) & (rows < num_classes) & (columns >= 0) & (columns < num_classes)
    # Every pixel that does not count goes to one spare cell behind the matrix, cut off below.
    cells = jnp.where(counted, rows * num_classes + columns, num_classes**2)
    # A scatter-add of ones is exact; float32 products of one-hots are not beyond 2^24. Over a
    # batch sharded by devices it becomes one such sum each and a single all-reduce.
    counts = jnp.zeros(num_classes**2 + 1, jnp.int32).at[cells].add(1)
    return counts[:-1].reshape(num_classes, num_classes)


def confusion_matrix_per_image(
    labels: jax.Array | np.ndarray, predictions: jax.Array | np.ndarray, num_classes: int
) -> jax.Array:
    """As `confusion_matrix`, one for each image: `[B, H, W]` ids to `[B, N, N] int32`."""
    return jax.vmap(lambda label, prediction: confusion_matrix(label, prediction, num_classes))(
        jnp.asarray(labels), jnp.asarray(predictions)
    )


def group_confusion(confusion: np.ndarray, groups: Mapping[str, Sequence[int]]) -> np.ndarray:
    """The confusion matrix of groups of classes, `[G, G] int64` in the order of `groups`.

    A pixel taken for another class of its own group is a hit, so that `scores` of the result
    are those that cityscapesScripts prints for categories.

    Args:
        confusion: `[N, N]` integer, row = truth.
        groups: name to class ids; every class must be in one group.
    """
    confusion = np.asarray(confusion)
    members = sorted(class_id for ids in groups.values() for class_id in ids)
    if members != list(range(len(confusion))):
        raise ValueError(
            f"groups hold the classes {members} but must hold each of the {len(confusion)} "
            "classes once"
        )
    membership = np.zeros((len(groups), len(confusion)), np.int64)
    for group, ids in enumerate(groups.values()):
        membership[group, list(ids)] = 1
    return membership @ confusion.astype(np.int64) @ membership.T


@dataclass(frozen=True, eq=False)
class Scores:
    """What a confusion matrix says. Fractions lie in 0..1; nan means that nothing was there."""

    class_iou: np.ndarray  # [N] float64, nan for a class in neither truth nor prediction
    class_accuracy: np.ndarray  # [N] float64, nan for a class that is not in the truth
    class_pixels: np.ndarray  # [N] int64, pixels of the truth
    miou: float  # mean of class_iou without nan
    mean_accuracy: float  # mean of class_accuracy without nan
    pixel_accuracy: float
    frequency_weighted_iou: float  # mean of class_iou weighted by class_pixels
    pixels: int  # all pixels that count


def scores(confusion: np.ndarray) -> Scores:
    """Scores of a summed confusion matrix, `[N, N]` integer, row = truth."""
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion matrix must be square, not of shape {confusion.shape}")
    if not np.issubdtype(confusion.dtype, np.integer):
        raise ValueError(f"confusion matrix must hold integer counts, not {confusion.dtype}")
    if (confusion < 0).any():
        raise ValueError(
            f"confusion matrix holds the negative count {confusion.min()}; "
            "were int32 matrices added up past 2^31?"
        )
    hits = np.diagonal(confusion)
    truth = confusion.sum(axis=1, dtype=np.int64)
    predicted = confusion.sum(axis=0, dtype=np.int64)
    class_iou = ratio(hits, truth + predicted - hits)
    class_accuracy = ratio(hits, truth)
    return Scores(
        class_iou=class_iou,
        class_accuracy=class_accuracy,
        class_pixels=truth,
        miou=float(mean_of_present(class_iou)),
        mean_accuracy=float(mean_of_present(class_accuracy)),
        pixel_accuracy=float(ratio(hits.sum(), truth.sum())),
        # A class without truth has no weight, whether its IoU is 0 or nan.
        frequency_weighted_iou=float(ratio(np.nansum(truth * class_iou), truth.sum())),
        pixels=int(truth.sum()),
    )


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole` in float64, nan where there is no whole, without a warning."""
    nothing = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=nothing, where=np.asarray(whole) > 0)


def mean_of_present(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without nan; nan if nothing is left (np.nanmean would warn)."""
    return ratio(np.nansum(values, axis=-1), np.count_nonzero(~np.isnan(values), axis=-1))
