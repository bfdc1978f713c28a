"""Label maps as pictures: colour masks, overlays, legends and side-by-side comparisons.

Every picture is an array `[H, W, 3] uint8`.
"""

from collections.abc import Collection

import numpy as np
from PIL import Image, ImageDraw

from bisenet_jax.data.classes import IGNORE, ClassSet
from bisenet_jax.drawing import (
    DARK,
    LIGHT,
    SMALLEST_EM,
    Theme,
    blend,
    canvas,
    check_image,
    contact_sheet,
    cut,
    font,
    text_width,
)


def colour_mask(labels: np.ndarray, class_set: ClassSet) -> np.ndarray:
    """Colours of a label map `[H, W]` integer as `[H, W, 3] uint8`; no class is black."""
    check_labels("labels", labels)
    return class_set.palette[np.where(is_class(labels, class_set), labels, IGNORE)]


def overlay(
    image: np.ndarray, labels: np.ndarray, class_set: ClassSet, *, opacity: float = 0.5
) -> np.ndarray:
    """The image `[H, W, 3] uint8` tinted by its labels `[H, W]`; no class, no tint."""
    check_image(image)
    check_labels("labels", labels, image)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity {opacity} must lie within 0 and 1")
    tinted = blend(image, colour_mask(labels, class_set), opacity)
    return np.where(is_class(labels, class_set)[..., None], tinted, image)


def legend(
    class_set: ClassSet,
    *,
    width: int,
    present: Collection[int] | np.ndarray | None = None,
    em: int = 16,
    theme: Theme = LIGHT,
) -> np.ndarray:
    """Colours and names of the classes in columns that fill `width`, `[H, width, 3] uint8`.

    Args:
        present: ids of the classes to show; all if None.
        em: font size in pixels.
    """
    ids = class_ids(range(len(class_set)) if present is None else present, class_set)
    if not ids:
        return np.full((0, width, 3), theme.background, np.uint8)
    narrowest = legend_item_width(class_set, ids, em)
    if width < narrowest:
        raise ValueError(f"legend width {width} is too small for the names; need {narrowest}")

    gap = 3 * em // 2
    columns = min(len(ids), (width + gap) // (narrowest + gap))
    rows = -(-len(ids) // columns)
    columns = -(-len(ids) // rows)  # the fewest columns that still give so few rows
    # Spread over the width, but not so far that three names look lost.
    stride = min((width + gap) // columns, 2 * (narrowest + gap))
    row_height, swatch = 7 * em // 4, _swatch_size(em)

    picture, draw = canvas(width, rows * row_height, theme)
    # Down the columns: neighbours in the class set (car, truck, bus) stay neighbours.
    for column, column_ids in enumerate(np.array_split(ids, columns)):
        left = column * stride
        for row, class_id in enumerate(column_ids):
            middle = row * row_height + row_height // 2
            top = middle - swatch[1] // 2
            draw.rounded_rectangle(
                (left, top, left + swatch[0] - 1, top + swatch[1] - 1),
                radius=em // 6,
                fill=class_set.colours[class_id],
                outline=theme.outline,
                width=max(1, em // 20),
            )
            where = (left + swatch[0] + em // 2, middle)
            draw.text(where, class_set.names[class_id], theme.text, font(em), anchor="lm")
    return np.asarray(picture)


def with_legend(
    picture: np.ndarray,
    class_set: ClassSet,
    present: Collection[int] | np.ndarray | None = None,
) -> np.ndarray:
    """The picture, and below it a legend of the classes `present`; wider if names need it."""
    check_image(picture)
    ids = class_ids(range(len(class_set)) if present is None else present, class_set)
    if not ids:
        return picture
    em = max(SMALLEST_EM, picture.shape[1] // 64)
    width = max(picture.shape[1] - 2 * em, legend_item_width(class_set, ids, em))
    names = legend(class_set, width=width, present=ids, em=em)
    framed = np.pad(names, ((em // 2, em // 2), (em, em), (0, 0)))
    framed[: em // 2], framed[-(em // 2) :] = LIGHT.background, LIGHT.background
    framed[:, :em], framed[:, -em:] = LIGHT.background, LIGHT.background
    return contact_sheet([picture, framed])


def with_caption(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture `[H, W, 3] uint8` with a line of text on a box in its upper left corner."""
    check_image(picture)
    em = max(SMALLEST_EM, picture.shape[1] // 40)
    text = cut(text, em, max(0, picture.shape[1] - em))
    captioned = Image.fromarray(picture)
    draw = ImageDraw.Draw(captioned)
    draw.rectangle((0, 0, text_width(text, em) + em, 7 * em // 4), DARK.background)
    draw.text((em // 2, 7 * em // 8), text, DARK.text, font(em), anchor="lm")
    return np.asarray(captioned)


def classes_in(class_set: ClassSet, *label_maps: np.ndarray | None) -> list[int]:
    present = [np.unique(labels) for labels in label_maps if labels is not None]
    return [int(i) for i in np.unique(np.concatenate(present)) if 0 <= i < len(class_set)]


def class_ids(ids: Collection[int] | np.ndarray, class_set: ClassSet) -> list[int]:
    checked = sorted({int(class_id) for class_id in ids})
    if checked and not 0 <= checked[0] <= checked[-1] < len(class_set):
        raise ValueError(f"class ids {checked} must lie within 0 and {len(class_set) - 1}")
    return checked


def is_class(labels: np.ndarray, class_set: ClassSet) -> np.ndarray:
    return (labels >= 0) & (labels < len(class_set))


def _swatch_size(em: int) -> tuple[int, int]:
    return 3 * em // 2, em


def legend_item_width(class_set: ClassSet, ids: list[int], em: int) -> int:
    longest = max(text_width(class_set.names[i], em) for i in ids)
    return _swatch_size(em)[0] + em // 2 + longest


def check_labels(name: str, labels: np.ndarray, image: np.ndarray | None = None) -> None:
    if labels.ndim != 2 or 0 in labels.shape or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} must be [H, W] integer class ids, not {list(labels.shape)} {labels.dtype}"
        )
    if image is not None and labels.shape != image.shape[:2]:
        raise ValueError(
            f"{name} {list(labels.shape)} must be as large as its image {list(image.shape[:2])}"
        )
