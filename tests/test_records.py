"""A tfds folder, whoever wrote it, gives frames with train ids; what is amiss is said."""

import io
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bisenet_jax.config import DataConfig
from bisenet_jax.data.cityscapes.records import CityscapesRecords, records_folder
from bisenet_jax.data.sources import open_source
from bisenet_jax.errors import DataError

FRAMES = {"train": 5, "validation": 2, "test": 1}


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def frame(seed: int, value: int = 26, size: tuple[int, int] = (8, 12)) -> dict:
    rng = np.random.default_rng(seed)
    labels = np.full(size, value, np.uint8)
    labels[0, :3] = (4, 7, 255)
    return {
        "image_id": f"town_{seed:06d}_000019",
        "image_left": png(rng.integers(0, 256, (8, 12, 3), np.uint8)),
        "segmentation_label": png(labels),
    }


def write_by_tfds(data_dir: Path, splits: dict[str, list[dict]]) -> Path:
    """A folder of several shards a split, as tfds makes it on its own."""
    builder = tfds.builder(
        "cityscapes/semantic_segmentation", data_dir=data_dir, file_format="array_record"
    )
    folder = records_folder(data_dir)
    folder.mkdir(parents=True)
    builder.info.set_splits(tfds.core.SplitDict([]))
    writer = tfds.core.SequentialWriter(
        builder.info, max_examples_per_shard=2, file_format="array_record"
    )
    writer.initialize_splits(list(splits))
    writer.add_examples(splits)
    writer.close_all()
    return folder


def train_files(data_dir: Path) -> list[Path]:
    return sorted(records_folder(data_dir).glob("cityscapes-train.array_record-*"))


@pytest.fixture
def data_dir(tmp_path) -> Path:
    write_by_tfds(
        tmp_path,
        {name: [frame(seed) for seed in range(count)] for name, count in FRAMES.items()},
    )
    return tmp_path


def test_a_folder_that_tfds_wrote(data_dir):
    source = CityscapesRecords(data_dir, "train")
    assert [example["name"] for example in source] == [
        f"town_{seed:06d}_000019" for seed in range(5)
    ]
    expected = np.random.default_rng(3).integers(0, 256, (8, 12, 3), np.uint8)
    np.testing.assert_array_equal(source[3]["image"], expected)
    label = source[3]["label"]
    assert label[0, :4].tolist() == [255, 0, 255, 13] and (label[1:] == 13).all()
    assert label.dtype == np.uint8 and len(train_files(data_dir)) == 3
    with pytest.raises(IndexError, match="index 5"):
        source[5]


def test_a_configuration_finds_it_under_our_names(data_dir):
    config = DataConfig(source="cityscapes", root=str(data_dir))
    assert [len(open_source(config, split)) for split in ("train", "val", "test")] == [5, 2, 1]
    assert (open_source(config, "test")[0]["label"] == 255).all()


def test_records_go_before_extracted_folders(data_dir):
    (data_dir / "leftImg8bit").mkdir()
    config = DataConfig(source="cityscapes", root=str(data_dir))
    assert isinstance(open_source(config, "val"), CityscapesRecords)


def test_can_be_pickled_and_read_by_threads(data_dir):
    source = CityscapesRecords(data_dir, "train")
    source[0]
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as pool:
        examples = list(pool.map(copy.__getitem__, list(range(5)) * 8))
    for index, example in enumerate(examples):
        np.testing.assert_array_equal(example["image"], source[index % 5]["image"])


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="1.0.0: no such folder; .*data.prepare.*leftImg8bit"):
        open_source(DataConfig(source="cityscapes", root=str(tmp_path)), "train")


def test_preparation_that_has_not_ended(data_dir):
    (records_folder(data_dir) / "dataset_info.json").unlink()
    with pytest.raises(DataError, match="has not ended .*data.prepare cityscapes"):
        CityscapesRecords(data_dir, "train")


def test_another_format(data_dir):
    path = records_folder(data_dir) / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match="format tfrecord.*another data_dir.*array_record"):
        CityscapesRecords(data_dir, "train")


def test_a_split_that_was_not_prepared(tmp_path):
    write_by_tfds(tmp_path, {"train": [frame(0)]})
    with pytest.raises(DataError, match="split 'validation' .*only train; .*--splits val"):
        CityscapesRecords(tmp_path, "val")


def test_lost_and_damaged_files_are_named(data_dir):
    paths = train_files(data_dir)
    data = paths[1].read_bytes()
    paths[1].write_bytes(data.replace(b"IDAT", b"IDAX"))
    source = CityscapesRecords(data_dir, "train")
    assert source[1]["name"] == "town_000001_000019"
    with pytest.raises(DataError, match=f"{paths[1].name}: record of frame 2 cannot be read"):
        source[2]
    paths[1].unlink()
    with pytest.raises(DataError, match=f"1 of 5 files are missing: {paths[1].name}"):
        CityscapesRecords(data_dir, "train")


def test_frames_that_cannot_be_used_are_named(tmp_path):
    broken = frame(2) | {"image_left": b"no picture"}
    write_by_tfds(tmp_path, {"train": [frame(0, value=77), frame(1, size=(9, 12)), broken]})
    source = CityscapesRecords(tmp_path, "train")
    with pytest.raises(DataError, match="train town_000000_000019: label values 77 "):
        source[0]
    with pytest.raises(DataError, match="town_000001_000019: label map is 12x9, .* 12x8"):
        source[1]
    with pytest.raises(DataError, match="town_000002_000019 image_left: .* not a readable"):
        source[2]


def test_without_tfds(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r"needs tensorflow_datasets .*bisenet_jax\[tfds\]"):
        CityscapesRecords(data_dir, "train")
