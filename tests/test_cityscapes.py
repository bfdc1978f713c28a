"""Cityscapes: the public label table, its codings, and extracted folders as a source."""

import shutil

import numpy as np
import pytest
from PIL import Image

from benchmarks.street_zips import write_streets
from bisenet_jax.config import DataConfig
from bisenet_jax.config_rules import validate
from bisenet_jax.data.cityscapes.labels import (
    LABEL_ID_OF,
    LABELS,
    coding_of,
    image_id_of,
    list_pairs,
)
from bisenet_jax.data.classes import CAMVID, CITYSCAPES, IGNORE
from bisenet_jax.data.coding import UNKNOWN
from bisenet_jax.data.sources import open_source
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.errors import ConfigError, DataError
from configs import cityscapes, cityscapes_full

# Label id to train id by the public table, written down apart from the code.
TRAIN_IDS = (
    *([255] * 7, [0, 1], [255] * 2, [2, 3, 4], [255] * 3, [5], [255], [6, 7, 8, 9, 10]),
    *([11, 12, 13, 14, 15], [255] * 2, [16, 17, 18]),
)
TABLE = [train_id for group in TRAIN_IDS for train_id in group]

CATEGORIES = (
    *(("void", 7), ("flat", 4), ("construction", 6), ("object", 4), ("nature", 2)),
    *(("sky", 1), ("human", 2), ("vehicle", 8)),
)


@pytest.fixture
def root(tmp_path):
    """Extracted folders of 3 train frames, 1 val and 1 test frame."""
    write_streets(
        tmp_path, {"train": 3, "val": 1, "test": 1}, height=64, width=96, extracted=True
    )
    return tmp_path


@pytest.mark.parametrize("label_id", range(34))
def test_train_id_of_every_label_id(label_id):
    assert len(TABLE) == 34
    assert coding_of("train").table[label_id] == TABLE[label_id]
    if TABLE[label_id] != 255:
        assert LABEL_ID_OF[TABLE[label_id]] == label_id


def test_values_without_a_class():
    # License plate is -1, as 8 bits 255; the ids from 34 on do not exist.
    table = coding_of("train").table
    assert (table[34:255] == UNKNOWN).all() and table[255] == IGNORE and len(table) == 256
    assert (LABEL_ID_OF[19:] == 0).all() and LABEL_ID_OF.dtype == np.uint8


def test_the_table_is_that_of_the_class_set():
    assert [label.label_id for label in LABELS] == [*range(34), -1]
    trained = sorted((label for label in LABELS if not label.is_ignored), key=lambda x: x[2])
    assert tuple(label.name for label in trained) == CITYSCAPES.names
    assert tuple(label.colour for label in trained) == CITYSCAPES.colours
    expected = [name for name, count in CATEGORIES for _ in range(count)]
    assert [label.category for label in LABELS[:-1]] == expected


def test_coding():
    stored = np.array([[7, 33, 255], [0, 18, 23]], np.uint8)
    ids = coding_of("val").decode(stored, "map")
    np.testing.assert_array_equal(ids, [[0, 18, 255], [255, 255, 10]])
    np.testing.assert_array_equal(coding_of("test").decode(stored, "map"), 255)
    with pytest.raises(
        DataError, match="a.png: label values 34, 200 are no class ids.*0 to 33"
    ):
        coding_of("train").decode(np.array([[34, 200, 7]], np.uint8), "a.png")


def test_extracted_folders_are_a_source(root):
    config = DataConfig(source="cityscapes", root=str(root))
    train, val = open_source(config, "train"), open_source(config, "val")
    names = [example["name"] for example in train]
    assert names == ["altdorf_000000_000019", "altdorf_000001_000019", "neudorf_000002_000019"]
    image, label = draw_street(0, 2, 64, 96)
    np.testing.assert_array_equal(train[2]["image"], image)
    np.testing.assert_array_equal(train[2]["label"], label)
    assert len(np.unique(label)) > 5
    assert len(val) == 1 and val[0]["name"] == "mittelhausen_000000_000019"


def test_frames_are_described_by_their_headers(root):
    source = open_source(DataConfig(source="cityscapes", root=str(root)), "val")
    path = source.pairs[0].image
    path.write_bytes(path.read_bytes()[:100])  # no pixels left
    assert source.describe(0) == ("mittelhausen_000000_000019", 64, 96)
    for content in (b"", b"<html>"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{path}: cannot be decoded"):
            source.describe(0)


@pytest.mark.parametrize(
    "name, image_id",
    [
        ("berlin_000000_000019_leftImg8bit.png", "berlin_000000_000019"),
        ("bad-stadt_000123_000456", "bad-stadt_000123_000456"),
        ("berlin_000000_00019.png", None),
        ("._berlin_000000_000019.png", None),
        ("a_berlin_000000_000019.png", None),
        ("", None),
    ],
)
def test_image_id_of_a_file(name, image_id):
    assert image_id_of(name) == image_id


def test_no_truth_on_the_test_split(root):
    (example,) = open_source(DataConfig(source="cityscapes", root=str(root)), "test")
    assert (example["label"] == IGNORE).all() and example["image"].any()


def test_only_frames_count(root):
    town = root / "gtFine/train/altdorf"
    for name in ("a_gtFine_color.png", "a_gtFine_instanceIds.png", "._a_gtFine_labelIds.png"):
        (town / name).write_bytes(b"x")
    assert len(list_pairs(root, "train")) == 3


def test_what_is_missing_is_named(root):
    with pytest.raises(DataError, match="valid: no such folder .*test, train, val"):
        list_pairs(root, "valid")
    (root / "gtFine/train/altdorf/altdorf_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match="1 of 3 frames .*gtFine/train/CITY.*altdorf_000001"):
        list_pairs(root, "train")
    shutil.rmtree(root / "leftImg8bit/train/neudorf")
    (root / "leftImg8bit/train/altdorf/altdorf_000001_000019_leftImg8bit.png").unlink()
    with pytest.raises(DataError, match="1 of 2 frames .*leftImg8bit/train/.*neudorf_000002"):
        list_pairs(root, "train")
    shutil.rmtree(root / "gtFine/val/mittelhausen")
    shutil.rmtree(root / "leftImg8bit/val/mittelhausen")
    with pytest.raises(DataError, match="split 'val' holds no frames; .*layout is ROOT"):
        list_pairs(root, "val")


def test_a_value_outside_the_table_names_the_file(root):
    path = root / "gtFine/val/mittelhausen/mittelhausen_000000_000019_gtFine_labelIds.png"
    Image.fromarray(np.full((64, 96), 40, np.uint8)).save(path)
    source = open_source(DataConfig(source="cityscapes", root=str(root)), "val")
    with pytest.raises(
        DataError, match="mittelhausen_000000_000019_gtFine_labelIds.png: .* 40 "
    ):
        source[0]


def test_other_classes_do_not_fit(root):
    config = DataConfig(source="cityscapes", root=str(root), classes=CAMVID.name)
    with pytest.raises(ConfigError, match="'camvid' does not fit the source 'cityscapes'"):
        open_source(config, "train")


@pytest.mark.parametrize(
    "recipe", [cityscapes, cityscapes_full], ids=lambda found: found.__name__
)
def test_recipes_show_the_network_crops_of_1024x512(recipe):
    config = validate(recipe.get_config())
    assert config.data.source == "cityscapes"
    augment = config.augment
    seen = augment.crop_width // augment.shrink, augment.crop_height // augment.shrink
    assert seen == (1024, 512)
    assert (config.train.steps, config.train.batch_size) == (150_000, 16)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (5e-2, 5e-4)
