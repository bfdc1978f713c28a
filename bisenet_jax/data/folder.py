"""Pictures and label maps in two folders: the simplest data set on disk.

ROOT/SPLIT/images/NAME.{jpg,jpeg,png}
ROOT/SPLIT/labels/NAME.png               8-bit grey, pixel value = class id, 255 = ignored
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bisenet_jax.data.classes import IGNORE, ClassSet
from bisenet_jax.data.decode import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_image, read_label
from bisenet_jax.data.example import Example
from bisenet_jax.errors import DataError


class FolderSource:
    """The labelled pictures of one split, sorted by name; missing partners are found at once.

    Reading an example checks its sizes and ids. Can be pickled, and read by many threads.
    """

    def __init__(self, root: str | Path, split: str, class_set: ClassSet) -> None:
        folder = _existing_folder(_existing_folder(Path(root)) / split)
        images = _files_by_stem(_existing_folder(folder / "images"), IMAGE_SUFFIXES)
        labels = _files_by_stem(_existing_folder(folder / "labels"), LABEL_SUFFIXES)
        if not images and not labels:
            raise DataError(
                f"{folder}: split is empty; put pictures ({', '.join(IMAGE_SUFFIXES)}) into "
                "images/ and label maps (.png) of the same names into labels/"
            )
        _refuse_singles(folder, "images/ without a label map in labels/", images, labels)
        _refuse_singles(folder, "labels/ without a picture in images/", labels, images)
        self.class_set = class_set
        self._names = sorted(images)
        self._images = [images[name] for name in self._names]
        self._labels = [labels[name] for name in self._names]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        """Example `index`: `image [H, W, 3] uint8`, `label [H, W] uint8`, `name`."""
        image, label = read_image(self._images[index]), read_label(self._labels[index])
        if image.shape[:2] != label.shape:
            raise DataError(
                f"{self._labels[index]}: label map is {_size(label)}, but its picture "
                f"{self._images[index].name} is {_size(image)}; both must have one size: "
                "export the pair again"
            )
        _check_ids(label, self.class_set, self._labels[index])
        return {"image": image, "label": label, "name": self._names[index]}


def _existing_folder(folder: Path) -> Path:
    if folder.is_dir():
        return folder
    parent = folder.parent
    there = sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []
    listing = f"{parent} holds: {_first_few(there)}" if there else f"nothing is in {parent}"
    raise DataError(
        f"{folder}: no such folder ({listing}); the layout is ROOT/SPLIT/images/NAME.jpg and "
        "ROOT/SPLIT/labels/NAME.png"
    )


def _files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files with these suffixes; hidden ones, which some systems add, do not count."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in files:
            raise DataError(
                f"{folder}: {files[path.stem].name} and {path.name} have the same name, which "
                "must be unique as it pairs picture and label map; remove or rename one"
            )
        files[path.stem] = path
    return files


def _refuse_singles(
    folder: Path, what: str, files: dict[str, Path], partners: dict[str, Path]
) -> None:
    singles = [files[stem].name for stem in sorted(files.keys() - partners.keys())]
    if singles:
        raise DataError(
            f"{folder}: {len(singles)} of {len(files)} files in {what}: {_first_few(singles)}; "
            f"every picture ({', '.join(IMAGE_SUFFIXES)}) needs a label map (.png) of the same "
            "name: add the missing files or remove these"
        )


def _check_ids(label: np.ndarray, class_set: ClassSet, path: Path) -> None:
    wrong = (label >= len(class_set)) & (label != IGNORE)
    if wrong.any():
        values = _first_few(np.unique(label[wrong]).tolist())
        raise DataError(
            f"{path}: label values {values} are no class ids; class set {class_set.name!r} "
            f"allows 0 to {len(class_set) - 1}, and {IGNORE} for ignored pixels: convert the "
            "label maps to these ids, or choose the class set they were made for"
        )


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


def _first_few(items: Iterable[object], count: int = 5) -> str:
    names = [str(item) for item in items]
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
