"""CamVid in each layout that it is handed round in; scores are published on the SegNet split.

ROOT/{train,val,test}/images/NAME.jpg and ROOT/{train,val,test}/labels/NAME.png
ROOT/{train,val,test}/NAME.png and ROOT/{trainannot,valannot,testannot}/NAME.png   SegNet's
ROOT/{train,val,test}/NAME.png and ROOT/{train,val,test}_labels/NAME_L.png         Kaggle's
ROOT/{701_StillsRaw_full,CamVid_RGB,images}/NAME.png with
    ROOT/{LabeledApproved_full,CamVid_Label,labels,CamVidGray}/NAME_L.png          the original

In the last one the name of a frame says its split; lists beside it are not read. Whether label
maps hold ids or colours is seen from their pixels.
"""

import hashlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bisenet_jax.data.classes import CAMVID, CAMVID_EXACT, IGNORE, ClassSet
from bisenet_jax.data.coding import Coding, colour_coding, first_few, id_coding
from bisenet_jax.data.decode import label_kind
from bisenet_jax.data.pairs import Pair, PairSource, existing_folder, pair_by_stem
from bisenet_jax.errors import ConfigError, DataError

Colour = tuple[int, int, int]

SPLITS = {"train": ("train",), "val": ("val",), "test": ("test",), "trainval": ("train", "val")}
FRAMES = {"train": 367, "val": 101, "test": 233}
# SHA-256 of the sorted names of the split, one per line, without suffixes.
DIGESTS = {
    "train": "07e685a27911965c9ed3e81e4b8f016112f5d12b10466b3f5d40a362cd2cf253",
    "val": "76fa530e818b0bb8716bb9d9ebfdde4e908e8ee9c8850ff65af4e512bb233481",
}
IMAGE_FOLDERS = ("701_StillsRaw_full", "CamVid_RGB", "images")
# Colour maps first: they serve both class sets.
MAP_FOLDERS = ("LabeledApproved_full", "CamVid_Label", "labels", "CamVidGray")
LAYOUT = (
    "ROOT/{train,val,test}/{images,labels}/NAME.png, ROOT/{train,trainannot,...}/NAME.png, "
    "ROOT/{train,train_labels,...}/NAME.png or ROOT/{701_StillsRaw_full,LabeledApproved_full}/"
    "NAME.png"
)

# CamVid's 32 classes in the groups that MATLAB's camvidPixelLabelIDs and SegNet use.
GROUPS: dict[str, dict[str, Colour]] = {
    "sky": {"Sky": (128, 128, 128)},
    "building": {
        "Building": (128, 0, 0),
        "Bridge": (0, 128, 64),
        "Wall": (64, 192, 0),
        "Tunnel": (64, 0, 64),
        "Archway": (192, 0, 128),
    },
    "pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "road": {
        "Road": (128, 64, 128),
        "LaneMkgsDriv": (128, 0, 192),
        "LaneMkgsNonDriv": (192, 0, 64),
    },
    "pavement": {
        "Sidewalk": (0, 0, 192),
        "ParkingBlock": (64, 192, 128),
        "RoadShoulder": (128, 128, 192),
    },
    "tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "sign symbol": {
        "SignSymbol": (192, 128, 128),
        "Misc_Text": (128, 128, 64),
        "TrafficLight": (0, 64, 64),
    },
    "fence": {"Fence": (64, 64, 128)},
    "car": {
        "Car": (64, 0, 128),
        "SUVPickupTruck": (64, 128, 192),
        "Truck_Bus": (192, 128, 192),
        "Train": (192, 64, 128),
        "OtherMoving": (128, 64, 64),
    },
    "pedestrian": {
        "Pedestrian": (64, 64, 0),
        "Child": (192, 128, 64),
        "CartLuggagePram": (64, 0, 192),
        "Animal": (64, 128, 64),
    },
    "bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
}
VOID: Colour = (0, 0, 0)

# SegNet's copies number void as 11, ours as IGNORE.
IDS = id_coding(
    {class_id: class_id for class_id in range(len(CAMVID))} | {11: IGNORE, IGNORE: IGNORE},
    f"CamVid's maps of ids hold 0 to 10, and 11 or {IGNORE} for ignored pixels",
)
# Other colours are ignored, as at least one original map has stray ones (Seq05VD_f02610_L).
COLOURS = {
    CAMVID: colour_coding(
        {
            colour: CAMVID.names.index(group)
            for group, members in GROUPS.items()
            for colour in members.values()
        },
        ignores_others=True,
    ),
    CAMVID_EXACT: colour_coding(
        {colour: class_id for class_id, colour in enumerate(CAMVID_EXACT.colours)},
        ignores_others=True,
    ),
}

_KNOWN = colour_coding(
    {VOID: 0} | {colour: 0 for group in GROUPS.values() for colour in group.values()},
    ignores_others=True,
)
_SAMPLE = 5  # maps looked at to tell ids from colours
_FRAME_NAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)")


class SplitWarning(UserWarning):
    """A split that holds other frames than the one that scores are published on."""


