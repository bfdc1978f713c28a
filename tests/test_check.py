"""Every flaw of a data set is named with its file, and decides the exit code."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bisenet_jax.config import AugmentConfig, Config, DataConfig, TrainConfig
from bisenet_jax.data import statistics
from bisenet_jax.data.check.check import check
from bisenet_jax.data.check.survey import Failure, survey
from bisenet_jax.data.classes import CAMVID
from bisenet_jax.data.example import Example
from bisenet_jax.data.sources import open_source
from bisenet_jax.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 40, 56
SPLITS = {"train": ("a", "b", "c"), "val": ("d", "e")}


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def pixels(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def ids(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    label = np.random.default_rng(seed).integers(0, len(CAMVID), (height, width), np.uint8)
    label[0] = 255
    return label


def add(root: Path, split: str, name: str, seed: int, *size: int) -> None:
    save(root / split / "images" / f"{name}.png", pixels(seed, *size))
    save(root / split / "labels" / f"{name}.png", ids(seed, *size))


@pytest.fixture
def root(tmp_path) -> Path:
    for split, names in SPLITS.items():
        for name in names:
            add(tmp_path / "data", split, name, ord(name))
    return tmp_path / "data"


def configure(root: Path, **data) -> Config:
    options = {"source": "folder", "root": str(root), "classes": "camvid"} | data
    return Config(
        data=DataConfig(**options),
        augment=AugmentConfig(crop_height=32, crop_width=32),
        train=TrainConfig(batch_size=2),
    )


def run(root: Path, **options) -> tuple[int, dict]:
    """Exit code and JSON of a check in this process."""
    path = root.parent / "report.json"
    code = check(configure(root), json_file=str(path), processes=0, **options)
    return code, json.loads(path.read_text(encoding="utf-8"))


def truncate(root: Path) -> None:
    path = root / "train/images/b.png"
    path.write_bytes(path.read_bytes()[:200])


def empty_file(root: Path) -> None:
    (root / "val/labels/e.png").write_bytes(b"")


def rgba_mask(root: Path) -> None:
    save(root / "train/labels/b.png", np.zeros((HEIGHT, WIDTH, 4), np.uint8))


def deep_mask(root: Path) -> None:
    save(root / "train/labels/b.png", np.zeros((HEIGHT, WIDTH), np.uint16))


def large_mask(root: Path) -> None:
    save(root / "train/labels/b.png", ids(1, 2 * HEIGHT, WIDTH))


def no_mask(root: Path) -> None:
    (root / "train/labels/b.png").unlink()


def wrong_id(root: Path) -> None:
    save(root / "train/labels/b.png", np.full((HEIGHT, WIDTH), 11, np.uint8))


def same_name(root: Path) -> None:
    shutil.copy(root / "train/images/b.png", root / "train/images/b.PNG")


def empty_split(root: Path) -> None:
    for path in (root / "val").glob("*/*.png"):
        path.unlink()


def no_split(root: Path) -> None:
    shutil.rmtree(root / "val")


def leak(root: Path) -> None:
    # Other bytes, equal pixels.
    Image.open(root / "train/images/a.png").save(
        root / "val/images/d.png", compress_level=0, dpi=(72, 72)
    )


def two_sizes(root: Path) -> None:
    add(root, "train", "large", 9, 60, 50)


def non_ascii(root: Path) -> None:
    add(root, "train", "größe_日本", 9)
    (root / "train/labels/größe_日本.png").write_bytes(b"no picture")


ERRORS = [
    (truncate, "train", r"images/b\.png: cannot be decoded .*fetch or export"),
    (empty_file, "val", r"labels/e\.png: file is empty \(0 bytes\)"),
    (rgba_mask, "train", r"labels/b\.png: label map is 8-bit RGBA, must be 8-bit grey"),
    (deep_mask, "train", r"labels/b\.png: label map is 16-bit grey, must be 8-bit grey"),
    (
        large_mask,
        "train",
        r"labels/b\.png: label map is 56x80, but its picture b\.png is 56x40",
    ),
    (no_mask, "train", r"1 of 3 files in images/ without a label map in labels/: b\.png"),
    (wrong_id, "train", r"labels/b\.png: label values 11 are no class ids; .*0 to 10"),
    (same_name, "train", r"b\.PNG and b\.png have the same name"),
    (empty_split, "val", r"split is empty; put pictures"),
    (no_split, "val", r"data/val: no such folder \(.*holds: train\)"),
    (non_ascii, "train", r"größe_日本\.png: content is not a readable PNG"),
    (two_sizes, "train", r"frames have 2 sizes.*canvas_height=60 and canvas_width=56"),
]


@pytest.mark.parametrize(
    "damage, role, message", ERRORS, ids=lambda each: getattr(each, "__name__", str(each))[:30]
)
def test_errors(root, capsys, damage: Callable[[Path], None], role, message):
    damage(root)
    code, report = run(root)
    assert code == 2
    assert len(report["errors"]) == 1
    assert re.fullmatch(f"{role}: .*{message}.*", report["errors"][0])
    assert f"1 error:\n  {report['errors'][0]}" in capsys.readouterr().out
    # The other split is walked all the same, and all but the damaged of this one.
    other = "val" if role == "train" else "train"
    assert report["splits"][other]["sound_images"] == len(SPLITS[other])


def test_a_picture_in_both_splits_is_an_error(root):
    leak(root)
    code, report = run(root)
    assert code == 2
    (error,) = report["errors"]
    assert error.startswith("a of train and d of val show the same picture, with different")


def test_clean(root, capsys):
    code, report = run(root)
    assert code == 0 and not report["errors"] and not report["warnings"]
    assert "nothing is wrong" in capsys.readouterr().out
    assert report["splits"]["val"]["ids"] == [*range(11), 255]


def test_non_ascii_names_are_fine(root):
    add(root, "train", "größe_日本", 9)
    assert run(root, statistics_file=str(root.parent / "s.json"))[0] == 0
    assert statistics.read(root.parent / "s.json").names == ["a", "b", "c", "größe_日本"]


def relabel(split: str, old: int, new: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for path in (root / split / "labels").iterdir():
            label = np.array(Image.open(path))
            save(path, np.where(label == old, np.uint8(new), label))

    return change


def double(root: Path) -> None:
    for part in ("images", "labels"):
        shutil.copy(root / f"train/{part}/a.png", root / f"train/{part}/copy.png")


def bare_frame(root: Path) -> None:
    save(root / "val/labels/e.png", np.full((HEIGHT, WIDTH), 255, np.uint8))


def small_frames(root: Path) -> None:
    for name in SPLITS["train"]:
        add(root, "train", name, ord(name), 20, WIDTH)


def flat(root: Path) -> None:
    for seed, name in enumerate(SPLITS["train"]):
        image = pixels(seed)
        image[..., 1] = 90
        save(root / f"train/images/{name}.png", image)


WARNINGS = [
    (relabel("train", 4, 3), "occur in val but never in train, where none .*: pavement"),
    (relabel("val", 4, 3), "occur in train but never in val: they have no score: pavement"),
    (double, "train: a, copy show the same picture; keep one"),
    (bare_frame, "val: 1 of 2 frames have no labelled pixel: e"),
    (small_frames, "train: 3 of 3 frames are smaller than the crop of 32x32"),
    (flat, "train: green is the same in every pixel"),
]


@pytest.mark.parametrize("change, message", WARNINGS)
def test_warnings_leave_the_exit_code(root, change, message):
    change(root)
    code, report = run(root)
    assert code == 0 and not report["errors"]
    (warning,) = report["warnings"]
    assert re.search(message, warning)


def test_classes_that_no_frame_shows_are_named(root):
    for split in SPLITS:
        relabel(split, 7, 2)(root)
    assert run(root)[1]["warnings"] == ["classes that never occur in train or val: fence"]
    assert run(root, roles=("val",))[1]["warnings"] == ["val: these classes never occur: fence"]


def test_canvas_that_fits_and_one_that_does_not(root):
    two_sizes(root)
    options = configure(root, canvas_height=60, canvas_width=56)
    assert check(options, processes=0) == 0
    options.data.canvas_height = 50
    report = root.parent / "report.json"
    assert check(options, processes=0, json_file=str(report)) == 2
    (error,) = json.loads(report.read_text())["errors"]
    assert "1 of 4 frames are larger than the canvas of 56x50: large; set" in error
    assert "canvas_height=60" in error


def test_long_lists_are_cut_on_the_terminal_only(root, capsys):
    for index in range(12):
        add(root, "train", f"f{index:02}", 100 + index)
        (root / f"train/images/f{index:02}.png").write_bytes(b"")
    code, report = run(root)
    shown = capsys.readouterr().out
    assert code == 2 and len(report["errors"]) == 12
    assert "f09.png" in shown and "f10.png" not in shown and "and 2 more" in shown


def test_numbers_against_numpy(root):
    _, report = run(root)
    source = open_source(configure(root).data, "train")
    examples = [source[index] for index in range(3)]
    images = np.stack([example["image"] for example in examples]).astype(np.float64) / 255
    labels = np.stack([example["label"] for example in examples])
    train = report["splits"]["train"]
    np.testing.assert_allclose(train["mean"], images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(train["std"], images.std((0, 1, 2)), rtol=1e-12)
    assert train["pixels"] == labels.size
    assert train["ignored_pixels"] == np.sum(labels == 255)
    shares = np.array([np.sum(labels == each) for each in range(11)]) / np.sum(labels != 255)
    weights = 1 / np.log(1.02 + shares)
    for each, name in enumerate(CAMVID.names):
        entry = train["class_statistics"][name]
        assert entry["pixels"] == np.sum(labels == each) and entry["images"] == 3
        np.testing.assert_allclose(entry["weight"], weights[each] / weights.mean())


def test_class_weights_of_unequal_classes():
    weights = statistics.suggest_class_weights(np.array([980, 20, 0]))
    assert weights[2] == 1
    np.testing.assert_allclose(weights[1] / weights[0], np.log(2.0) / np.log(1.04))
    np.testing.assert_allclose(weights[:2].mean(), 1)


def test_statistics_file(root, tmp_path):
    path = tmp_path / "statistics.json"
    assert run(root, statistics_file=str(path))[0] == 0
    found = statistics.read(path)
    assert (found.class_set, found.class_names) == ("camvid", CAMVID.names)
    assert found.names == ["a", "b", "c"]
    label = ids(ord("b"))
    assert found.label_pixels[1] == {
        int(each): int(np.sum(label == each)) for each in np.unique(label)
    }
    totals = json.loads(path.read_text())
    assert sum(totals["class_pixels"]) + totals["ignored_pixels"] == totals["pixels"]


def test_statistics_of_a_part_are_not_written(root, tmp_path):
    truncate(root)
    path = tmp_path / "statistics.json"
    code, report = run(root, statistics_file=str(path))
    assert code == 2 and not path.exists()
    assert "is not written" in report["errors"][-1]
    with pytest.raises(ConfigError, match="needs the training split"):
        run(root, statistics_file=str(path), roles=("val",))


def test_contact_sheets(root, tmp_path):
    truncate(root)
    large = 1000, 30
    add(root, "val", "tall", 9, *large)
    assert run(root, save_dir=str(tmp_path / "sheets"))[0] == 2
    for role in SPLITS:
        with Image.open(tmp_path / f"sheets/{role}.png") as sheet:
            colours = {colour for _, colour in sheet.getcolors(1 << 24) or []}
        # The legend shows each class in its own colour.
        assert set(CAMVID.colours) <= colours


class Trap:
    """Reading example 5 ends the process, as a crash of a decoder does; 3 is a wrong file."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Example:
        if index == 5:
            os._exit(1)
        if index == 3:
            raise DataError("three is damaged")
        image = np.full((4, 6, 3), index, np.uint8)
        return {"image": image, "label": image[..., 0], "name": f"n{index}"}


