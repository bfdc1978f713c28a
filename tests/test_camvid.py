"""CamVid in every layout: the frames, what their maps mean, and the split they make."""

import os
import pickle
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bisenet_jax.config import DataConfig
from bisenet_jax.data import camvid
from bisenet_jax.data.camvid import (
    GROUPS,
    SplitWarning,
    compare_with_segnet,
    open_camvid,
    split_of_frame,
)
from bisenet_jax.data.classes import CAMVID, CAMVID_EXACT, CITYSCAPES, IGNORE
from bisenet_jax.data.sources import open_source
from bisenet_jax.errors import ConfigError, DataError

HEIGHT, WIDTH = 6, 32
# One frame of each part of the split, and both ends of val.
TRAIN = ("0001TP_008520", "0006R0_f00930", "0016E5_07920", "0016E5_08190")
VAL = ("0016E5_07959", "0016E5_08159")
TEST = ("0001TP_008550", "Seq05VD_f00000")
ORIGINALS = [colour for group in GROUPS.values() for colour in group.values()]
few_frames = pytest.mark.filterwarnings("ignore::bisenet_jax.data.camvid.SplitWarning")


def seed_of(name: str) -> int:
    return zlib.crc32(name.encode())


def picture(name: str) -> np.ndarray:
    generator = np.random.default_rng(seed_of(name))
    return generator.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def ids(name: str, void: int = IGNORE) -> np.ndarray:
    values = np.random.default_rng(seed_of(name)).integers(0, 12, (HEIGHT, WIDTH), np.uint8)
    values[0, :12] = range(12)
    return np.where(values == 11, void, values).astype(np.uint8)


def colours(name: str) -> np.ndarray:
    """Void, then all colours of CamVid, then any of them."""
    choices = np.array([(0, 0, 0), *ORIGINALS], np.uint8)
    places = np.random.default_rng(seed_of(name)).integers(0, 32, (HEIGHT, WIDTH))
    places[0] = range(32)
    return choices[places]


def grouped(colour_map: np.ndarray) -> np.ndarray:
    """Oracle: pixel by pixel from the table of groups."""
    found = np.full(colour_map.shape[:2], IGNORE, np.uint8)
    for class_id, name in enumerate(CAMVID.names):
        for colour in GROUPS[name].values():
            found[(colour_map == colour).all(-1)] = class_id
    return found


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, quality=100)


def numbered(start: str, first: int, last: int, step: int) -> list[str]:
    return [f"{start}{number:05}" for number in range(first, last + 1, step)]


def check(source, names, label_of) -> None:
    assert [example["name"] for example in source] == list(names)
    for example in source:
        np.testing.assert_array_equal(example["image"], picture(example["name"]))
        np.testing.assert_array_equal(example["label"], label_of(example["name"]))


@few_frames
def test_images_and_labels_of_each_split(tmp_path):
    for split, names in (("train", (*TRAIN, "straße_道路")), ("val", VAL)):
        for name in names:
            save(tmp_path / split / "images" / f"{name}.png", picture(name))
            save(tmp_path / split / "labels" / f"{name}.png", ids(name))
    config = DataConfig(source="camvid", root=str(tmp_path), classes="camvid")
    check(open_source(config, "train"), (*TRAIN, "straße_道路"), ids)
    check(open_source(config, "val"), VAL, ids)
    check(open_camvid(tmp_path, "trainval", CAMVID), (*TRAIN, "straße_道路", *VAL), ids)
    source = pickle.loads(pickle.dumps(open_camvid(tmp_path, "val", CAMVID)))
    check(source, VAL, ids)


@few_frames
def test_layout_of_segnet_numbers_void_eleven(tmp_path):
    for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        for name in names:
            save(tmp_path / split / f"{name}.png", picture(name))
            save(tmp_path / f"{split}annot" / f"{name}.png", ids(name, void=11))
    for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        check(open_camvid(tmp_path, split, CAMVID), names, ids)


@few_frames
@pytest.mark.parametrize("images", ["701_StillsRaw_full", "images"])
@pytest.mark.parametrize("maps", ["LabeledApproved_full", "labels"])
def test_original_is_split_by_name(tmp_path, images, maps):
    for name in (*TRAIN, *VAL, *TEST):
        save(tmp_path / images / f"{name}.png", picture(name))
        save(tmp_path / maps / f"{name}_L.png", colours(name))
    for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        check(open_camvid(tmp_path, split, CAMVID), names, lambda name: grouped(colours(name)))
    (tmp_path / images / f"{VAL[0]}.png").unlink()
    with pytest.raises(DataError, match=f"{maps}/ without a picture in {images}/: {VAL[0]}_L"):
        open_camvid(tmp_path, "train", CAMVID)


