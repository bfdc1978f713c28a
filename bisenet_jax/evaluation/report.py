"""Scores for people and for scripts: a table on the terminal, a JSON file on the disk."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bisenet_jax.config import STRIDE
from bisenet_jax.data.classes import ClassSet

if TYPE_CHECKING:  # for the annotations only: a report can be read and written without jax
    from bisenet_jax.evaluation.bootstrap import Interval
    from bisenet_jax.evaluation.boundary import BoundaryScores
    from bisenet_jax.evaluation.instances import InstanceScores
    from bisenet_jax.evaluation.metrics import Scores

COLUMN = 9
# The built-in streets show Cityscapes' classes, and are not Cityscapes.
DATA_SETS = {
    "synthetic": "synthetic streets",
    "folder": "own folder",
    "cityscapes": "Cityscapes",
    "camvid": "CamVid",
    "coco_stuff": "COCO-Stuff",
}


def score_table(
    scores: Scores,
    class_set: ClassSet,
    *,
    title: str = "",
    notes: Sequence[str] = (),
    categories: Scores | None = None,
    instances: InstanceScores | None = None,
    boundary: BoundaryScores | None = None,
    interval: Interval | None = None,
) -> str:
    """The scores as an aligned plain-text table; a class that is nowhere has '-'.

    Args:
        title: first line, such as the data set, split and checkpoint.
        notes: further lines under the title, such as the protocol.
        categories: scores of the confusion matrix grouped by `class_set.categories`.
        instances: a column iIoU.
        boundary: a column BF1.
        interval: of mIoU.
    """
    _check_classes(scores, class_set)
    _check_categories(categories, class_set)
    heads = ["IoU %", "truth %"]
    class_columns = [_percents(scores.class_iou), _truth_shares(scores)]
    mean_columns = [_percent(scores.miou), ""]
    category_columns, category_means = [], []
    if categories:
        category_columns = [_percents(categories.class_iou), _truth_shares(categories)]
        category_means = [_percent(categories.miou), ""]
    if instances:
        heads.append("iIoU %")
        class_columns.append(_percents(instances.class_iou))
        mean_columns.append(_percent(instances.mean_class_iou))
        category_columns.append(_percents(instances.category_iou))
        category_means.append(_percent(instances.mean_category_iou))
    if boundary:
        heads.append("BF1 %")
        class_columns.append(_percents(boundary.class_f1))
        mean_columns.append(_percent(boundary.mean_f1))

    totals = {f"mIoU ({_count_present(scores)} of {len(class_set)} classes)": mean_columns}
    if interval:
        name = f"mIoU, {100 * interval.level:g} % interval"
        totals[name] = [_percent(interval.low), _percent(interval.high)]
    totals["pixel accuracy"] = [_percent(scores.pixel_accuracy)]
    totals["mean accuracy"] = [_percent(scores.mean_accuracy)]
    totals["frequency-weighted IoU"] = [_percent(scores.frequency_weighted_iou)]
    blocks = [
        {"class": heads},
        dict(zip(class_set.names, zip(*class_columns, strict=True), strict=True)),
        totals,
    ]
    if categories:
        count = f"{_count_present(categories)} of {len(class_set.categories)} categories"
        blocks += [
            dict(zip(class_set.categories, zip(*category_columns, strict=True), strict=True)),
            {f"mIoU ({count})": category_means},
        ]

    name_width = max(len(name) for block in blocks for name in block)
    rule = "-" * (name_width + len(heads) * COLUMN)
    lines = [line for line in (title, *notes) if line]
    lines += [""] if lines else []
    for number, block in enumerate(blocks):
        lines += [rule] if number else []
        for name, cells in block.items():
            row = f"{name:<{name_width}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)
            lines.append(row.rstrip())
    return "\n".join(lines)


def score_summary(
    scores: Scores,
    class_set: ClassSet,
    *,
    images: int,
    split: str,
    protocol: str,
    ignored: int | None = None,
    categories: Scores | None = None,
    instances: InstanceScores | None = None,
    boundary: BoundaryScores | None = None,
    interval: Interval | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """The scores as a dictionary ready for JSON: fractions in 0..1, None where there is none.

    Args:
        images: how many images were scored.
        split: their split, such as "val".
        protocol: how they were scored, in a few words.
        ignored: pixels left out, where the caller counted them.
        categories, instances, boundary, interval: as in `score_table`; no entry without them.
        extra: further entries, such as the checkpoint; they may not replace one of ours.
    """
    _check_classes(scores, class_set)
    _check_categories(categories, class_set)
    names = class_set.names
    summary = {
        "miou": scores.miou,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "frequency_weighted_iou": scores.frequency_weighted_iou,
        "class_iou": dict(zip(names, scores.class_iou, strict=True)),
        "class_accuracy": dict(zip(names, scores.class_accuracy, strict=True)),
        "classes": class_set.name,
        "images": images,
        "pixels": scores.pixels,
        "ignored": ignored,
        "split": split,
        "protocol": protocol,
    }
    if interval:
        summary["miou_interval"] = dataclasses.asdict(interval)
    if categories:
        category_iou = dict(zip(class_set.categories, categories.class_iou, strict=True))
        summary |= {"category_miou": categories.miou, "category_iou": category_iou}
    if instances:
        category_iiou = dict(zip(class_set.categories, instances.category_iou, strict=True))
        summary |= {
            "miiou": instances.mean_class_iou,
            "class_iiou": dict(zip(names, instances.class_iou, strict=True)),
            "category_miiou": instances.mean_category_iou,
            "category_iiou": category_iiou,
        }
    if boundary:
        summary |= {
            "boundary_f1": boundary.mean_f1,
            "class_boundary_f1": dict(zip(names, boundary.class_f1, strict=True)),
        }
    if taken := sorted(summary.keys() & extra.keys()):
        raise ValueError(f"entries {taken} of the summary are taken; rename them")
    return _plain(summary | extra)


def protocol_line(
    data: str,
    sizes: Mapping[tuple[int, int], int],
    *,
    protocol: str,
    classes: int,
    bucket: int,
    dtype: str,
) -> str:
    """One line that says how the numbers came about, to be pasted beside them.

    Args:
        data: data set and split.
        sizes: of the images, `(height, width)` to their number.
        protocol: in words.
        classes: how many.
        bucket: sizes were rounded up to multiples of it.
        dtype: of the activations.
    """
    common = sorted(sizes, key=lambda size: -sizes[size])[:3]
    listed = ", ".join(f"{width}x{height}" for height, width in common)
    others = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
    padded = f", padded to multiples of {bucket}" if bucket > STRIDE else ""
    return (
        f"{data}, {sum(sizes.values())} images of {listed}{others}, {classes} classes, "
        f"{protocol}{padded}, {dtype}, labels never resized, one confusion matrix"
    )


def _check_classes(scores: Scores, class_set: ClassSet) -> None:
    if len(scores.class_iou) != len(class_set):
        raise ValueError(
            f"scores of {len(scores.class_iou)} classes do not fit the {len(class_set)} "
            f"classes of {class_set.name!r}"
        )


def _check_categories(categories: Scores | None, class_set: ClassSet) -> None:
    if categories and len(categories.class_iou) != len(class_set.categories):
        raise ValueError(
            f"scores of {len(categories.class_iou)} categories do not fit the "
            f"{len(class_set.categories)} of {class_set.name!r}"
        )


def _count_present(scores: Scores) -> int:
    return int(np.count_nonzero(~np.isnan(scores.class_iou)))


def _truth_shares(scores: Scores) -> list[str]:
    return [
        "-" if math.isnan(iou) else _percent(pixels / scores.pixels)
        for iou, pixels in zip(scores.class_iou, scores.class_pixels, strict=True)
    ]


def _percents(fractions: np.ndarray) -> list[str]:
    return [_percent(fraction) for fraction in fractions]


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def _plain(value: Any) -> Any:
    """Numpy values as Python's own, nan as None, all the way down."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