def test_a_crash_of_the_decoder_costs_one_example():
    results = list(survey(Trap(), processes=2))
    assert len(results) == 20
    failures = {i: each.message for i, each in enumerate(results) if isinstance(each, Failure)}
    assert failures.keys() == {3, 5} and failures[3] == "three is damaged"
    assert failures[5].startswith("example 5: reading ended the process")
    names = [each.name for each in results if not isinstance(each, Failure)]
    assert names == [f"n{index}" for index in range(20) if index not in (3, 5)]


def test_processes_count_as_this_one_does(root):
    source = open_source(configure(root).data, "train")
    assert list(survey(source, processes=2)) == list(survey(source, processes=0))


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bisenet_jax.data.check", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "no_such_platform", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_script_prints_flags_that_train_takes(tmp_path):
    small = ["--config", "configs/synthetic.py"]
    small += ["--config.data.height=64", "--config.data.width=96"]
    small += ["--config.data.train_images=3", "--config.data.val_images=2"]
    report = tmp_path / "report.json"
    first = script(*small, "--json", str(report))
    assert first.returncode == 0, first.stderr
    assert "train: 100%" in first.stderr and "warning" in first.stdout
    lines = json.loads(report.read_text())["flags"]
    assert len(lines) == 3 and all(line in first.stdout for line in lines)
    again = script(*small, *(line.strip('"') for line in lines), "--split", "val")
    assert again.returncode == 0, again.stderr
    assert "train" not in again.stderr


def test_script_and_what_it_cannot_mean(root):
    truncate(root)
    options = ["--config", "configs/camvid.py", f"--config.data.root={root}"]
    found = script(*options)
    assert found.returncode == 2 and "images/b.png: cannot be decoded" in found.stdout
    assert script().stderr == "error: give --config FILE; --help shows an example\n"
    assert "--statistics" in script("--help").stdout
