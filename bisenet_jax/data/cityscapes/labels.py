"""Cityscapes: what its label ids mean, and where its files lie.

ROOT/leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png
ROOT/gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_labelIds.png

Its label maps hold label ids (0 to 33). Networks learn train ids, 0 to 18; submissions hold
label ids again.
"""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.coding import IdCoding, first_few, id_coding
from bisenet_jax.data.pairs import Pair, existing_folder
from bisenet_jax.errors import DataError

SPLITS = ("train", "val", "test")
FRAMES = {"train": 2975, "val": 500, "test": 1525}  # of the public splits
HEIGHT, WIDTH = 1024, 2048  # of each of them
IMAGE_FOLDER, LABEL_FOLDER = "leftImg8bit", "gtFine"
IMAGE_ENDING, LABEL_ENDING = "_leftImg8bit.png", "_gtFine_labelIds.png"
LAYOUT = (
    f"ROOT/{IMAGE_FOLDER}/SPLIT/CITY/NAME{IMAGE_ENDING} and "
    f"ROOT/{LABEL_FOLDER}/SPLIT/CITY/NAME{LABEL_ENDING}"
)


class Label(NamedTuple):
    """One row of the public table (cityscapesScripts, helpers/labels.py)."""

    name: str
    label_id: int
    train_id: int  # IGNORE where the table has 255 or -1
    category: str
    colour: tuple[int, int, int]

    @property
    def is_ignored(self) -> bool:
        """Whether its pixels take part in no score."""
        return self.train_id == IGNORE


LABELS = (
    Label("unlabeled", 0, IGNORE, "void", (0, 0, 0)),
    Label("ego vehicle", 1, IGNORE, "void", (0, 0, 0)),
    Label("rectification border", 2, IGNORE, "void", (0, 0, 0)),
    Label("out of roi", 3, IGNORE, "void", (0, 0, 0)),
    Label("static", 4, IGNORE, "void", (0, 0, 0)),
    Label("dynamic", 5, IGNORE, "void", (111, 74, 0)),
    Label("ground", 6, IGNORE, "void", (81, 0, 81)),
    Label("road", 7, 0, "flat", (128, 64, 128)),
    Label("sidewalk", 8, 1, "flat", (244, 35, 232)),
    Label("parking", 9, IGNORE, "flat", (250, 170, 160)),
    Label("rail track", 10, IGNORE, "flat", (230, 150, 140)),
    Label("building", 11, 2, "construction", (70, 70, 70)),
    Label("wall", 12, 3, "construction", (102, 102, 156)),
    Label("fence", 13, 4, "construction", (190, 153, 153)),
    Label("guard rail", 14, IGNORE, "construction", (180, 165, 180)),
    Label("bridge", 15, IGNORE, "construction", (150, 100, 100)),
    Label("tunnel", 16, IGNORE, "construction", (150, 120, 90)),
    Label("pole", 17, 5, "object", (153, 153, 153)),
    Label("polegroup", 18, IGNORE, "object", (153, 153, 153)),
    Label("traffic light", 19, 6, "object", (250, 170, 30)),
    Label("traffic sign", 20, 7, "object", (220, 220, 0)),
    Label("vegetation", 21, 8, "nature", (107, 142, 35)),
    Label("terrain", 22, 9, "nature", (152, 251, 152)),
    Label("sky", 23, 10, "sky", (70, 130, 180)),
    Label("person", 24, 11, "human", (220, 20, 60)),
    Label("rider", 25, 12, "human", (255, 0, 0)),
    Label("car", 26, 13, "vehicle", (0, 0, 142)),
    Label("truck", 27, 14, "vehicle", (0, 0, 70)),
    Label("bus", 28, 15, "vehicle", (0, 60, 100)),
    Label("caravan", 29, IGNORE, "vehicle", (0, 0, 90)),
    Label("trailer", 30, IGNORE, "vehicle", (0, 0, 110)),
    Label("train", 31, 16, "vehicle", (0, 80, 100)),
    Label("motorcycle", 32, 17, "vehicle", (0, 0, 230)),
    Label("bicycle", 33, 18, "vehicle", (119, 11, 32)),
    Label("license plate", -1, IGNORE, "vehicle", (0, 0, 142)),
)

