"""A configuration names its frames; what it cannot mean is said before anything runs."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from bisenet_jax.config import DataConfig
from bisenet_jax.convert.backbones import read_backbone
from bisenet_jax.data.class_sets import CLASS_SETS, find_class_set
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.sources import open_source
from bisenet_jax.data.statistics import read as read_statistics
from bisenet_jax.errors import ConfigError, DataError, WeightsError
from bisenet_jax.weights import read_weights


def test_synthetic_splits_differ_and_have_their_own_length():
    config = DataConfig(height=64, width=96, train_images=7, val_images=3)
    train, val = open_source(config, "train"), open_source(config, "val")
    assert (len(train), len(val)) == (7, 3)
    assert train[0]["image"].shape == (64, 96, 3)
    assert not np.array_equal(train[0]["image"], val[0]["image"])


def test_one_name_for_both_synthetic_splits_means_the_training_frames():
    config = DataConfig(height=64, width=96, train_images=7, val_images=3, val_split="train")
    scored = open_source(config, "train")
    trained = open_source(DataConfig(height=64, width=96, train_images=7), "train")
    assert len(scored) == len(trained) == 7
    np.testing.assert_array_equal(scored[0]["image"], trained[0]["image"])


def test_root_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for part in ("images", "labels"):
        (tmp_path / "mine" / "train" / part).mkdir(parents=True)
        Image.new("L", (9, 8)).save(tmp_path / "mine" / "train" / part / "a.png")
    source = open_source(DataConfig(source="folder", root="~/mine", classes="camvid"), "train")
    assert len(source) == 1


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (find_class_set, ConfigError),
        (read_statistics, ConfigError),
        (read_weights, WeightsError),
        (partial(read_backbone, "resnet18"), WeightsError),
    ],
)
def test_so_may_every_other_file(read, error, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "a.json" if error is ConfigError else "a.npz"
    (tmp_path / name).write_text("[]")
    with pytest.raises(error, match=f"{tmp_path}/{name}(?!.* is no file)"):
        read(f"~/{name}")


def test_folder(tmp_path):
    for part, array in (("images", np.full((8, 9, 3), 7, np.uint8)), ("labels", np.eye(8, 9))):
        (tmp_path / "test" / part).mkdir(parents=True)
        Image.fromarray(array.astype(np.uint8)).save(tmp_path / "test" / part / "a.png")
    config = DataConfig(source="folder", root=str(tmp_path), classes="camvid")
    example = open_source(config, "test")[0]
    assert example["name"] == "a" and example["label"].sum() == 8


def test_what_is_not_there():
    with pytest.raises(DataError, match="split 'test' does not exist.*'train', 'val'"):
        open_source(DataConfig(), "test")
    with pytest.raises(ConfigError, match="'camvid' does not fit the source 'synthetic'"):
        open_source(DataConfig(classes="camvid"), "val")
    with pytest.raises(ConfigError, match="class set 'voc' is not known.*cityscapes"):
        find_class_set("voc")
    with pytest.raises(DataError, match="nowhere"):
        open_source(DataConfig(source="folder", root="/nowhere"), "val")


@pytest.mark.parametrize("class_set", CLASS_SETS.values(), ids=lambda found: found.name)
def test_class_sets_are_whole(class_set):
    assert len(class_set.names) == len(class_set.colours) == len(set(class_set.colours))
    assert len(set(class_set.names)) == len(class_set) <= IGNORE
    assert class_set.palette.shape == (256, 3) and class_set.palette.dtype == np.uint8
    np.testing.assert_array_equal(class_set.palette[len(class_set) :], 0)
