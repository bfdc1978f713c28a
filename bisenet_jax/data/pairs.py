"""Pictures and label maps as pairs of files: what most data sets on disk come down to.

A layout (`folder`, `camvid`, `coco_stuff`, `cityscapes`) lists the pairs of a split; a coding
says what the label maps mean; `PairSource` reads them.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bisenet_jax.data.coding import Coding, first_few
from bisenet_jax.data.decode import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_image
from bisenet_jax.data.example import Example
from bisenet_jax.errors import DataError


class Pair(NamedTuple):
    """One labelled picture on disk; `name` is unique within its split."""

    name: str
    image: Path
    label: Path


class PairSource:
    """The labelled pictures of one split. Can be pickled, and read by many threads."""

    def __init__(self, pairs: Sequence[Pair], coding: Coding) -> None:
        self.pairs = list(pairs)
        self.coding = coding

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        """Example `index`: `image [H, W, 3] uint8`, `label [H, W] uint8`, `name`.

        Raises:
            DataError: names the file that is damaged, of another size than its partner, or
                that holds values which are no classes.
        """
        pair = self.pairs[index]
        image, label = read_image(pair.image), self.coding.read(pair.label)
        if image.shape[:2] != label.shape:
            raise DataError(
                f"{pair.label}: label map is {label.shape[1]}x{label.shape[0]}, but its "
                f"picture {pair.image.name} is {image.shape[1]}x{image.shape[0]}; both must "
                "have one size: export the pair again"
            )
        return {"image": image, "label": label, "name": pair.name}

    def fingerprint(self) -> str:
        """Another text whenever a file or the coding is another."""
        digest = hashlib.sha256(self.coding.fingerprint().encode())
        for pair in self.pairs:
            for path in (pair.image, pair.label):
                status = path.stat()
                line = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def pair_by_stem(
    folder: Path,
    images: Iterable[Path],
    labels: Iterable[Path],
    stem_of_label: Callable[[str], str] = str,
) -> list[Pair]:
    """Pictures and label maps of equal stems, sorted by name.

    Args:
        folder: of the split, for error messages.
        images: files; those without a picture's suffix, and hidden ones, do not count.
        labels: likewise.
        stem_of_label: from the stem of a label map to that of its picture.

    Raises:
        DataError: lists what has no partner or is there twice.
    """
    pictures = _by_stem(images, IMAGE_SUFFIXES, str)
    maps = _by_stem(labels, LABEL_SUFFIXES, stem_of_label)
    if not pictures and not maps:
        raise DataError(
            f"{folder}: split is empty; put pictures ({', '.join(IMAGE_SUFFIXES)}) into "
            "images/ and label maps (.png) of the same names into labels/"
        )
    _refuse_singles(folder, "images/ without a label map in labels/", pictures, maps)
    _refuse_singles(folder, "labels/ without a picture in images/", maps, pictures)
    return [Pair(name, pictures[name], maps[name]) for name in sorted(pictures)]


def existing_folder(folder: Path, layout: str) -> Path:
    """The same folder, or a DataError that says what is there instead and the right layout."""
    if folder.is_dir():
        return folder
    parent = folder.parent
    there = sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []
    listing = f"{parent} holds: {first_few(there)}" if there else f"nothing is in {parent}"
    raise DataError(f"{folder}: no such folder ({listing}); the layout is {layout}")


def _by_stem(
    paths: Iterable[Path], suffixes: tuple[str, ...], stem_of: Callable[[str], str]
) -> dict[str, Path]:
    """The files with these suffixes; hidden ones, which some systems add, do not count."""
    files: dict[str, Path] = {}
    for path in sorted(paths):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        stem = stem_of(path.stem)
        if stem in files:
            raise DataError(
                f"{path.parent}: {files[stem].name} and {path.name} have the same name, which "
                "must be unique as it pairs picture and label map; remove or rename one"
            )
        files[stem] = path
    return files


def _refuse_singles(
    folder: Path, what: str, files: dict[str, Path], partners: dict[str, Path]
) -> None:
    singles = [files[stem].name for stem in sorted(files.keys() - partners.keys())]
    if singles:
        raise DataError(
            f"{folder}: {len(singles)} of {len(files)} files in {what}: {first_few(singles)}; "
            f"every picture ({', '.join(IMAGE_SUFFIXES)}) needs a label map (.png) of the same "
            "name: add the missing files or remove these"
        )
