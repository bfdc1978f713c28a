"""Pictures and label maps in two folders: the simplest data set on disk.

ROOT/SPLIT/images/NAME.{jpg,jpeg,png}
ROOT/SPLIT/labels/NAME.png               coded as the class file says, by default 8-bit ids
"""

from pathlib import Path

from bisenet_jax.data.pairs import Pair, existing_folder, pair_by_stem

LAYOUT = "ROOT/SPLIT/images/NAME.jpg and ROOT/SPLIT/labels/NAME.png"


def list_pairs(root: str | Path, split: str) -> list[Pair]:
    """The pairs of one split; a DataError says what is missing."""
    folder = existing_folder(existing_folder(Path(root), LAYOUT) / split, LAYOUT)
    images, labels = (
        existing_folder(folder / part, LAYOUT).iterdir() for part in ("images", "labels")
    )
    return pair_by_stem(folder, images, labels)
