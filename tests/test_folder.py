"""A folder of pictures and label maps: what is read, and how each flaw is told."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bisenet_jax.data.classes import CAMVID, CITYSCAPES, ClassSet
from bisenet_jax.data.coding import plain_ids
from bisenet_jax.data.folder import list_pairs
from bisenet_jax.data.pairs import PairSource
from bisenet_jax.errors import DataError


def open_folder(root: Path, split: str, class_set: ClassSet) -> PairSource:
    return PairSource(list_pairs(root, split), plain_ids(class_set))


def picture(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def label_map(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(0, len(CAMVID), (height, width), np.uint8)
    ids[0] = 255
    return ids


@pytest.fixture
def root(tmp_path) -> Path:
    """A data set whose split `train` holds the pictures b, a10 and a9."""
    for part in ("images", "labels"):
        (tmp_path / "train" / part).mkdir(parents=True)
    for seed, name in enumerate(("b", "a10", "a9")):
        Image.fromarray(picture(seed)).save(tmp_path / f"train/images/{name}.png")
        Image.fromarray(label_map(seed)).save(tmp_path / f"train/labels/{name}.png")
    return tmp_path


def test_pairs_come_whole_and_sorted_by_name(root):
    source = open_folder(root, "train", CAMVID)
    assert len(source) == 3
    assert [example["name"] for example in source] == ["a10", "a9", "b"]
    np.testing.assert_array_equal(source[2]["image"], picture(0))
    np.testing.assert_array_equal(source[2]["label"], label_map(0))
    np.testing.assert_array_equal(source[0]["label"], label_map(1))


def test_order_does_not_depend_on_the_file_system(root, monkeypatch):
    listed = os.listdir

    def backwards(path=".") -> list[str]:
        return sorted(listed(path), reverse=True)

    monkeypatch.setattr(os, "listdir", backwards)
    monkeypatch.setattr(Path, "iterdir", lambda path: (path / name for name in backwards(path)))
    names = [example["name"] for example in open_folder(root, "train", CAMVID)]
    assert names == ["a10", "a9", "b"]


def test_jpeg_suffixes_in_any_case_and_names_of_any_script(root):
    for name in ("naïve-Straße", "道路 1"):
        Image.fromarray(label_map(7)).save(root / f"train/labels/{name}.png")
    Image.fromarray(picture(7)).save(root / "train/images/naïve-Straße.JPG")
    Image.fromarray(picture(7)).save(root / "train/images/道路 1.jpeg")
    source = open_folder(root, "train", CAMVID)
    assert [example["name"] for example in source][3:] == ["naïve-Straße", "道路 1"]


def test_other_and_hidden_files_do_not_count(root):
    for name in ("Thumbs.db", "._b.png", ".DS_Store", "notes.txt"):
        (root / "train/images" / name).write_bytes(b"x")
    assert len(open_folder(root, "train", CAMVID)) == 3


def test_survives_pickling(root):
    source = pickle.loads(pickle.dumps(open_folder(root, "train", CAMVID)))
    np.testing.assert_array_equal(source[2]["image"], picture(0))


def test_missing_folders_say_what_is_there(root):
    with pytest.raises(DataError, match=r"nowhere: no such folder .*holds: train.*layout"):
        open_folder(root / "nowhere", "train", CAMVID)
    with pytest.raises(DataError, match=r"val: no such folder \(.* holds: train\)"):
        open_folder(root, "val", CAMVID)
    (root / "train/labels").rename(root / "train/masks")
    with pytest.raises(DataError, match=r"labels: no such folder \(.* holds: images, masks\)"):
        open_folder(root, "train", CAMVID)


def test_empty_split(root):
    for part in ("images", "labels"):
        (root / "val" / part).mkdir(parents=True)
    with pytest.raises(DataError, match=r"val: split is empty; put pictures \(.jpg, .jpeg"):
        open_folder(root, "val", CAMVID)


def test_picture_without_label_map(root):
    for index in range(7):
        Image.fromarray(picture(index)).save(root / f"train/images/lone{index}.jpg")
    with pytest.raises(DataError) as caught:
        open_folder(root, "train", CAMVID)
    assert "7 of 10 files in images/ without a label map" in str(caught.value)
    assert "lone0.jpg, lone1.jpg, lone2.jpg, lone3.jpg, lone4.jpg, ...;" in str(caught.value)
    assert "lone5" not in str(caught.value)


def test_label_map_without_picture(root):
    (root / "train/images/b.png").unlink()
    with pytest.raises(
        DataError, match=r"1 of 3 files in labels/ without a picture.*: b\.png;"
    ):
        open_folder(root, "train", CAMVID)


def test_two_pictures_of_one_name(root):
    Image.fromarray(picture(0)).save(root / "train/images/b.jpg")
    with pytest.raises(DataError, match=r"images: b\.jpg and b\.png have the same name"):
        open_folder(root, "train", CAMVID)


def test_label_map_of_another_size(root):
    Image.fromarray(label_map(0, height=12, width=16)).save(root / "train/labels/b.png")
    source = open_folder(root, "train", CAMVID)
    with pytest.raises(DataError, match=r"labels.b\.png: label map is 16x12.*b\.png is 32x24"):
        source[2]
    assert source[1]["name"] == source.name(1) == "a9"


def test_values_that_are_no_class_ids(root):
    ids = label_map(0)
    ids[5, 5], ids[6, 6] = len(CAMVID), 200
    Image.fromarray(ids).save(root / "train/labels/b.png")
    with pytest.raises(DataError) as caught:
        open_folder(root, "train", CAMVID)[2]
    message = str(caught.value)
    assert "labels/b.png: label values 11, 200 are no class ids" in message
    assert "'camvid' allows 0 to 10, and 255" in message
    ids[6, 6] = 0
    Image.fromarray(ids).save(root / "train/labels/b.png")
    np.testing.assert_array_equal(open_folder(root, "train", CITYSCAPES)[2]["label"], ids)


def test_damaged_file_is_named_when_read(root):
    path = root / "train/images/b.png"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"images/b\.png: cannot be decoded"):
        open_folder(root, "train", CAMVID)[2]
