"""What every drawn picture needs: colours of the page, a font, a canvas, a file.

Pictures are arrays `[H, W, 3] uint8`. Lengths in a drawn one are multiples of `em`, its font
size, so that a picture of any size keeps its proportions.
"""

import functools
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bisenet_jax.files import write_bytes

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SMALLEST_EM = 13  # below this the embedded font is hard to read
ERROR_COLOUR = (235, 45, 45)


@dataclass(frozen=True)
class Theme:
    """Colours of everything around the pixels."""

    background: Colour
    text: Colour
    outline: Colour


LIGHT = Theme(background=(255, 255, 255), text=(31, 35, 40), outline=(176, 182, 190))
DARK = Theme(background=(18, 20, 24), text=(232, 235, 240), outline=(92, 98, 108))


def canvas(width: int, height: int, theme: Theme) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (width, height), theme.background)
    return picture, ImageDraw.Draw(picture)


@functools.cache
def font(em: int) -> Font:
    return ImageFont.load_default(size=em)


def text_width(text: str, em: int) -> int:
    return math.ceil(font(em).getlength(text))


def cut(text: str, em: int, width: int) -> str:
    """The text, or as much of its beginning as fits the width, followed by dots."""
    if text_width(text, em) <= width:
        return text
    while text and text_width(text + "...", em) > width:
        text = text[:-1].rstrip()
    return text + "..."


def blend(below: np.ndarray, above: np.ndarray, opacity: float) -> np.ndarray:
    mixed = below.astype(np.float32) * (1 - opacity) + above.astype(np.float32) * opacity
    return np.rint(mixed).astype(np.uint8)


def contact_sheet(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures one above the other, `[sum of H, largest W, 3] uint8`, narrow ones centred."""
    if not rows:
        raise ValueError("a contact sheet needs at least one picture, got []")
    for row in rows:
        check_image(row)
    width = max(row.shape[1] for row in rows)
    sheet = np.full((sum(len(row) for row in rows), width, 3), LIGHT.background, np.uint8)
    top = 0
    for row in rows:
        left = (width - row.shape[1]) // 2
        sheet[top : top + len(row), left : left + row.shape[1]] = row
        top += len(row)
    return sheet


def write_picture(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Writes `[H, W, 3] uint8` as PNG, whole or not at all, and the folder it lies in."""
    check_image(picture)
    encoded = io.BytesIO()
    # Of a photo 10 % larger than at the highest level, in an eighth of the time.
    Image.fromarray(picture).save(encoded, format="PNG", compress_level=3)
    write_bytes(path, encoded.getvalue())


def check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise ValueError(
            f"image must be [H, W, 3] uint8, not {list(image.shape)} {image.dtype}"
        )