@few_frames
def test_layout_with_grey_maps(tmp_path):
    for name in (*TRAIN, *VAL):
        save(tmp_path / "CamVid_RGB" / f"{name}.png", picture(name))
        save(tmp_path / "CamVidGray" / f"{name}.png", ids(name))
    check(open_camvid(tmp_path, "val", CAMVID), VAL, ids)
    with pytest.raises(ConfigError, match="'camvid_exact' needs label maps in colours, but"):
        open_camvid(tmp_path, "val", CAMVID_EXACT)
    with pytest.raises(DataError, match="none of its 6 frames belongs to split 'test'"):
        open_camvid(tmp_path, "test", CAMVID)
    # With the original maps beside them, those serve both class sets.
    for name in (*TRAIN, *VAL):
        save(tmp_path / "CamVid_Label" / f"{name}_L.png", colours(name))
    for class_set in (CAMVID, CAMVID_EXACT):
        assert open_camvid(tmp_path, "val", class_set)[0]["label"][0, 0] == IGNORE


def test_layout_of_kaggle_is_told_from_segnets_split(tmp_path):
    names = (*VAL, "0016E5_00390", "Seq05VD_f00000")
    for name in names:
        save(tmp_path / "val" / f"{name}.png", picture(name))
        save(tmp_path / "val_labels" / f"{name}_L.png", colours(name))
    complaint = (
        "val' is not SegNet's.*has 4 frames instead of 101; 2 belong elsewhere: 0016E5_00390 "
        r"\(train\), Seq05VD_f00000 \(test\)\. Do not compare.*Kaggle"
    )
    with pytest.warns(SplitWarning, match=complaint):
        source = open_camvid(tmp_path, "val", CAMVID)
    check(source, sorted(names), lambda name: grouped(colours(name)))


def test_no_warning_of_the_segnet_split_in_any_layout(tmp_path):
    names = numbered("0016E5_", 7959, 8159, 2)
    for name in names:
        save(tmp_path / "val" / f"{name}.png", picture(name))
        save(tmp_path / "val_labels" / f"{name}_L.png", colours(name))
    assert [pair.name for pair in open_camvid(tmp_path, "val", CAMVID).pairs] == names


def test_the_segnet_split_is_known():
    val = numbered("0016E5_", 7959, 8159, 2)
    train = [
        *numbered("0001TP_0", 6690, 8520, 30),
        *numbered("0006R0_f", 930, 3930, 30),
        *(set(numbered("0016E5_", 390, 2400, 30)) - {"0016E5_00900"} | {"0016E5_00901"}),
        *numbered("0016E5_", 4350, 7920, 30),
        *numbered("0016E5_", 8190, 8640, 30),
    ]
    assert compare_with_segnet("val", val) == compare_with_segnet("train", train) == ""
    assert compare_with_segnet("val", val[1:]) == "it has 100 frames instead of 101"
    assert "1 belong elsewhere: garden (no CamVid" in compare_with_segnet(
        "val", [*val[1:], "garden"]
    )
    # As many frames, all of the right drives, but others.
    others = numbered("0006R0_f", 0, 366, 1)
    assert compare_with_segnet("train", others) == "it has other frames of the same drives"


def test_frames_and_their_splits():
    for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        assert {split_of_frame(name) for name in names} == {split}
    assert split_of_frame("0016E5_07960") == "train"
    assert split_of_frame("0016E5_07959_L") is None and split_of_frame("") is None


def test_groups_are_the_classes():
    assert tuple(GROUPS) == CAMVID.names
    assert len(set(ORIGINALS)) == 31
    for name, colour in zip(CAMVID.names, CAMVID.colours, strict=True):
        assert next(iter(GROUPS[name].values())) == colour
    assert set(CAMVID_EXACT.colours) == set(CAMVID.colours)
    assert sorted(CAMVID_EXACT.names) == list(CAMVID_EXACT.names)
    # What the exact classes leave out takes part among the grouped ones.
    row = np.array([ORIGINALS], np.uint8)
    exact = camvid.COLOURS[CAMVID_EXACT].decode(row, "a")
    assert (exact != IGNORE).sum() == 11
    for class_id, colour in enumerate(CAMVID_EXACT.colours):
        assert exact[0, ORIGINALS.index(colour)] == class_id
    assert (camvid.COLOURS[CAMVID].decode(row, "a") == grouped(row)).all()


