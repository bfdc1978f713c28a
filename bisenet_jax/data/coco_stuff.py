"""COCO-Stuff: all of it (164k), or its first edition (10k), which the paper uses.

ROOT/images/{train2017,val2017}/NAME.jpg             or without images/
ROOT/stuffthingmaps/{train2017,val2017}/NAME.png     or in annotations/, or beside the pictures

ROOT/images/NAME.jpg                                 10k, version 1.1
ROOT/annotations/NAME.mat                            or NAME.png, numbered as those of 164k
ROOT/imageLists/{train,test}.txt

Splits are `train` and `val`; of 10k, `val` is the test list. Scores on the two editions cannot
be compared.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.coco_stuff_classes import COCO_STUFF, SQUEEZED
from bisenet_jax.data.coding import IdCoding, first_few, id_coding, plain_ids
from bisenet_jax.data.decode import read_bytes
from bisenet_jax.data.matrix_file import read_matrix
from bisenet_jax.data.pairs import PairSource, existing_folder, pair_by_stem
from bisenet_jax.errors import DataError

MAP_FOLDERS = ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017", "")
TRAIN_IDS = "_labelTrainIds"  # mmsegmentation's name for maps that are squeezed already
FOLDERS = {"train": "train2017", "val": "val2017"}
LISTS = {"train": "train.txt", "val": "test.txt"}
LAYOUT = (
    "ROOT/images/{train2017,val2017}/NAME.jpg and ROOT/stuffthingmaps/{train2017,val2017}/"
    "NAME.png for 164k, or ROOT/images/NAME.jpg, ROOT/annotations/NAME.mat and "
    "ROOT/imageLists/{train,test}.txt for 10k"
)

_EXCEPT = "without the eleven ids that never occur"
STORED_IDS = id_coding(
    SQUEEZED | {IGNORE: IGNORE},
    f"COCO-Stuff's maps hold 0 to 181 {_EXCEPT}, and {IGNORE} for no class",
)


@dataclass(frozen=True, eq=False)
class MatrixCoding:
    """Label maps as the matrix `S` of MATLAB files, whose values `ids` explains."""

    ids: IdCoding

    def read(self, path: Path) -> np.ndarray:
        """The class ids in a .mat file, `[H, W] uint8`; a DataError names the file."""
        data = read_bytes(path)
        try:
            values = read_matrix(data, "S")
        except ValueError as error:
            raise DataError(
                f"{path}: cannot be read as a MATLAB file ({error}); fetch it again"
            ) from error
        if values is None or not values.size:
            raise DataError(
                f"{path}: holds no label map, which must be a matrix of numbers named S; take "
                "the annotations of COCO-Stuff 10k, version 1.1"
            )
        if wrong := np.setdiff1d(values, np.arange(256)).tolist():
            raise DataError(
                f"{path}: S holds {first_few(wrong)}, label values must be whole numbers from "
                "0 to 255; fetch it again"
            )
        return self.ids.decode(values.astype(np.uint8), str(path))

    def fingerprint(self) -> str:
        """Equal for codings that give equal ids."""
        return f"matrix {self.ids.fingerprint()}"


# In the MATLAB files every id is one higher, as 0 stands for no class.
MATRIX_IDS = MatrixCoding(
    id_coding(
        {stored + 1: class_id for stored, class_id in SQUEEZED.items()} | {0: IGNORE},
        f"COCO-Stuff's matrices hold 1 to 182 {_EXCEPT}, and 0 for no class",
    )
)


def open_coco_stuff(root: str | Path, split: str) -> PairSource:
    """The labelled pictures of `train` or `val`; a DataError says what is missing."""
    folder = existing_folder(Path(root), LAYOUT)
    if split not in FOLDERS:
        raise DataError(
            f"split {split!r} is not known; COCO-Stuff has {' and '.join(FOLDERS)}, and the "
            "test pictures of 164k have no label maps"
        )
    if (folder / "imageLists").is_dir():
        return _open_10k(folder, folder / "imageLists" / LISTS[split])
    return _open_164k(folder, FOLDERS[split])


def _open_164k(root: Path, name: str) -> PairSource:
    images = root / "images" / name if (root / "images").is_dir() else root / name
    pictures = _files(existing_folder(images, LAYOUT), ".jpg")
    for part in MAP_FOLDERS:
        if (root / part / name).is_dir() and (maps := _files(root / part / name, ".png")):
            return _pair_164k(root, images, pictures, root / part / name, maps)
    looked_in = first_few(Path(part, name).as_posix() for part in MAP_FOLDERS)
    raise DataError(f"{root}: no label maps (.png) in {looked_in}; the layout is {LAYOUT}")


def _pair_164k(
    root: Path, images: Path, pictures: list[Path], labels: Path, maps: list[Path]
) -> PairSource:
    # mmsegmentation leaves the maps that it read beside those that it wrote.
    stored = [path for path in maps if not path.stem.endswith(TRAIN_IDS)]
    pairs = pair_by_stem(
        root,
        pictures,
        stored or maps,
        lambda stem: stem.removesuffix(TRAIN_IDS),
        folders=(_inside(images, root), _inside(labels, root)),
    )
    return PairSource(pairs, STORED_IDS if stored else plain_ids(COCO_STUFF))


def _open_10k(root: Path, list_file: Path) -> PairSource:
    try:
        lines = list_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{list_file}: cannot be read ({error}); the layout is {LAYOUT}"
        ) from error
    names = {line.strip() for line in lines} - {""}
    pictures = _files(existing_folder(root / "images", LAYOUT), ".jpg")
    labels = existing_folder(root / "annotations", LAYOUT)
    matrices = _files(labels, ".mat")
    pairs = pair_by_stem(
        root,
        [path for path in pictures if path.stem in names],
        [path for path in matrices or _files(labels, ".png") if path.stem in names],
        folders=("images", "annotations"),
        label_suffixes=(".mat", ".png"),
    )
    if absent := sorted(names - {pair.name for pair in pairs}):
        raise DataError(
            f"{root}: {len(absent)} of {len(names)} names in {list_file.name} have no picture "
            f"in images/: {first_few(absent)}; add the missing files"
        )
    return PairSource(pairs, MATRIX_IDS if matrices else STORED_IDS)


def _files(folder: Path, suffix: str) -> list[Path]:
    """The files with this suffix, without hidden ones, which some systems add."""
    return [
        path
        for path in folder.iterdir()
        if path.suffix.lower() == suffix and not path.name.startswith(".")
    ]


def _inside(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix()
