"""Encoded pictures and label maps to uint8 arrays; anything doubtful is a DataError.

Pixels are taken as they are stored. A turn or a colour code that is undone silently would
part a picture from its labels, so each such file is refused with the way to mend it.
"""

import functools
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image

from bisenet_jax.errors import DataError, PictureSizeError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_SUFFIXES = (".png",)

MAX_PIXELS = 2**26  # of a picture or a frame; logits of 19 classes then take 5 GB
MAX_BYTES = 2**29  # of its file; as many pixels of 16 bits, not compressed, take 400 MB

# What pillow raises on damaged files; SyntaxError is its word for a broken PNG chunk.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
    *(TypeError, LookupError, OverflowError, AttributeError, RuntimeError, MemoryError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
_COLOUR_MODES = ("RGB", "L", "1", "P", "CMYK")
_PNG_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


def read_image(path: str | Path) -> np.ndarray:
    """The JPEG or PNG picture in a file: `[H, W, 3] uint8` RGB, read-only."""
    return decode_image(read_bytes(path), str(path))


def read_label(path: str | Path) -> np.ndarray:
    """The label map in a PNG file: `[H, W] uint8` class ids, read-only."""
    return decode_label(read_bytes(path), str(path))


def read_colours(path: str | Path) -> np.ndarray:
    """The colour-coded label map in a PNG file: `[H, W, 3] uint8` RGB, read-only."""
    return decode_colours(read_bytes(path), str(path))


def decode_image(data: bytes, name: str) -> np.ndarray:
    """A JPEG or PNG picture: `[H, W, 3] uint8` RGB, read-only; `name` is for error messages.

    Grey, palette and CMYK pictures become RGB, a fully opaque alpha channel is dropped and of
    16-bit RGB the high bytes are kept. Refused: transparent pixels, 16-bit grey, and an EXIF
    orientation, since nobody knows whether the labels were drawn before or after the turn.
    """
    image = _open(data, name, formats=("JPEG", "PNG"))
    pixels = _decode_plain_png(data, image)
    if pixels is not None and pixels.ndim == 3:
        return pixels
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation != 1:
            raise DataError(
                f"{name}: EXIF orientation is {orientation}, pictures must be stored upright; "
                "turn the pixels, remove the tag and check that the labels still fit"
            )
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema() != (255, 255):
                raise DataError(
                    f"{name}: has transparent pixels, their colour means nothing; "
                    "save the picture as RGB on a background"
                )
        elif image.mode not in _COLOUR_MODES:
            raise DataError(
                f"{name}: pixels are {image.mode!r}, not 8-bit grey or colour; save the "
                "picture as 8-bit RGB"
            )
        return np.asarray(image.convert("RGB"))
    except _DAMAGE as error:
        raise DataError(_damaged(name, error)) from error


def decode_label(data: bytes, name: str) -> np.ndarray:
    """A PNG label map: `[H, W] uint8` class ids, read-only; `name` is for error messages.

    8-bit grey values and palette indices are ids. Colour-coded maps are refused, and so are
    greys of other depths, which decoders rescale: id 1 of a 4-bit map would come out as 17.
    """
    image = _open(data, name, formats=("PNG",))
    kind = png_kind(data)
    if kind != "8-bit grey" and data[25] != 3:
        raise DataError(
            f"{name}: label map is {kind}, must be 8-bit grey (or palette) with the class id "
            "as the pixel value; write each pixel's class id (0, 1, 2, ... and 255 for "
            "ignored) into an 8-bit grey PNG"
        )
    if (pixels := _decode_plain_png(data, image)) is not None:
        return pixels
    try:
        return np.asarray(image)
    except _DAMAGE as error:
        raise DataError(_damaged(name, error)) from error


def decode_colours(data: bytes, name: str) -> np.ndarray:
    """A colour-coded PNG label map: `[H, W, 3] uint8` RGB, read-only; `name` is for errors.

    Palette maps give their palette's colours. Grey maps are refused, whose values are ids.
    """
    _open(data, name, formats=("PNG",))
    if data[25] in (0, 4):
        raise DataError(
            f"{name}: label map is {_PNG_COLOUR_TYPES[data[25]]}, but the class set expects a "
            "map in colours; give the colour map, or a class set whose maps hold ids"
        )
    return decode_image(data, name)


def read_size(file: str | Path | BinaryIO, name: str) -> tuple[int, int]:
    """Height and width of a JPEG or PNG picture, from its header; `name` is for errors."""
    try:
        with Image.open(file, formats=("JPEG", "PNG")) as image:
            return image.height, image.width
    except _DAMAGE as error:
        raise DataError(_damaged(name, error)) from error


def png_kind(head: bytes) -> str | None:
    """Such as `8-bit grey`, from the first 26 bytes of a PNG; None where they are not of one.

    The header chunk always comes first: both facts are in the same place in every PNG.
    """
    if len(head) < 26 or head[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    return f"{head[24]}-bit {_PNG_COLOUR_TYPES.get(head[25], 'PNG')}"


def label_kind(path: str | Path) -> str:
    """What a PNG label map stores, from its header: grey, palette, RGB, ...; no pixel is read.

    Grey maps hold ids and RGB maps colours; a palette map may be meant either way.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(26)
    except OSError as error:
        raise _unreadable(path, error) from error
    kind = png_kind(head)
    if kind is None:
        raise DataError(f"{path}: content is no PNG; fetch it again or save it as PNG")
    return kind.partition(" ")[2]


def read_bytes(path: str | Path) -> bytes:
    """The content of a file, or a DataError that names it."""
    try:
        if (size := os.stat(path).st_size) > MAX_BYTES:
            raise PictureSizeError(
                f"{path}: file has {size:,} bytes, at most {MAX_BYTES:,} are read; cut or "
                "compress the picture"
            )
        return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: OSError) -> DataError:
    return DataError(
        f"{path}: cannot be read ({error.strerror}); check the file and its permissions"
    )


def _open(data: bytes, name: str, *, formats: tuple[str, ...]) -> Image.Image:
    if not data:
        raise DataError(f"{name}: file is empty (0 bytes); fetch or export it again")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.UnidentifiedImageError as error:
        wanted = " or ".join(formats)
        raise DataError(
            f"{name}: content is not a readable {wanted}; fetch it again or save it as {wanted}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureSizeError(
            f"{name}: has more than {MAX_PIXELS:,} pixels; make it smaller"
        ) from error
    except _DAMAGE as error:
        raise DataError(_damaged(name, error)) from error
    # Before anything is made of that size.
    require_size(name, *image.size)
    return image


def require_size(name: str, width: int, height: int) -> None:
    """Raise a PictureSizeError for more than `MAX_PIXELS`; `name` is for the error."""
    if width * height > MAX_PIXELS:
        raise PictureSizeError(
            f"{name}: {width}x{height} is more than {MAX_PIXELS:,} pixels; make it smaller"
        )


def decode_whole_jpeg(data: bytes, name: str) -> np.ndarray:
    """An RGB JPEG that is known to be whole: `[H, W, 3] uint8`; `name` is for error messages.

    The faster decoder passes over what is missing at the end of a file.
    """
    codecs = _fast_codecs()
    return decode_image(data, name) if codecs is None else codecs.jpeg8_decode(data)


def _decode_plain_png(data: bytes, image: Image.Image) -> np.ndarray | None:
    """An 8-bit RGB or grey PNG by imagecodecs, or None where pillow has to see to it.

    Measured at 1.4 times pillow's speed on frames of 2048x1024, bit for bit the same, as strict
    with damaged files, and it leaves other threads alone (docs/data.md).
    """
    codecs = _fast_codecs()
    if codecs is None or image.format != "PNG":
        return None
    # The header chunk always comes first: depth, colour type and interlacing.
    if (data[24], data[28]) != (8, 0) or data[25] not in (0, 2):
        return None
    try:
        if image.has_transparency_data or b"eXIf" in data:
            return None
        return codecs.png_decode(data)
    except (codecs.PngError, *_DAMAGE):
        return None  # pillow names the damage


@functools.cache
def _fast_codecs() -> Any:
    try:
        import imagecodecs
    except ImportError:
        return None
    return imagecodecs


def _damaged(name: str, error: Exception) -> str:
    return f"{name}: cannot be decoded ({error}); fetch or export the file again"
