"""Scores for people and for scripts: a table on the terminal, a JSON file on the disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bisenet_jax.data.classes import ClassSet

if TYPE_CHECKING:  # for the annotations only: a report can be read and written without jax
    from bisenet_jax.evaluation.metrics import Scores

COLUMN = 9


def score_table(
    scores: Scores, class_set: ClassSet, *, title: str = "", notes: Sequence[str] = ()
) -> str:
    """The scores as an aligned plain-text table; a class that is nowhere has '-'.

    Args:
        title: first line, such as the data set, split and checkpoint.
        notes: further lines under the title, such as the protocol.
    """
    _check_classes(scores, class_set)
    counted = int(np.count_nonzero(~np.isnan(scores.class_iou)))
    totals = {
        f"mIoU ({counted} of {len(class_set)} classes)": scores.miou,
        "pixel accuracy": scores.pixel_accuracy,
        "mean accuracy": scores.mean_accuracy,
    }
    name_width = max(len(name) for name in (*class_set.names, *totals))
    rule = "-" * (name_width + 2 * COLUMN)

    lines = [line for line in (title, *notes) if line]
    lines += [""] if lines else []
    lines += [f"{'class':<{name_width}}{'IoU %':>{COLUMN}}{'truth %':>{COLUMN}}", rule]
    for name, iou, pixels in zip(
        class_set.names, scores.class_iou, scores.class_pixels, strict=True
    ):
        share = "-" if math.isnan(iou) else f"{100 * pixels / scores.pixels:.2f}"
        lines.append(f"{name:<{name_width}}{_percent(iou):>{COLUMN}}{share:>{COLUMN}}")
    lines.append(rule)
    lines += [
        f"{name:<{name_width}}{_percent(value):>{COLUMN}}" for name, value in totals.items()
    ]
    return "\n".join(lines)


def score_summary(
    scores: Scores,
    class_set: ClassSet,
    *,
    images: int,
    split: str,
    protocol: str,
    ignored: int | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """The scores as a dictionary ready for JSON: fractions in 0..1, None where there is none.

    Args:
        images: how many images were scored.
        split: their split, such as "val".
        protocol: how they were scored, in a few words.
        ignored: pixels left out, where the caller counted them.
        extra: further entries, such as the checkpoint; they may not replace one of ours.
    """
    _check_classes(scores, class_set)
    summary = {
        "miou": scores.miou,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "class_iou": dict(zip(class_set.names, scores.class_iou, strict=True)),
        "class_accuracy": dict(zip(class_set.names, scores.class_accuracy, strict=True)),
        "classes": class_set.name,
        "images": images,
        "pixels": scores.pixels,
        "ignored": ignored,
        "split": split,
        "protocol": protocol,
    }
    if taken := sorted(summary.keys() & extra.keys()):
        raise ValueError(f"entries {taken} of the summary are taken; rename them")
    return _plain(summary | extra)


def _check_classes(scores: Scores, class_set: ClassSet) -> None:
    if len(scores.class_iou) != len(class_set):
        raise ValueError(
            f"scores of {len(scores.class_iou)} classes do not fit the {len(class_set)} "
            f"classes of {class_set.name!r}"
        )


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
