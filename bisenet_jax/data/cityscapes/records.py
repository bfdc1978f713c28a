"""Cityscapes as tensorflow_datasets keeps it, read by its own means and decoded by ours.

DATA_DIR/cityscapes/semantic_segmentation/1.0.0/      in ArrayRecord files

`bisenet_jax.data.prepare` writes such a folder; one that tfds prepared itself in the format
array_record will do as well.
"""

import bisect
import io
import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bisenet_jax.data.cityscapes.labels import LAYOUT, coding_of
from bisenet_jax.data.coding import first_few
from bisenet_jax.data.decode import decode_image, decode_label, read_size
from bisenet_jax.data.example import Example, Frame
from bisenet_jax.errors import DataError
from bisenet_jax.files import fingerprint

DATASET = "cityscapes/semantic_segmentation"
VERSION = "1.0.0"
FORMAT = "array_record"
PREPARE = "python -m bisenet_jax.data.prepare cityscapes --zips ZIPS --data_dir DATA_DIR"


class CityscapesRecords:
    """The frames of one split. Can be pickled, and read by many threads."""

    def __init__(self, data_dir: str | Path, split: str) -> None:
        """Open a split: train, val or test.

        Raises:
            DataError: the folder is missing, unfinished, lacks a file or the split, or is in
                a format without random access; or tfds is not installed.
        """
        self.data_dir = Path(data_dir)
        self.split = split
        self._coding = coding_of(split)
        builder = open_builder(records_folder(data_dir))
        name = tfds_split(split)
        if name not in builder.info.splits:
            raise DataError(
                f"{builder.data_dir}: split {name!r} was not prepared, only "
                f"{first_few(builder.info.splits)}; add it by {PREPARE} --splits {split}"
            )
        info = builder.info.splits[name]
        self._files = [Path(path) for path in info.filepaths]
        self._ends = list(itertools.accumulate(info.shard_lengths))
        self._records = builder.as_data_source(name, decoders=_skip_decoding())

    def __reduce__(self) -> tuple[Any, ...]:
        # Open files stay behind: a loader process opens its own.
        return CityscapesRecords, (self.data_dir, self.split)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        """Frame `index`: `image [H, W, 3] uint8`, `label [H, W] uint8` train ids, `name`.

        Raises:
            DataError: names the file whose record is damaged, or the frame with pixels that
                cannot be decoded or are no label ids.
        """
        record = self._record(index)
        name = record["image_id"].decode()
        where = f"{self.data_dir} {self.split} {name}"
        image = decode_image(record["image_left"], f"{where} image_left")
        values = decode_label(record["segmentation_label"], f"{where} segmentation_label")
        if image.shape[:2] != values.shape:
            raise DataError(
                f"{where}: label map is {values.shape[1]}x{values.shape[0]}, but the picture "
                f"is {image.shape[1]}x{image.shape[0]}; prepare the data set again"
            )
        return {"image": image, "label": self._coding.decode(values, where), "name": name}

    def describe(self, index: int) -> Frame:
        """Name and size of frame `index`, from the header of its picture."""
        record = self._record(index)
        name = record["image_id"].decode()
        where = f"{self.data_dir} {self.split} {name} image_left"
        return Frame(name, *read_size(io.BytesIO(record["image_left"]), where))

    def _record(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside of 0 to {len(self) - 1}")
        try:
            return self._records[index]
        except RuntimeError as error:
            path = self._files[bisect.bisect_right(self._ends, index)]
            raise DataError(
                f"{path}: record of frame {index} cannot be read ({error}); delete the folder "
                f"{path.parent} and prepare it again"
            ) from error

    def fingerprint(self) -> str:
        """Another text whenever a file or the coding is another."""
        return f"{fingerprint(self._files)} {self._coding.fingerprint()}"


def records_folder(data_dir: str | Path) -> Path:
    """Where tfds keeps the data set under its `data_dir`."""
    return Path(data_dir) / DATASET / VERSION


def is_described(folder: Path) -> bool:
    """Whether preparation has ended; the description is written last."""
    return (folder / "dataset_info.json").is_file()


def tfds_split(split: str) -> str:
    """The name that tfds gives to a split of ours."""
    return "validation" if split == "val" else split


def open_builder(folder: Path) -> Any:
    """The tfds builder of a finished folder whose files are all there, or a DataError."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; prepare the data set by {PREPARE}, or set "
            f"config.data.root to the folder with its extracted files: {LAYOUT}"
        )
    if not is_described(folder):
        raise DataError(
            f"{folder}: preparation has not ended (there is no dataset_info.json); end it by "
            f"{PREPARE}, which keeps what is there"
        )
    builder = import_tfds().builder_from_directory(folder)
    found = builder.info.file_format.value
    if found != FORMAT:
        raise DataError(
            f"{folder}: files are in format {found}, which gives no access by index; prepare "
            f"into another data_dir by {PREPARE}, or by tfds with file_format='{FORMAT}'"
        )
    paths = [Path(path) for info in builder.info.splits.values() for path in info.filepaths]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise DataError(
            f"{folder}: {len(missing)} of {len(paths)} files are missing: {first_few(missing)};"
            " copy them here, or delete the folder and prepare it again"
        )
    return builder


def read_name(features: Any, record: bytes) -> str:
    """The image id in a serialised record, without decoding its pictures."""
    example: Mapping[str, Any] = features.deserialize_example_np(
        record, decoders=_skip_decoding()
    )
    return example["image_id"].decode()


def import_tfds() -> Any:
    """The module tensorflow_datasets; a DataError says how to get it."""
    try:
        with warnings.catch_warnings():
            # Its dependencies use what newer versions of Python warn of.
            warnings.simplefilter("ignore")
            import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f"reading {DATASET} needs tensorflow_datasets ({error}); install it by "
            "pip install 'bisenet_jax[tfds]'"
        ) from error
    return tensorflow_datasets


def _skip_decoding() -> dict[str, Any]:
    skip = import_tfds().decode.SkipDecoding()
    return {"image_left": skip, "segmentation_label": skip}
