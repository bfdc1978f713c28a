"""Cityscapes as it is downloaded: two zips, or the folders extracted from them."""

import struct
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bisenet_jax.data.cityscapes.archive import Archive, open_folder, open_zip
from bisenet_jax.data.cityscapes.labels import IMAGE_FOLDER, LABEL_FOLDER, pair_frames
from bisenet_jax.errors import DataError

ZIPS = {
    IMAGE_FOLDER: "leftImg8bit_trainvaltest.zip",
    LABEL_FOLDER: "gtFine_trainvaltest.zip",
}
DOWNLOADS = "https://www.cityscapes-dataset.com/downloads/ (after registration)"

_PNG_START = struct.Struct(">8s4x4sIIBB")  # signature, chunk, width, height, depth, type
_RGB, _GREY = (8, 2), (8, 0)


class Archives(NamedTuple):
    """The two parts of the data set."""

    images: Archive
    labels: Archive


class ArchivedFrame(NamedTuple):
    """One frame in the archives; `size` is the bytes of its two files."""

    name: str
    image: str
    label: str
    size: int


@contextmanager
def open_archives(folder: Path) -> Generator[Archives, None, None]:
    """The two zips in a folder, or what was extracted from them.

    Raises:
        DataError: says which is missing, where to get it, and what is there instead.
    """
    parts = [_open_archive(folder, part) for part in (IMAGE_FOLDER, LABEL_FOLDER)]
    with ExitStack() as stack:
        images, labels = (stack.enter_context(part) for part in parts)
        yield Archives(images, labels)


def list_frames(archives: Archives, split: str) -> list[ArchivedFrame]:
    """The frames of a split, sorted by name; a DataError names one that cannot be used."""
    images, labels = archives
    pairs = pair_frames(
        (name for name in images.sizes if name.startswith(f"{IMAGE_FOLDER}/{split}/")),
        (name for name in labels.sizes if name.startswith(f"{LABEL_FOLDER}/{split}/")),
        where=f"{images.path}, {labels.path}",
        split=split,
    )
    frames = []
    for name, image, label in pairs:
        size = _png_size(images, image, _RGB, "8-bit RGB")
        label_size = _png_size(labels, label, _GREY, "8-bit grey")
        if size != label_size:
            raise DataError(
                f"{labels.path}: {label} is {label_size[0]}x{label_size[1]}, but its picture "
                f"is {size[0]}x{size[1]}; download or extract both again"
            )
        frames.append(
            ArchivedFrame(name, image, label, images.sizes[image] + labels.sizes[label])
        )
    return frames


def _open_archive(folder: Path, part: str) -> AbstractContextManager[Archive]:
    name = ZIPS[part]
    if (folder / name).is_file():
        return open_zip(folder / name)
    if (folder / part).is_dir():
        return open_folder(folder / part)
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    there = f"it holds {', '.join(found[:20])}" if found else "nothing is there"
    raise DataError(
        f"--zips {folder}: holds neither {name} nor the folder {part}/ extracted from it "
        f"({there}); get the zip from {DOWNLOADS} and put it there"
    )


def _png_size(
    archive: Archive, name: str, kind: tuple[int, int], words: str
) -> tuple[int, int]:
    """Width and height from the header of a PNG of this depth and colour type."""
    start = archive.read(name, _PNG_START.size)
    if len(start) == _PNG_START.size:
        signature, chunk, width, height, *found = _PNG_START.unpack(start)
        if (signature, chunk, *found) == (b"\x89PNG\r\n\x1a\n", b"IHDR", *kind):
            return width, height
    raise DataError(f"{archive.path}: {name} is no {words} PNG; download or extract it again")
