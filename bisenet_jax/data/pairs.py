"""Pictures and label maps as pairs of files: what most data sets on disk come down to.

A layout (`folder`, `camvid`, `coco_stuff`, `cityscapes`) lists the pairs of a split; a coding
says what the label maps mean; `PairSource` reads them.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from bisenet_jax.data.coding import first_few
from bisenet_jax.data.decode import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_image, read_size
from bisenet_jax.data.example import Example, Frame
from bisenet_jax.errors import DataError
from bisenet_jax.files import fingerprint


class Pair(NamedTuple):
    """One labelled picture on disk; `name` is unique within its split."""

    name: str
    image: Path
    label: Path


class LabelReader(Protocol):
    """What reads label maps: a coding of PNG files, or of another kind of file."""

    def read(self, path: Path) -> np.ndarray: ...

    def fingerprint(self) -> str: ...


class PairSource:
    """The labelled pictures of one split. Can be pickled, and read by many threads."""

    def __init__(self, pairs: Sequence[Pair], coding: LabelReader) -> None:
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

    def name(self, index: int) -> str:
        """Of example `index`."""
        return self.pairs[index].name

    def describe(self, index: int) -> Frame:
        """Name and size of example `index`, from the header of its picture."""
        pair = self.pairs[index]
        return Frame(pair.name, *read_size(pair.image, str(pair.image)))

    def fingerprint(self) -> str:
        """Another text whenever a file or the coding is another."""
        files = fingerprint(path for pair in self.pairs for path in (pair.image, pair.label))
        return f"{files} {self.coding.fingerprint()}"


def pair_by_stem(
    folder: Path,
    images: Iterable[Path],
    labels: Iterable[Path],
    stem_of_label: Callable[[str], str] = str,
    *,
    folders: tuple[str, str] = ("images", "labels"),
    label_suffixes: tuple[str, ...] = LABEL_SUFFIXES,
) -> list[Pair]:
    """Pictures and label maps of equal stems, sorted by name.

    Args:
        folder: of the split, for error messages.
        images: files; those without a picture's suffix, and hidden ones, do not count.
        labels: likewise.
        stem_of_label: from the stem of a label map to that of its picture.
        folders: of pictures and of label maps within the split's, for error messages.
        label_suffixes: of label maps, in small letters.

    Raises:
        DataError: lists what has no partner or is there twice.
    """
    pictures = _by_stem(images, IMAGE_SUFFIXES, str)
    maps = _by_stem(labels, label_suffixes, stem_of_label)
    image_folder, label_folder = folders
    if not pictures and not maps:
        raise DataError(
            f"{folder}: split is empty; put pictures ({', '.join(IMAGE_SUFFIXES)}) into "
            f"{image_folder}/ and label maps ({', '.join(label_suffixes)}) of the same names "
            f"into {label_folder}/"
        )
    _refuse_singles(
        folder, f"{image_folder}/ without a label map in {label_folder}/", pictures, maps
    )
    _refuse_singles(
        folder, f"{label_folder}/ without a picture in {image_folder}/", maps, pictures
    )
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
            f"every picture ({', '.join(IMAGE_SUFFIXES)}) needs a label map of the same name, "
            "and the other way round: add the missing files or remove these"
        )
