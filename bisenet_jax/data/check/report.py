"""A checked data set as a table on the terminal and as JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bisenet_jax.data.check.findings import Findings, Survey, canvas_of
from bisenet_jax.data.classes import IGNORE, ClassSet
from bisenet_jax.data.statistics import Totals, add_up, suggest_class_weights

SHOWN = 10  # errors, warnings and sizes on the terminal; the JSON has all
WEIGHTS_RULE = "1 / ln(1.02 + share) as in ENet, mean 1"


def text_report(
    surveys: Sequence[Survey], class_set: ClassSet, findings: Findings, *, title: str
) -> str:
    """Everything as aligned plain text, what is wrong with the data last."""
    totals = {survey.role: add_up(survey.frames, class_set) for survey in surveys}
    parts = [
        [title],
        *(_describe_split(survey, totals[survey.role], class_set) for survey in surveys),
    ]
    if counted := {role: each for role, each in totals.items() if each.images}:
        parts.append(_class_table(counted, class_set))
    lines = [f"  {line}" for line in flag_lines(surveys, class_set)]
    if lines:
        parts.append(["train, to be pasted:", *lines])
    for kind, messages in (("error", findings.errors), ("warning", findings.warnings)):
        if messages:
            parts.append([_counted(len(messages), kind) + ":", *_first_lines(messages)])
    if not findings.errors and not findings.warnings:
        parts.append(["nothing is wrong"])
    return "\n\n".join("\n".join(part) for part in parts)


def json_report(
    surveys: Sequence[Survey], class_set: ClassSet, findings: Findings
) -> dict[str, Any]:
    """Everything as a dictionary ready for JSON; None where there is no number."""
    return {
        "classes": class_set.name,
        "splits": {
            survey.role: _split_summary(survey, add_up(survey.frames, class_set), class_set)
            for survey in surveys
        },
        "flags": flag_lines(surveys, class_set),
        "class_weights_rule": WEIGHTS_RULE,
        "errors": findings.errors,
        "warnings": findings.warnings,
    }


def flag_lines(surveys: Sequence[Survey], class_set: ClassSet) -> list[str]:
    """Flags that fit the training frames, quoted for a shell; none without such frames."""
    train = next((each for each in surveys if each.role == "train" and each.frames), None)
    if train is None:
        return []
    totals = add_up(train.frames, class_set)
    lines = [_flag("data.mean", totals.mean)]
    if totals.std.all():
        lines.append(_flag("data.std", totals.std))
    lines.append(_flag("loss.class_weights", suggest_class_weights(totals.class_pixels)))
    if canvas := canvas_of(train):
        lines.append(
            f"--config.data.canvas_height={canvas[0]} --config.data.canvas_width={canvas[1]}"
        )
    return lines


def _flag(key: str, values: np.ndarray) -> str:
    return f'"--config.{key}=({", ".join(f"{value:.4f}" for value in values)})"'


def _describe_split(survey: Survey, totals: Totals, class_set: ClassSet) -> list[str]:
    sizes = [
        f"{width}x{height}" + (f" ({count})" if count < totals.images else "")
        for (height, width), count in survey.sizes().most_common()
    ]
    more = [f"and {len(sizes) - SHOWN} more"] if len(sizes) > SHOWN else []
    name = "" if survey.split == survey.role else f" ({survey.split})"
    lines = [f"{survey.role}{name}: {_counted(survey.images, 'image')}, {totals.images} sound"]
    if not totals.images:
        return lines
    lines += [
        f"  sizes    {', '.join(sizes[:SHOWN] + more)}",
        f"  ids      {_ranges(_ids(survey))} found, 0-{len(class_set) - 1} expected, "
        f"{IGNORE} is ignored",
        f"  ignored  {_percent(totals.ignored, totals.pixels)} % of pixels",
        f"  mean     {_numbers(totals.mean)}  (red, green, blue of 0 to 1, exact)",
        f"  std      {_numbers(totals.std)}",
    ]
    return lines


def _class_table(totals: dict[str, Totals], class_set: ClassSet) -> list[str]:
    width = max(len("class"), *(len(name) for name in class_set.names))
    weights = None
    if "train" in totals:
        weights = suggest_class_weights(totals["train"].class_pixels)
    head = f"{'id':>3} {'class':<{width}}"
    for role in totals:
        head += f"{role + ' pixels':>16}{'%':>8}{'images':>8}"
    head += "" if weights is None else f"{'weight':>9}"
    lines = [head, "-" * len(head)]
    for class_id, name in enumerate(class_set.names):
        line = f"{class_id:>3} {name:<{width}}"
        for each in totals.values():
            pixels = int(each.class_pixels[class_id])
            share = _percent(pixels, int(each.class_pixels.sum()))
            line += f"{pixels:>16,}{share:>8}{each.class_images[class_id]:>8}"
        lines.append(line + ("" if weights is None else f"{weights[class_id]:>9.4f}"))
    rule = "" if weights is None else f"; weight: {WEIGHTS_RULE}"
    return [*lines, "-" * len(head), f"%: of labelled pixels{rule}"]


def _split_summary(survey: Survey, totals: Totals, class_set: ClassSet) -> dict[str, Any]:
    weights = suggest_class_weights(totals.class_pixels)
    counts = totals.class_pixels.tolist(), totals.class_images.tolist(), weights.tolist()
    has_pixels = totals.pixels > 0
    return {
        "split": survey.split,
        "images": survey.images,
        "sound_images": totals.images,
        "sizes": [
            {"height": height, "width": width, "images": count}
            for (height, width), count in survey.sizes().most_common()
        ],
        "ids": _ids(survey),
        "pixels": totals.pixels,
        "ignored_pixels": totals.ignored,
        "mean": totals.mean.tolist() if has_pixels else None,
        "std": totals.std.tolist() if has_pixels else None,
        "class_statistics": {
            name: {"pixels": pixels, "images": images, "weight": weight}
            for name, pixels, images, weight in zip(class_set.names, *counts, strict=True)
        },
        "errors": survey.errors,
    }


def _ids(survey: Survey) -> list[int]:
    return sorted({label_id for frame in survey.frames for label_id in frame.label_pixels})


def _ranges(ids: Sequence[int]) -> str:
    """Ascending numbers in words: 0-3, 5, 255."""
    runs: list[list[int]] = []
    for each in ids:
        if runs and each == runs[-1][-1] + 1:
            runs[-1].append(each)
        else:
            runs.append([each])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _first_lines(messages: Sequence[str]) -> list[str]:
    lines = [f"  {message}" for message in messages[:SHOWN]]
    if len(messages) > SHOWN:
        lines.append(f"  and {len(messages) - SHOWN} more; --json FILE lists all")
    return lines


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else "-"


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.4f}" for value in values)