# As stored in an 8-bit PNG, where -1 becomes 255.
_TRAIN_IDS = {label.label_id % 256: label.train_id for label in LABELS}

# Label ids of the train ids 0 to 18.
LABEL_IDS = tuple(label.label_id for label in LABELS if not label.is_ignored)

# The way back, `[256] uint8`: of each train id the label id, 0 (unlabeled) for all others.
LABEL_ID_OF = np.zeros(256, np.uint8)
LABEL_ID_OF[: len(LABEL_IDS)] = LABEL_IDS

_IMAGE_ID = re.compile(r"[^_.]+_[0-9]{6}_[0-9]{6}")

_CODING = id_coding(_TRAIN_IDS, "Cityscapes' label ids are 0 to 33, and 255 for license plate")
_NO_TRUTH = id_coding(dict.fromkeys(range(256), IGNORE), "any value is ignored")


def image_id_of(name: str) -> str | None:
    """The CITY_SEQUENCE_FRAME that the name of a file begins with, or None."""
    found = _IMAGE_ID.match(name)
    return found and found[0]


def coding_of(split: str) -> IdCoding:
    """From label ids to train ids; of the test split, whose maps are dummies, to IGNORE."""
    return _NO_TRUTH if split == "test" else _CODING


class FramePaths(NamedTuple):
    """The two files of one frame; `name` is its image id, such as `aachen_000000_000019`."""

    name: str
    image: str
    label: str


def list_pairs(root: str | Path, split: str) -> list[Pair]:
    """The pairs of one split in extracted folders; a DataError says what is missing."""
    root = existing_folder(Path(root), LAYOUT)
    images, labels = (
        existing_folder(existing_folder(root / part, LAYOUT) / split, LAYOUT)
        for part in (IMAGE_FOLDER, LABEL_FOLDER)
    )
    frames = pair_frames(
        (path.as_posix() for path in images.glob("*/*.png")),
        (path.as_posix() for path in labels.glob("*/*.png")),
        where=str(root),
        split=split,
    )
    return [Pair(name, Path(image), Path(label)) for name, image, label in frames]


def pair_frames(
    images: Iterable[str], labels: Iterable[str], *, where: str, split: str
) -> list[FramePaths]:
    """The frames of a split, sorted by name; files of other endings do not count.

    Args:
        images: paths of all files of the split under leftImg8bit/.
        labels: likewise under gtFine/.
        where: for error messages, what holds these paths.

    Raises:
        DataError: lists the files without a partner, or says that there are none.
    """
    pictures, maps = _by_name(images, IMAGE_ENDING), _by_name(labels, LABEL_ENDING)
    if not pictures and not maps:
        raise DataError(
            f"{where}: split {split!r} holds no frames; the splits are {', '.join(SPLITS)}, "
            f"and the layout is {LAYOUT}"
        )
    for files, partners, part, ending in (
        (pictures, maps, LABEL_FOLDER, LABEL_ENDING),
        (maps, pictures, IMAGE_FOLDER, IMAGE_ENDING),
    ):
        if alone := sorted(files.keys() - partners.keys()):
            raise DataError(
                f"{where}: {len(alone)} of {len(files)} frames of split {split!r} lack their "
                f"{part}/{split}/CITY/NAME{ending}: {first_few(alone)}; download or extract "
                f"{part} again"
            )
    return [FramePaths(name, pictures[name], maps[name]) for name in sorted(pictures)]


def _by_name(paths: Iterable[str], ending: str) -> dict[str, str]:
    """Paths by the name of their frame, without hidden files, which some systems add."""
    names = ((PurePosixPath(path).name, path) for path in paths)
    return {
        name.removesuffix(ending): path
        for name, path in names
        if name.endswith(ending) and not name.startswith(".")
    }
