"""Label maps as pictures: colour masks, overlays, legends and side-by-side comparisons.

Every picture is an array `[H, W, 3] uint8`. Lengths in a drawn picture are multiples of `em`,
its font size, so that a picture of any size keeps its proportions.
"""

import functools
import io
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bisenet_jax.data.classes import IGNORE, ClassSet
from bisenet_jax.files import write_bytes

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SMALLEST_EM = 13  # below this the embedded font is hard to read
SMALLEST_PANEL = 256  # narrower panels are enlarged
ERROR_COLOUR = (235, 45, 45)


@dataclass(frozen=True)
class Theme:
    """Colours of everything around the pixels."""

    background: Colour
    text: Colour
    outline: Colour


LIGHT = Theme(background=(255, 255, 255), text=(31, 35, 40), outline=(176, 182, 190))
DARK = Theme(background=(18, 20, 24), text=(232, 235, 240), outline=(92, 98, 108))


def colour_mask(labels: np.ndarray, class_set: ClassSet) -> np.ndarray:
    """Colours of a label map `[H, W]` integer as `[H, W, 3] uint8`; no class is black."""
    _check_labels("labels", labels)
    return class_set.palette[np.where(_is_class(labels, class_set), labels, IGNORE)]


def overlay(
    image: np.ndarray, labels: np.ndarray, class_set: ClassSet, *, opacity: float = 0.5
) -> np.ndarray:
    """The image `[H, W, 3] uint8` tinted by its labels `[H, W]`; no class, no tint."""
    _check_image(image)
    _check_labels("labels", labels, image)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity {opacity} must lie within 0 and 1")
    tinted = _blend(image, colour_mask(labels, class_set), opacity)
    return np.where(_is_class(labels, class_set)[..., None], tinted, image)


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
    ids = _class_ids(range(len(class_set)) if present is None else present, class_set)
    if not ids:
        return np.full((0, width, 3), theme.background, np.uint8)
    narrowest = _legend_item_width(class_set, ids, em)
    if width < narrowest:
        raise ValueError(f"legend width {width} is too small for the names; need {narrowest}")

    gap = 3 * em // 2
    columns = min(len(ids), (width + gap) // (narrowest + gap))
    rows = -(-len(ids) // columns)
    columns = -(-len(ids) // rows)  # the fewest columns that still give so few rows
    # Spread over the width, but not so far that three names look lost.
    stride = min((width + gap) // columns, 2 * (narrowest + gap))
    row_height, swatch = 7 * em // 4, _swatch_size(em)

    picture, draw = _canvas(width, rows * row_height, theme)
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
            draw.text(where, class_set.names[class_id], theme.text, _font(em), anchor="lm")
    return np.asarray(picture)


def with_legend(
    picture: np.ndarray,
    class_set: ClassSet,
    present: Collection[int] | np.ndarray | None = None,
    *,
    theme: Theme = LIGHT,
) -> np.ndarray:
    """The picture, and below it a legend of the classes `present`; wider if names need it."""
    _check_image(picture)
    ids = _class_ids(range(len(class_set)) if present is None else present, class_set)
    if not ids:
        return picture
    em = max(SMALLEST_EM, picture.shape[1] // 64)
    width = max(picture.shape[1] - 2 * em, _legend_item_width(class_set, ids, em))
    names = legend(class_set, width=width, present=ids, em=em, theme=theme)
    framed = np.pad(names, ((em // 2, em // 2), (em, em), (0, 0)))
    framed[: em // 2], framed[-(em // 2) :] = theme.background, theme.background
    framed[:, :em], framed[:, -em:] = theme.background, theme.background
    return contact_sheet([picture, framed], theme=theme)


def with_caption(picture: np.ndarray, text: str, *, theme: Theme = DARK) -> np.ndarray:
    """The picture `[H, W, 3] uint8` with a line of text on a box in its upper left corner."""
    _check_image(picture)
    em = max(SMALLEST_EM, picture.shape[1] // 40)
    text = _cut(text, em, max(0, picture.shape[1] - em))
    captioned = Image.fromarray(picture)
    draw = ImageDraw.Draw(captioned)
    draw.rectangle((0, 0, _text_width(text, em) + em, 7 * em // 4), theme.background)
    draw.text((em // 2, 7 * em // 8), text, theme.text, _font(em), anchor="lm")
    return np.asarray(captioned)


def comparison(
    image: np.ndarray,
    prediction: np.ndarray,
    truth: np.ndarray | None,
    class_set: ClassSet,
    *,
    title: str | None = None,
    opacity: float = 0.6,
    columns: int | None = None,
    named: Collection[int] | np.ndarray | None = None,
    theme: Theme = LIGHT,
) -> np.ndarray:
    """One picture of an image, its prediction, its truth and where they differ.

    Args:
        image: `[H, W, 3] uint8`.
        prediction: `[H, W]` integer class ids.
        truth: `[H, W]` integer class ids, or None: then truth and errors are left out.
        title: a line above; it is cut short if it does not fit.
        columns: panels in a row; if None, two by two for four wide ones and one row otherwise.
        named: ids of the classes in the legend; those that occur if None, no legend if empty.
    """
    _check_image(image)
    _check_labels("prediction", prediction, image)
    panels = {
        "image": image,
        "prediction": overlay(image, prediction, class_set, opacity=opacity),
    }
    if truth is not None:
        _check_labels("truth", truth, image)
        panels["truth"] = overlay(image, truth, class_set, opacity=opacity)
        wrong = _is_class(truth, class_set) & (prediction != truth)
        panels[f"errors: {_share(wrong, truth, class_set)}"] = _error_panel(image, wrong, theme)
    if columns is None:
        columns = (
            2 if len(panels) == 4 and 2 * image.shape[1] >= 3 * len(image) else len(panels)
        )
    if not 1 <= columns <= len(panels):
        raise ValueError(f"columns {columns} must lie within 1 and the {len(panels)} panels")
    shown = _classes_in(class_set, prediction, truth) if named is None else named
    return _arrange(
        panels, columns, title or "", class_set, _class_ids(shown, class_set), theme
    )


def labelled(
    image: np.ndarray,
    labels: np.ndarray,
    class_set: ClassSet,
    *,
    title: str | None = None,
    opacity: float = 0.6,
    theme: Theme = LIGHT,
) -> np.ndarray:
    """One picture of an image beside its labels, without a legend; arguments as above."""
    panels = {"image": image, "labels": overlay(image, labels, class_set, opacity=opacity)}
    return _arrange(panels, 2, title or "", class_set, [], theme)


def contact_sheet(rows: Sequence[np.ndarray], *, theme: Theme = LIGHT) -> np.ndarray:
    """Pictures one above the other, `[sum of H, largest W, 3] uint8`, narrow ones centred."""
    if not rows:
        raise ValueError("a contact sheet needs at least one picture, got []")
    for row in rows:
        _check_image(row)
    width = max(row.shape[1] for row in rows)
    sheet = np.full((sum(len(row) for row in rows), width, 3), theme.background, np.uint8)
    top = 0
    for row in rows:
        left = (width - row.shape[1]) // 2
        sheet[top : top + len(row), left : left + row.shape[1]] = row
        top += len(row)
    return sheet


def write_picture(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Writes `[H, W, 3] uint8` as PNG, whole or not at all, and the folder it lies in."""
    _check_image(picture)
    encoded = io.BytesIO()
    # Of a photo 10 % larger than at the highest level, in an eighth of the time.
    Image.fromarray(picture).save(encoded, format="PNG", compress_level=3)
    write_bytes(path, encoded.getvalue())


def _arrange(
    panels: dict[str, np.ndarray],
    columns: int,
    title: str,
    class_set: ClassSet,
    named: list[int],
    theme: Theme,
) -> np.ndarray:
    """Captioned panels of one size under a title, the legend of the `named` classes below."""
    height, width = next(iter(panels.values())).shape[:2]
    zoom = max(1, min(-(-SMALLEST_PANEL // width), 4 * SMALLEST_PANEL // height))
    height, width = zoom * height, zoom * width
    rows = -(-len(panels) // columns)

    em = max(SMALLEST_EM, columns * width // 64)
    margin, gap, caption = 3 * em // 2, em, 7 * em // 4
    title_em = 5 * em // 4
    cell_width = max(width, *(_text_width(name, em) for name in panels))
    inner = columns * cell_width + (columns - 1) * gap
    if named:
        inner = max(inner, _legend_item_width(class_set, named, em))
    # Without a title the first captions bring half of the upper margin along.
    head = margin + 7 * title_em // 4 if title else margin // 2
    body = rows * (caption + height) + (rows - 1) * gap // 2
    names = legend(class_set, width=inner, present=named, em=em, theme=theme)
    foot = margin + (len(names) + em if named else 0)

    picture, draw = _canvas(inner + 2 * margin, head + body + foot, theme)
    if title:
        title = _cut(title, title_em, inner)
        draw.text((margin, margin), title, theme.text, _font(title_em), anchor="lt")
    for position, (name, panel) in enumerate(panels.items()):
        row, column = divmod(position, columns)
        left = margin + column * (cell_width + gap)
        top = head + row * (caption + height) + row * gap // 2
        draw.text((left, top + caption // 2), name, theme.text, _font(em), anchor="lm")
        large = panel.repeat(zoom, axis=0).repeat(zoom, axis=1)
        picture.paste(Image.fromarray(large), (left, top + caption))
    if named:
        picture.paste(Image.fromarray(names), (margin, head + body + em))
    return np.asarray(picture)


def _error_panel(image: np.ndarray, wrong: np.ndarray, theme: Theme) -> np.ndarray:
    """The image faded to grey, wrong pixels in one loud colour."""
    luma = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    grey = np.repeat(np.rint(luma).astype(np.uint8)[..., None], 3, axis=2)
    faded = _blend(grey, np.full_like(grey, theme.background), 0.45)
    marked = _blend(faded, np.full_like(grey, ERROR_COLOUR), 0.85)
    return np.where(wrong[..., None], marked, faded)


def _share(wrong: np.ndarray, truth: np.ndarray, class_set: ClassSet) -> str:
    counted = np.count_nonzero(_is_class(truth, class_set))
    return (
        f"{100 * np.count_nonzero(wrong) / counted:.1f}% of pixels" if counted else "no truth"
    )


def _classes_in(class_set: ClassSet, *label_maps: np.ndarray | None) -> list[int]:
    present = [np.unique(labels) for labels in label_maps if labels is not None]
    return [int(i) for i in np.unique(np.concatenate(present)) if 0 <= i < len(class_set)]


def _class_ids(ids: Collection[int] | np.ndarray, class_set: ClassSet) -> list[int]:
    checked = sorted({int(class_id) for class_id in ids})
    if checked and not 0 <= checked[0] <= checked[-1] < len(class_set):
        raise ValueError(f"class ids {checked} must lie within 0 and {len(class_set) - 1}")
    return checked


def _is_class(labels: np.ndarray, class_set: ClassSet) -> np.ndarray:
    return (labels >= 0) & (labels < len(class_set))


def _blend(below: np.ndarray, above: np.ndarray, opacity: float) -> np.ndarray:
    mixed = below.astype(np.float32) * (1 - opacity) + above.astype(np.float32) * opacity
    return np.rint(mixed).astype(np.uint8)


def _canvas(width: int, height: int, theme: Theme) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (width, height), theme.background)
    return picture, ImageDraw.Draw(picture)


@functools.cache
def _font(em: int) -> Font:
    return ImageFont.load_default(size=em)


def _text_width(text: str, em: int) -> int:
    return math.ceil(_font(em).getlength(text))


def _cut(text: str, em: int, width: int) -> str:
    """The text, or as much of its beginning as fits the width, followed by dots."""
    if _text_width(text, em) <= width:
        return text
    while text and _text_width(text + "...", em) > width:
        text = text[:-1].rstrip()
    return text + "..."


def _swatch_size(em: int) -> tuple[int, int]:
    return 3 * em // 2, em


def _legend_item_width(class_set: ClassSet, ids: list[int], em: int) -> int:
    longest = max(_text_width(class_set.names[i], em) for i in ids)
    return _swatch_size(em)[0] + em // 2 + longest


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise ValueError(
            f"image must be [H, W, 3] uint8, not {list(image.shape)} {image.dtype}"
        )


def _check_labels(name: str, labels: np.ndarray, image: np.ndarray | None = None) -> None:
    if labels.ndim != 2 or 0 in labels.shape or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} must be [H, W] integer class ids, not {list(labels.shape)} {labels.dtype}"
        )
    if image is not None and labels.shape != image.shape[:2]:
        raise ValueError(
            f"{name} {list(labels.shape)} must be as large as its image {list(image.shape[:2])}"
        )
