"""Some frames of a split on one picture, each beside its labels: what no count can show."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bisenet_jax.data.classes import ClassSet
from bisenet_jax.data.example import Example, Source
from bisenet_jax.drawing import LIGHT, contact_sheet
from bisenet_jax.panels import labelled
from bisenet_jax.pictures import legend

FRAMES = 8
WIDEST = 400  # pixels of a frame on the sheet
LEGEND_EM = 16
MARGIN = 24


def draw_contact_sheet(
    source: Source, indices: Sequence[int], class_set: ClassSet, frames: int = FRAMES
) -> np.ndarray:
    """At most `frames` of the given examples, evenly spread, as `[H, W, 3] uint8`."""
    spread = np.linspace(0, len(indices) - 1, min(frames, len(indices))).round().astype(int)
    cells, present = [], set()
    for index in spread:
        example = _shrink(source[indices[index]])
        cells.append(
            labelled(example["image"], example["label"], class_set, title=example["name"])
        )
        present |= {int(each) for each in np.unique(example["label"]) if each < len(class_set)}
    rows = [_side_by_side(cells[first : first + 2]) for first in range(0, len(cells), 2)]
    if present:
        # However narrow the frames, the longest name has its place.
        needed = LEGEND_EM * (3 + max(map(len, class_set.names)))
        width = max(needed, *(row.shape[1] - 2 * MARGIN for row in rows))
        rows.append(_framed(legend(class_set, width=width, present=present, em=LEGEND_EM)))
    return contact_sheet(rows)


def _shrink(example: Example) -> Example:
    height, width = example["label"].shape
    if width <= WIDEST:
        return example
    size = WIDEST, max(1, round(height * WIDEST / width))
    image = Image.fromarray(example["image"]).resize(size, Image.Resampling.BOX)
    label = Image.fromarray(example["label"]).resize(size, Image.Resampling.NEAREST)
    return {"image": np.asarray(image), "label": np.asarray(label), "name": example["name"]}


def _side_by_side(cells: Sequence[np.ndarray]) -> np.ndarray:
    height = max(len(cell) for cell in cells)
    sheet = np.full((height, sum(c.shape[1] for c in cells), 3), LIGHT.background, np.uint8)
    left = 0
    for cell in cells:
        sheet[: len(cell), left : left + cell.shape[1]] = cell
        left += cell.shape[1]
    return sheet


def _framed(picture: np.ndarray) -> np.ndarray:
    height, width, _ = picture.shape
    framed = np.full((height + 2 * MARGIN, width + 2 * MARGIN, 3), LIGHT.background, np.uint8)
    framed[MARGIN : MARGIN + height, MARGIN : MARGIN + width] = picture
    return framed