def put(root: Path, name: str, image: Image.Image) -> None:
    save(root / "images" / f"{name}.png", picture(name))
    (root / "labels").mkdir(exist_ok=True)
    image.save(root / "labels" / f"{name}_L.png")


@few_frames
def test_palettes_are_ids_unless_all_their_colours_are_camvids(tmp_path):
    name = VAL[0]
    # Ids with a palette to look at, some of whose colours CamVid knows with another meaning.
    shown = Image.fromarray(ids(name), mode="P")
    palette = np.zeros((256, 3), np.uint8)
    palette[1:6] = (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)
    shown.putpalette(palette.ravel().tolist())
    put(tmp_path, name, shown)
    np.testing.assert_array_equal(open_camvid(tmp_path, "val", CAMVID)[0]["label"], ids(name))
    # The original colours, saved with a palette in which they stand in any order.
    saved = Image.fromarray(colours(name)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert (np.asarray(saved.convert("RGB")) == colours(name)).all()
    put(tmp_path, name, saved)
    label = open_camvid(tmp_path, "val", CAMVID)[0]["label"]
    np.testing.assert_array_equal(label, grouped(colours(name)))


@few_frames
def test_stray_colours_are_ignored_but_not_a_map_of_them(tmp_path):
    name = VAL[0]
    stray = colours(name)
    stray[3, 3:6] = 1, 2, 3
    put(tmp_path, name, Image.fromarray(stray))
    label = open_camvid(tmp_path, "val", CAMVID)[0]["label"]
    expected = grouped(colours(name))
    expected[3, 3:6] = IGNORE
    np.testing.assert_array_equal(label, expected)
    put(tmp_path, name, Image.fromarray(stray + np.uint8(1)))
    with pytest.raises(DataError, match=r"07959_L\.png: 100% of its pixels have colours"):
        open_camvid(tmp_path, "val", CAMVID)


@few_frames
def test_ids_that_are_none(tmp_path):
    wrong = ids(VAL[0])
    wrong[2, 2] = 12
    put(tmp_path, VAL[0], Image.fromarray(wrong))
    with pytest.raises(DataError, match=r"label values 12 .*hold 0 to 10, and 11 or 255"):
        open_camvid(tmp_path, "val", CAMVID)[0]


def test_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_camvid(tmp_path / "nowhere", "val", CAMVID)
    (tmp_path / "valley").mkdir()
    complaint = r"no pictures and label maps of split 'val' \(it holds: valley\); the layouts"
    with pytest.raises(DataError, match=complaint):
        open_camvid(tmp_path, "val", CAMVID)
    with pytest.raises(DataError, match="split 'dev' is not known; CamVid has train, val, tes"):
        open_camvid(tmp_path, "dev", CAMVID)
    put(tmp_path, "garden", Image.fromarray(ids("garden")))
    with pytest.raises(DataError, match="1 pictures are not named as CamVid.*garden.png"):
        open_camvid(tmp_path, "val", CAMVID)
    (tmp_path / "val").mkdir()
    save(tmp_path / "val" / f"{VAL[0]}.png", picture(VAL[0]))
    (tmp_path / "valannot").mkdir()
    with pytest.raises(DataError, match=f"1 of 1 files in val/ without.*valannot/: {VAL[0]}"):
        open_camvid(tmp_path, "val", CAMVID)
    (tmp_path / "valannot" / f"{VAL[0]}.png").write_bytes(b"JFIF")
    with (
        pytest.warns(SplitWarning),
        pytest.raises(DataError, match=re.escape(f"{VAL[0]}.png: content is no PNG")),
    ):
        open_camvid(tmp_path, "val", CAMVID)
    config = DataConfig(source="camvid", root=str(tmp_path), classes=CITYSCAPES.name)
    with pytest.raises(ConfigError, match="does not fit.*'camvid' or 'camvid_exact'"):
        open_source(config, "val")


@pytest.mark.skipif("BISENET_JAX_CAMVID" not in os.environ, reason="needs the CamVid frames")
@pytest.mark.parametrize("split, count", [("train", 367), ("val", 101), ("trainval", 468)])
def test_the_real_one(split, count):
    # That no SplitWarning comes is part of it: warnings are errors.
    source = open_camvid(os.environ["BISENET_JAX_CAMVID"], split, CAMVID)
    assert len(source) == count
    for index in range(0, count, 25):
        example = source[index]
        height, width = example["label"].shape
        assert (width, height) in ((480, 360), (960, 720))
        assert example["image"].shape == (height, width, 3)
        assert set(np.unique(example["label"])) <= {*range(len(CAMVID)), IGNORE}