def open_camvid(root: str | Path, split: str, class_set: ClassSet) -> PairSource:
    """The labelled frames of `train`, `val`, `test` or `trainval` (both of them joined).

    Args:
        root: folder of one of the layouts above.
        class_set: `CAMVID`, or `CAMVID_EXACT` where the label maps hold colours.

    Raises:
        DataError: says what is missing, or that the label maps are not CamVid's.
        ConfigError: the label maps cannot show this class set.

    Warns:
        SplitWarning: says how the frames differ from the SegNet split.
    """
    pairs = list_pairs(root, split)
    return PairSource(pairs, _choose_coding([pair.label for pair in pairs], class_set))


def list_pairs(root: str | Path, split: str) -> list[Pair]:
    """The pairs of one split, a split after the other and each sorted by name."""
    folder = existing_folder(Path(root), LAYOUT)
    if split not in SPLITS:
        raise DataError(f"split {split!r} is not known; CamVid has {', '.join(SPLITS)}")
    pairs = []
    for part in SPLITS[split]:
        found = _pairs_of_part(folder, part)
        if difference := compare_with_segnet(part, [pair.name for pair in found]):
            warnings.warn(
                f"{folder}: split {part!r} is not SegNet's, which published scores are of: "
                f"{difference}. Do not compare scores on it with those. (Kaggle's split of "
                "369, 100 and 232 frames is known to score too high.)",
                SplitWarning,
                stacklevel=3,
            )
        pairs += found
    return pairs


def split_of_frame(name: str) -> str | None:
    """The split that SegNet puts a frame into; None if it is no name of a CamVid frame."""
    match = _FRAME_NAME.fullmatch(name)
    if match is None:
        return None
    sequence, number = match[1], int(match[2])
    if sequence == "0016E5":
        return "val" if number % 2 and 7959 <= number <= 8159 else "train"
    if sequence == "0001TP":
        return "train" if number <= 8520 else "test"
    return "train" if sequence == "0006R0" else "test"


def compare_with_segnet(split: str, names: Sequence[str]) -> str:
    """How these frames differ from those of a SegNet split, in words; empty if they do not."""
    differences = []
    if len(names) != FRAMES[split]:
        differences.append(f"it has {len(names)} frames instead of {FRAMES[split]}")
    strangers = [
        f"{name} ({split_of_frame(name) or 'no CamVid frame'})"
        for name in names
        if split_of_frame(name) != split
    ]
    if strangers:
        differences.append(f"{len(strangers)} belong elsewhere: {first_few(strangers)}")
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    if not differences and digest != DIGESTS.get(split, digest):
        differences.append("it has other frames of the same drives")
    return "; ".join(differences)


def _pairs_of_part(root: Path, split: str) -> list[Pair]:
    in_folders = [
        (f"{split}/images", f"{split}/labels"),
        (split, f"{split}annot"),
        (split, f"{split}_labels"),
    ]
    in_one = [(images, maps) for images in IMAGE_FOLDERS for maps in MAP_FOLDERS]
    for images, maps in in_folders + in_one:
        if not ((root / images).is_dir() and (root / maps).is_dir()):
            continue
        pairs = pair_by_stem(
            root,
            (root / images).iterdir(),
            (root / maps).iterdir(),
            lambda stem: stem.removesuffix("_L"),
            folders=(images, maps),
        )
        return _select(root / images, pairs, split) if (images, maps) in in_one else pairs
    there = first_few(sorted(path.name for path in root.iterdir()), 10)
    raise DataError(
        f"{root}: no pictures and label maps of split {split!r} (it holds: {there or 'nothing'}"
        f"); the layouts are {LAYOUT}"
    )


def _select(folder: Path, pairs: list[Pair], split: str) -> list[Pair]:
    strangers = [pair.image.name for pair in pairs if split_of_frame(pair.name) is None]
    if strangers:
        raise DataError(
            f"{folder}: {len(strangers)} pictures are not named as CamVid's frames, such as "
            f"0016E5_07959: {first_few(strangers)}; the name says the split, so rename them, "
            "or put each split into folders of its own"
        )
    selected = [pair for pair in pairs if split_of_frame(pair.name) == split]
    if not selected:
        raise DataError(f"{folder}: none of its {len(pairs)} frames belongs to split {split!r}")
    return selected


def _choose_coding(maps: list[Path], class_set: ClassSet) -> Coding:
    """Ids or colours, as a few of the maps show."""
    places = np.linspace(0, len(maps) - 1, min(_SAMPLE, len(maps))).astype(int)
    if all([_shows_colours(maps[place]) for place in places]):
        return COLOURS[class_set]
    if class_set is not CAMVID:
        raise ConfigError(
            f"config.data.classes {class_set.name!r} needs label maps in colours, but "
            f"{maps[0]} holds the ids of {CAMVID.name!r}; choose that one, or give the "
            "original colour maps (NAME_L.png)"
        )
    return IDS


def _shows_colours(path: Path) -> bool:
    """Whether a label map holds colours and no ids; a DataError if they are not CamVid's."""
    kind = label_kind(path)
    if kind.startswith("grey"):
        return False
    known = float((_KNOWN.read(path) != IGNORE).mean())
    # A palette serves to show ids, or to save colours in fewer bytes: then all are CamVid's.
    if kind == "palette":
        return known == 1
    if known < 0.5:
        raise DataError(
            f"{path}: {1 - known:.0%} of its pixels have colours that CamVid does not use; "
            "give the original colour maps, never resized or saved as JPEG, or maps of ids"
        )
    return True
