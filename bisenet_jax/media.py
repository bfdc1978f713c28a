"""Pictures as users have them, read and written; what a word on the command line means.

Unlike `data.decode`, which refuses what could part a picture from its labels, this reads
whatever has one plain meaning: a photo is turned as its EXIF tag says.
"""

import glob
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from bisenet_jax.data.decode import MAX_PIXELS, require_size
from bisenet_jax.errors import DataError, PictureFormatError, PictureSizeError
from bisenet_jax.files import write_bytes

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
WHITE = (255, 255, 255)
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


@dataclass(frozen=True)
class Input:
    """One thing to read: an image or video file, or the camera of an index.

    `name` is unlike that of all other inputs, whatever their folders.
    """

    name: str
    source: Path | int

    @property
    def is_camera(self) -> bool:
        return isinstance(self.source, int)

    @property
    def is_video(self) -> bool:
        """Whether frames come out of it, as of a camera too."""
        return isinstance(self.source, int) or self.source.suffix.lower() in VIDEO_SUFFIXES

    def __str__(self) -> str:
        return f"camera {self.source}" if self.is_camera else str(self.source)


def find_inputs(words: Sequence[str]) -> list[Input]:
    """What the words mean: files, folders (their own images), globs, camera indices.

    Raises:
        DataError: for a word that means nothing, before anything is read.
    """
    found: list[tuple[str, Path | int]] = []
    for word in words:
        if word.isdecimal() and not Path(word).exists():
            found.append((f"camera{int(word)}", int(word)))
        else:
            found.extend((path.stem, path) for path in _find_files(word))
    inputs, taken = [], set()
    for stem, source in found:
        name, number = stem, 1
        # Compared in lower case, for file systems that do so.
        while name.lower() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        inputs.append(Input(name, source))
    return inputs


def read_picture(
    path: str | os.PathLike[str], *, background: tuple[int, int, int] = WHITE
) -> np.ndarray:
    """A JPEG, PNG, WebP, BMP or TIFF file as `[H, W, 3] uint8` RGB, upright.

    Grey, palette and CMYK pictures become RGB, transparent pixels show the background, 16-bit
    values are scaled from 0..65535 to 0..255, an EXIF orientation is applied.

    Raises:
        DataError: for a file that cannot be read, is larger than `MAX_PIXELS`, holds several
            pictures, or pixels whose range no one can know (32-bit).
    """
    return _read_picture(path, str(path), background)


def decode_picture(content: bytes, name: str) -> np.ndarray:
    """Like `read_picture` for the content of a file; `name` is what errors call it."""
    return _read_picture(io.BytesIO(content), name, WHITE)


def write_label_map(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """Write class ids `[H, W] uint8` as an 8-bit grey PNG, whole or not at all."""
    encoded = io.BytesIO()
    Image.fromarray(labels, mode="L").save(encoded, format="PNG")
    write_bytes(path, encoded.getvalue())


def _find_files(word: str) -> list[Path]:
    path = Path(word)
    if path.is_dir():
        files = [
            file
            for file in path.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        ]
        if not files:
            raise DataError(f"{word}: no image in this folder; known are {IMAGE_SUFFIXES}")
        return sorted(files, key=_natural)
    if path.is_file():
        return [path]
    matches = [Path(match) for match in glob.glob(word, recursive=True)]
    files = sorted((match for match in matches if match.is_file()), key=_natural)
    if not files:
        raise DataError(
            f"input {word!r} is no file, folder, glob or camera index; check the path"
        )
    return files


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _read_picture(
    source: str | os.PathLike[str] | BinaryIO, name: str, background: tuple[int, int, int]
) -> np.ndarray:
    try:
        with Image.open(source, formats=_FORMATS) as image:
            require_size(name, *image.size)
            # A second picture in a JPEG is a preview; in the others it is a picture.
            pictures = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
            if pictures > 1:
                raise DataError(f"{name}: holds {pictures} pictures; save each as its own file")
            image.load()
            return _to_rgb(name, ImageOps.exif_transpose(image), background)
    except Image.UnidentifiedImageError as error:
        raise PictureFormatError(
            f"{name}: content is no readable picture; save it as one of {', '.join(_FORMATS)}"
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"{name}: does not exist; check the path") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureSizeError(
            f"{name}: has more than {MAX_PIXELS:,} pixels; make it smaller"
        ) from error
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - damaged files raise a dozen classes
        raise DataError(
            f"{name}: cannot be read ({error}); fetch or export it again"
        ) from error


def _to_rgb(name: str, image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise DataError(
            f"{name}: pixels are 32-bit, nobody says from where to where; save the picture "
            "with 8 or 16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(below, image)
    return np.array(image.convert("RGB"))
