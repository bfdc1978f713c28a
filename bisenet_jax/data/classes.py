"""Class sets: names, colours and the ignored id of each labelling that we know.

Ids run from 0 to `len(class_set) - 1` in the order of `names`; every other pixel carries
`IGNORE` and takes part in no loss and no score.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

IGNORE = 255


@dataclass(frozen=True)
class ClassSet:
    """One labelling: `names[i]` and `colours[i]` (RGB, 0 to 255) belong to class id `i`.

    `categories` are coarser groups, name to class ids: every class is in one, or there is none.
    """

    name: str
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    categories: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def palette(self) -> np.ndarray:
        """Colours of all 256 possible label values, `[256, 3] uint8`; unused ids are black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self)] = self.colours
        return palette


# The 19 train ids of Cityscapes (cityscapesScripts, helpers/labels.py).
CITYSCAPES = ClassSet(
    name="cityscapes",
    names=(
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light"),
        *("traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car"),
        *("truck", "bus", "train", "motorcycle", "bicycle"),
    ),
    colours=(
        *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153)),
        *((153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152)),
        *((70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70)),
        *((0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
    ),
    categories={
        "flat": (0, 1),
        "construction": (2, 3, 4),
        "object": (5, 6, 7),
        "nature": (8, 9),
        "sky": (10,),
        "human": (11, 12),
        "vehicle": (13, 14, 15, 16, 17, 18),
    },
)

# The 11 grouped classes of CamVid in the order of the SegNet copy; colours are those of the
# class that names the group in CamVid's own 32-colour table.
CAMVID = ClassSet(
    name="camvid",
    names=(
        *("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence"),
        *("car", "pedestrian", "bicyclist"),
    ),
    colours=(
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192)),
        *((128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0)),
        (0, 128, 192),
    ),
)

# CamVid's own 11 base classes and nothing grouped with them, in the alphabetical order of
# PIDNet's lists: every other colour is ignored. Scores differ from those of the groups above.
CAMVID_EXACT = ClassSet(
    name="camvid_exact",
    names=(
        *("bicyclist", "building", "car", "column pole", "fence", "pedestrian", "road"),
        *("sidewalk", "sign symbol", "sky", "tree"),
    ),
    colours=(
        *((0, 128, 192), (128, 0, 0), (64, 0, 128), (192, 192, 128), (64, 64, 128)),
        *((64, 64, 0), (128, 64, 128), (0, 0, 192), (192, 128, 128), (128, 128, 128)),
        (128, 128, 0),
    ),
)
