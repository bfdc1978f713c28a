"""A confusion matrix to look at: what each class is taken for.

Each row is one class of the truth and adds up to 100 %. Hits are blue, errors red; the colour
grows with the root of the share, so that errors of a few per cent are seen.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bisenet_jax.data.classes import ClassSet
from bisenet_jax.drawing import ERROR_COLOUR, LIGHT, SMALLEST_EM, Colour, Font, Theme

HIT_COLOUR = (24, 78, 160)
SCALE_SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
LARGEST_WITH_NUMBERS = 40  # classes; with more, cells are too small for numbers


def confusion_picture(
    confusion: np.ndarray,
    class_set: ClassSet,
    *,
    title: str = "",
    em: int = SMALLEST_EM,
    theme: Theme = LIGHT,
) -> np.ndarray:
    """The matrix with names, per cent in each cell where they fit, and a scale, as
    `[H, W, 3] uint8`; a class that is not in the truth has a dashed row.

    Args:
        confusion: `[N, N]` integer, row = truth.
        title: a line above.
        em: font size in pixels; everything grows with it.
    """
    confusion = np.asarray(confusion)
    if confusion.shape != (len(class_set), len(class_set)):
        raise ValueError(
            f"confusion matrix {confusion.shape} does not fit the {len(class_set)} classes of "
            f"{class_set.name!r}"
        )
    font = ImageFont.load_default(size=em)
    has_numbers = len(class_set) <= LARGEST_WITH_NUMBERS
    cell = 5 * em // 2 if has_numbers else em
    margin, gap = 3 * em // 2, em // 2
    names = max(math.ceil(font.getlength(name)) for name in class_set.names)
    left = margin + 2 * em + names + gap
    top = margin + (2 * em if title else 0) + 2 * em + names + gap
    side = len(class_set) * cell
    scale = _scale(font, em, theme)
    width = max(left + side, margin + scale.width) + margin
    title_font = ImageFont.load_default(size=5 * em // 4)
    if title:
        width = max(width, math.ceil(title_font.getlength(title)) + 2 * margin)
    picture = Image.new(
        "RGB", (width, top + side + em + scale.height + margin), theme.background
    )
    draw = ImageDraw.Draw(picture)

    if title:
        draw.text((margin, margin), title, theme.text, title_font, anchor="lt")
    draw.text(
        (left, margin + (2 * em if title else 0)), "prediction", theme.text, font, anchor="lt"
    )
    picture.paste(_upright("truth", font, em, theme), (margin, top))
    for class_id, name in enumerate(class_set.names):
        middle = class_id * cell + cell // 2
        draw.text((left - gap, top + middle), name, theme.text, font, anchor="rm")
        upright = _upright(name, font, em, theme)
        foot = left + middle - upright.width // 2, top - gap - upright.height
        picture.paste(upright, foot)

    for row, counts in enumerate(confusion.tolist()):
        total = sum(counts)
        for column, count in enumerate(counts):
            x, y = left + column * cell, top + row * cell
            if not total:
                middle = y + cell // 2
                draw.line((x + cell // 4, middle, x + 3 * cell // 4, middle), theme.outline)
                continue
            share = count / total
            fill = _cell_colour(share, row == column, theme)
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill)
            if has_numbers and share >= 0.0005:
                where = (x + cell // 2, y + cell // 2)
                draw.text(where, _number(share), _readable_on(fill), font, anchor="mm")
    _draw_grid(draw, (left, top), cell, len(class_set), theme)
    picture.paste(scale, (left if left + scale.width <= width else margin, top + side + em))
    return np.asarray(picture)


def _number(share: float) -> str:
    """Per cent in at most three characters and a point."""
    percent = 100 * share
    return f"{percent:.1f}" if percent < 9.95 else f"{percent:.0f}"


def _cell_colour(share: float, is_hit: bool, theme: Theme) -> Colour:
    strength = math.sqrt(share)
    full = HIT_COLOUR if is_hit else ERROR_COLOUR
    red, green, blue = (
        round(low + strength * (high - low))
        for low, high in zip(theme.background, full, strict=True)
    )
    return red, green, blue


def _readable_on(fill: Colour) -> Colour:
    luma = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2]
    return (31, 35, 40) if luma > 128 else (255, 255, 255)


def _upright(text: str, font: Font, em: int, theme: Theme) -> Image.Image:
    """Text that reads upwards in a box as wide as any other text's, so that lines stay even."""
    picture = Image.new("RGB", (math.ceil(font.getlength(text)), 4 * em // 3), theme.background)
    ImageDraw.Draw(picture).text((0, em), text, theme.text, font, anchor="ls")
    return picture.transpose(Image.Transpose.ROTATE_90)


def _draw_grid(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], cell: int, count: int, theme: Theme
) -> None:
    """A frame, and lines that lead from a cell to its names: all, or every fifth of many."""
    left, top = corner
    side = count * cell
    every = 1 if count <= LARGEST_WITH_NUMBERS else 5
    for line in (*range(0, count, every), count):
        offset = line * cell
        draw.line((left, top + offset, left + side, top + offset), theme.outline)
        draw.line((left + offset, top, left + offset, top + side), theme.outline)


def _scale(font: Font, em: int, theme: Theme) -> Image.Image:
    """What colours mean: a row of swatches for hits and one for errors."""
    first, step, height = 4 * em, 3 * em, 3 * em // 2
    picture = Image.new(
        "RGB", (first + step * len(SCALE_SHARES) + 1, 3 * height + 1), theme.background
    )
    draw = ImageDraw.Draw(picture)
    for row, (name, is_hit) in enumerate((("hit", True), ("error", False))):
        draw.text((0, row * height + height // 2), name, theme.text, font, anchor="lm")
        for column, share in enumerate(SCALE_SHARES):
            x, y = first + column * step, row * height
            fill = _cell_colour(share, is_hit, theme)
            draw.rectangle((x, y, x + step, y + height), fill, theme.outline)
    for column, share in enumerate(SCALE_SHARES):
        where = (first + column * step + step // 2, 2 * height + height // 2)
        draw.text(where, f"{100 * share:.0f} %", theme.text, font, anchor="mm")
    return picture
