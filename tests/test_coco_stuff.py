"""COCO-Stuff in both editions: which files pair, and what every stored value means."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from bisenet_jax.config import DataConfig
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.coco_stuff import MATRIX_IDS, STORED_IDS, open_coco_stuff
from bisenet_jax.data.coco_stuff_classes import (
    COCO_STUFF,
    NEVER_OCCURRING,
    SQUEEZED,
    separated_colours,
)
from bisenet_jax.data.loader import training_batches
from bisenet_jax.data.pairs import PairSource
from bisenet_jax.data.sources import open_source
from bisenet_jax.errors import ConfigError, DataError

NAMES = ("000000000009", "道路_ß")
SIZES = {NAMES[0]: (20, 30), NAMES[1]: (32, 24)}
STORED = np.array([*SQUEEZED, IGNORE], np.uint8)


def picture(name: str) -> np.ndarray:
    return np.random.default_rng(len(name)).integers(0, 256, (*SIZES[name], 3), np.uint8)


def stored(name: str) -> np.ndarray:
    """A map in the coding of the stuffthingmaps: all legal values, in a random order."""
    values = np.random.default_rng(len(name)).choice(STORED, SIZES[name])
    values.flat[: len(STORED)] = STORED
    return values


def squeezed(name: str) -> np.ndarray:
    """Oracle: an id, less the number of those below it that never occur."""
    values = stored(name).astype(int)
    below = (values[..., None] > np.array(NEVER_OCCURRING)).sum(-1)
    return np.where(values == IGNORE, IGNORE, values - below).astype(np.uint8)


def save_picture(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(name)).save(folder / f"{name}.jpg", quality=100, subsampling=0)


def save_map(folder: Path, name: str, values: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / f"{name}.png")


def save_matrix(folder: Path, name: str, values: np.ndarray) -> None:
    """As version 1.1 of the 10k edition: ids from 1 on, 0 for no class."""
    folder.mkdir(parents=True, exist_ok=True)
    matrix = np.where(values == IGNORE, 0, values + 1.0).astype(np.uint8)
    savemat(folder / f"{name}.mat", {"S": matrix, "names": np.array(["x"])})


def check(source: PairSource, names: tuple[str, ...] = NAMES) -> None:
    assert [example["name"] for example in source] == list(names)
    for example in source:
        difference = example["image"].astype(int) - picture(example["name"])
        assert np.abs(difference).mean() < 2  # JPEG
        np.testing.assert_array_equal(example["label"], squeezed(example["name"]))


def test_every_stored_value():
    names_of_squeezed = dict(enumerate(COCO_STUFF.names))
    for value in range(256):
        one = np.array([[value]], np.uint8)
        if value == IGNORE:
            assert STORED_IDS.decode(one, "a")[0, 0] == IGNORE
        elif value in NEVER_OCCURRING or value > 181:
            with pytest.raises(DataError, match=f"a: label values {value} are no class ids"):
                STORED_IDS.decode(one, "a")
        else:
            below = sum(never < value for never in NEVER_OCCURRING)
            assert STORED_IDS.decode(one, "a")[0, 0] == value - below
            assert value - below in names_of_squeezed


def test_every_value_of_a_matrix():
    for value in range(256):
        one = np.array([[value]], np.uint8)
        if value == 0:
            assert MATRIX_IDS.ids.decode(one, "a")[0, 0] == IGNORE
        elif value - 1 in NEVER_OCCURRING or value > 182:
            with pytest.raises(DataError, match=f"a: label values {value} are no class ids"):
                MATRIX_IDS.ids.decode(one, "a")
        else:
            stored_id = STORED_IDS.decode(np.array([[value - 1]], np.uint8), "a")
            assert MATRIX_IDS.ids.decode(one, "a") == stored_id


def test_classes():
    assert len(COCO_STUFF) == 171 and find_class_set("coco_stuff") is COCO_STUFF
    # From the public list of 182 names, whose ids are one higher.
    listed = {1: "person", 13: "stop sign", 27: "backpack", 31: "handbag", 90: "toothbrush"}
    listed |= {92: "banner", 107: "counter", 149: "road", 157: "sky-other", 182: "wood"}
    for listed_id, name in listed.items():
        assert COCO_STUFF.names[SQUEEZED[listed_id - 1]] == name
    assert COCO_STUFF.names.index("banner") == 80
    # Of that list without the eleven, a name per line.
    digest = hashlib.sha256("\n".join(COCO_STUFF.names).encode()).hexdigest()
    assert digest.startswith("8ea44449837dceb3")


def test_colours_are_well_apart_from_each_other_and_from_black():
    colours = np.array(COCO_STUFF.colours, int)
    distances = np.abs(colours[:, None] - colours).sum(-1) + 1000 * np.eye(len(colours))
    assert distances.min() >= 34  # two steps of 17
    assert colours.max(-1).min() > 60
    assert separated_colours(5) == COCO_STUFF.colours[:5]


@pytest.mark.parametrize("pictures", ["images/", ""])
@pytest.mark.parametrize(
    "maps", ["annotations/", "stuffthingmaps/", "stuffthingmaps_trainval2017/", ""]
)
def test_layouts_of_164k(tmp_path, pictures, maps):
    for split in ("train", "val"):
        for name in NAMES[: 2 if split == "train" else 1]:
            save_picture(tmp_path / f"{pictures}{split}2017", name)
            save_map(tmp_path / f"{maps}{split}2017", name, stored(name))
    (tmp_path / f"{maps}train2017" / "._hidden.png").write_bytes(b"")
    config = DataConfig(source="coco_stuff", root=str(tmp_path), classes="coco_stuff")
    check(open_source(config, "train"))
    check(open_source(config, "val"), NAMES[:1])


@pytest.mark.parametrize("keeps_originals", [False, True])
def test_maps_that_mmsegmentation_renumbered(tmp_path, keeps_originals):
    for name in NAMES:
        save_picture(tmp_path / "images/val2017", name)
        save_map(tmp_path / "annotations/val2017", f"{name}_labelTrainIds", squeezed(name))
        if keeps_originals:
            save_map(tmp_path / "annotations/val2017", name, stored(name))
    (tmp_path / "annotations/val2017" / "._hidden.png").write_bytes(b"")
    check(open_coco_stuff(tmp_path, "val"))


@pytest.fixture
def ten_thousand(tmp_path) -> Path:
    """The 10k edition: one frame in each list."""
    for name, part in zip(NAMES, ("train", "test"), strict=True):
        save_picture(tmp_path / "images", name)
        save_matrix(tmp_path / "annotations", name, stored(name))
        (tmp_path / "imageLists").mkdir(exist_ok=True)
        path = tmp_path / "imageLists" / f"{part}.txt"
        path.write_text(f"{name}\r\n\n", encoding="utf-8")
    return tmp_path


def test_layout_of_10k(ten_thousand):
    check(open_coco_stuff(ten_thousand, "train"), NAMES[:1])
    check(open_coco_stuff(ten_thousand, "val"), NAMES[1:])
    # The same from maps as PNG, in the coding of the stuffthingmaps.
    for name in NAMES:
        (ten_thousand / "annotations" / f"{name}.mat").unlink()
        save_map(ten_thousand / "annotations", name, stored(name))
    check(open_coco_stuff(ten_thousand, "val"), NAMES[1:])


def test_files_of_10k_that_are_missing(ten_thousand):
    train = ten_thousand / "imageLists/train.txt"
    train.write_text("\n".join(NAMES) + "\nCOCO_train2014_1", encoding="utf-8")
    with pytest.raises(DataError, match="1 of 3 names in train.txt have no picture.*2014_1"):
        open_coco_stuff(ten_thousand, "train")
    (ten_thousand / "annotations" / f"{NAMES[1]}.mat").unlink()
    complaint = f"1 of 2 files in images/ without a label map in annotations/: {NAMES[1]}"
    with pytest.raises(DataError, match=complaint):
        open_coco_stuff(ten_thousand, "train")
    train.unlink()
    with pytest.raises(DataError, match=r"train\.txt: cannot be read .*the layout is"):
        open_coco_stuff(ten_thousand, "train")


@pytest.mark.parametrize(
    "content, complaint",
    [
        ({"T": np.ones((4, 4))}, "no label map, which must be a matrix of numbers named S"),
        ({"S": np.ones((4, 4, 3))}, "no label map"),
        ({"S": "text"}, "no label map"),
        ({"S": np.full((4, 4), 1.5)}, r"S holds 1\.5, label values must be whole numbers"),
        ({"S": np.full((4, 4), 300, np.int16)}, "S holds 300, label values"),
        ({"S": np.full((4, 4), np.nan)}, "S holds nan, label values"),
        ({"S": np.full((4, 4), 12)}, "label values 12 are no class ids; .* hold 1 to 182"),
    ],
)
def test_matrices_that_are_no_label_maps(tmp_path, content, complaint):
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(DataError, match=rf"a\.mat: .*{complaint}"):
        MATRIX_IDS.read(tmp_path / "a.mat")


def test_damaged_matrices(tmp_path):
    whole = io.BytesIO()
    savemat(whole, {"S": np.arange(100).reshape(10, 10) % 9}, do_compression=True)
    data = whole.getvalue()
    flipped = data[:180] + bytes([data[180] ^ 255]) + data[181:]
    for content in (b"", b"no matrix", data[:60], data[:-20], flipped):
        (tmp_path / "b.mat").write_bytes(content)
        with pytest.raises(DataError, match=r"b\.mat: cannot be read as a MATLAB file"):
            MATRIX_IDS.read(tmp_path / "b.mat")
    with pytest.raises(DataError, match=r"c\.mat: cannot be read \(No such file"):
        MATRIX_IDS.read(tmp_path / "c.mat")


def test_frames_of_several_sizes_on_a_canvas(ten_thousand):
    path = ten_thousand / "imageLists/train.txt"
    path.write_text("\n".join(NAMES), encoding="utf-8")
    source = open_coco_stuff(ten_thousand, "train")
    batches = training_batches(source, batch_size=2, seed=0, canvas=(32, 32))
    batch = next(batches)
    batches.close()
    assert sorted(batch["name"]) == sorted(NAMES)
    for place, name in enumerate(batch["name"]):
        height, width = batch["size"][place]
        assert (height, width) == SIZES[name]
        np.testing.assert_array_equal(batch["label"][place, :height, :width], squeezed(name))
        assert (batch["label"][place, height:] == IGNORE).all()
        assert (batch["label"][place, :, width:] == IGNORE).all()


def test_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_coco_stuff(tmp_path / "nowhere", "val")
    with pytest.raises(DataError, match="split 'test' is not known; COCO-Stuff has train and"):
        open_coco_stuff(tmp_path, "test")
    with pytest.raises(DataError, match="train2017: no such folder.*the layout is"):
        open_coco_stuff(tmp_path, "train")
    save_picture(tmp_path / "images/train2017", NAMES[0])
    with pytest.raises(DataError, match=r"no label maps .* annotations/train2017, stuffth"):
        open_coco_stuff(tmp_path, "train")
    save_map(tmp_path / "stuffthingmaps/train2017", NAMES[1], stored(NAMES[1]))
    complaint = "images/train2017/ without a label map in stuffthingmaps/train2017/: 000000000"
    with pytest.raises(DataError, match=complaint):
        open_coco_stuff(tmp_path, "train")
    config = DataConfig(source="coco_stuff", root=str(tmp_path), classes="cityscapes")
    with pytest.raises(ConfigError, match="does not fit the source 'coco_stuff'"):
        open_source(config, "train")
