"""From the zips of Cityscapes to batches, through tfds; stopped anywhere, started again."""

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from benchmarks.street_zips import write_streets
from bisenet_jax.config import Config, DataConfig
from bisenet_jax.data.cityscapes import preparation, writer
from bisenet_jax.data.cityscapes.archives import ZIPS
from bisenet_jax.data.cityscapes.records import CityscapesRecords, records_folder
from bisenet_jax.data.sources import open_batches, open_sampler, open_source
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.errors import DataError

ROOT = Path(__file__).parents[1]
COUNTS = {"train": 9, "val": 2, "test": 1}
FRAMES = {"train": 9, "validation": 2, "test": 1}
SHARD_BYTES = 40_000  # two or three frames
IMAGES, LABELS = ZIPS.values()


@pytest.fixture(scope="module")
def zips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zips")
    write_streets(folder, COUNTS, height=64, width=96)
    return folder


@pytest.fixture
def copied(zips, tmp_path) -> Path:
    """Zips that a test may break."""
    for name in ZIPS.values():
        (tmp_path / name).write_bytes((zips / name).read_bytes())
    return tmp_path


def run(zips: Path, data_dir: Path, splits: tuple[str, ...] = tuple(COUNTS)) -> dict:
    return preparation.prepare_cityscapes(zips, data_dir, list(splits), SHARD_BYTES)


def program(*arguments: object, before: str = "pass") -> subprocess.CompletedProcess:
    """The program as a user starts it, after a line of Python."""
    module = "bisenet_jax.data.prepare"
    code = f"import runpy; {before}; runpy.run_module({module!r}, None, '__main__')"
    command = [sys.executable, "-W", "error", "-c", code, "cityscapes", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def read_all(data_dir: Path) -> dict[str, list[tuple[str, bytes, bytes]]]:
    builder = tfds.builder_from_directory(records_folder(data_dir))
    skip = tfds.decode.SkipDecoding()
    decoders = {"image_left": skip, "segmentation_label": skip}
    return {
        split: [
            (record["image_id"], record["image_left"], record["segmentation_label"])
            for record in builder.as_data_source(split, decoders=decoders)
        ]
        for split in builder.info.splits
    }


def names_in(data_dir: Path) -> set[str]:
    return {path.name for path in records_folder(data_dir).iterdir()}


def rewrite(path: Path, change) -> None:
    """Write a zip anew; `change` is given a name and its bytes, and returns bytes or None."""
    with zipfile.ZipFile(path) as old:
        files = {name: change(name, old.read(name)) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in files.items():
            if data is not None:
                new.writestr(name, data)


def test_from_zips_to_batches(zips, tmp_path):
    summary = run(zips, tmp_path)
    assert summary["splits"] == FRAMES and summary["frames_written"] == 12
    name = "cityscapes/semantic_segmentation"
    by_tfds = tfds.data_source(name, split="train", data_dir=tmp_path)
    with zipfile.ZipFile(zips / LABELS) as file:
        names = [name for name in file.namelist() if "/train/" in name]
        maps = [np.asarray(Image.open(io.BytesIO(file.read(name)))) for name in names]
    assert len(by_tfds) == len(maps) == 9
    ours = open_source(DataConfig(source="cityscapes", root=str(tmp_path)), "train")
    for index, (example, label_ids) in enumerate(zip(by_tfds, maps, strict=True)):
        image, label = draw_street(0, index, 64, 96)
        np.testing.assert_array_equal(example["image_left"], image)
        np.testing.assert_array_equal(example["segmentation_label"][..., 0], label_ids)
        assert example["image_id"].decode() == ours[index]["name"]
        np.testing.assert_array_equal(ours[index]["image"], image)
        np.testing.assert_array_equal(ours[index]["label"], label)
        assert ours.describe(index) == (ours[index]["name"], 64, 96)
    with pytest.raises(IndexError, match="9 is outside of 0 to 8"):
        ours.describe(9)
    config = Config(data=DataConfig(source="cityscapes", root=str(tmp_path)))
    config.train.batch_size = 4
    batches = open_batches(config, ours, open_sampler(config.data, ours))
    batch = next(batches)
    batches.close()
    place = [example["name"] for example in ours].index(batch["name"][2])
    np.testing.assert_array_equal(batch["image"][2], ours[place]["image"])
    np.testing.assert_array_equal(batch["label"][2], ours[place]["label"])


def test_drawing_in_processes_changes_no_frame(zips, tmp_path):
    write_streets(tmp_path, COUNTS, height=64, width=96, processes=2)
    for name in ZIPS.values():
        with zipfile.ZipFile(zips / name) as one, zipfile.ZipFile(tmp_path / name) as two:
            assert one.namelist() == two.namelist()
            assert [one.read(path) for path in one.namelist()] == [
                two.read(path) for path in two.namelist()
            ]


def test_folders_give_what_zips_give(zips, tmp_path):
    for name in ZIPS.values():
        with zipfile.ZipFile(zips / name) as file:
            file.extractall(tmp_path / "extracted")
    run(zips, tmp_path / "a")
    run(tmp_path / "extracted", tmp_path / "b")
    assert read_all(tmp_path / "a") == read_all(tmp_path / "b")


def test_the_program(zips, tmp_path):
    arguments = ("--zips", zips, "--data_dir", tmp_path, "--shard_megabytes", "0.04")
    done = program(*arguments, "--splits", "val", "--json", tmp_path / "done.json")
    assert done.returncode == 0 and "100%" in done.stderr
    assert "prepared: validation 2 frames" in done.stdout
    summary = json.loads((tmp_path / "done.json").read_text())
    assert summary["frames_written"] == 2 and summary["frames_per_second"] > 0
    wrong = program(*arguments, "--splits", "val,extra")
    assert wrong.returncode == 2 and "--splits ['extra'] must be of train" in wrong.stderr
    assert program("--zips", zips).returncode == 2


def test_a_second_run_does_nothing_and_a_split_is_added(zips, tmp_path, capsys):
    run(zips, tmp_path, ("val",))
    times = {path: path.stat().st_mtime_ns for path in records_folder(tmp_path).iterdir()}
    # Not even the zips are needed.
    again = run(tmp_path / "nothing", tmp_path, ("val",))
    assert again["frames_written"] == 0 and "was prepared already" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert run(zips, tmp_path)["frames_written"] == 10
    assert {split: len(frames) for split, frames in read_all(tmp_path).items()} == FRAMES


def test_killed_and_started_again(zips, tmp_path, capsys):
    run(zips, tmp_path / "whole")
    killer = (
        "import os; from tqdm import tqdm; update = tqdm.update; "
        "tqdm.update = lambda bar: (update(bar), bar.n == 5 and os.kill(os.getpid(), 9))"
    )
    arguments = ("--zips", zips, "--data_dir", tmp_path, "--shard_megabytes", 0.04)
    killed = program(*arguments, before=killer)
    assert killed.returncode == -signal.SIGKILL
    left = names_in(tmp_path)
    finished = [name for name in left if name.startswith("cityscapes-train")]
    assert 1 <= len(finished) <= 3 and len([name for name in left if "partial" in name]) == 1
    with pytest.raises(DataError, match="preparation has not ended"):
        CityscapesRecords(tmp_path, "train")
    folder = records_folder(tmp_path)
    times = {name: (folder / name).stat().st_mtime_ns for name in finished}

    capsys.readouterr()
    summary = run(zips, tmp_path)
    assert 2 <= summary["frames_kept"] <= 5
    assert f"resuming, {summary['frames_kept']} of 12 frames" in capsys.readouterr().out
    assert times == {name: (folder / name).stat().st_mtime_ns for name in finished}
    assert read_all(tmp_path) == read_all(tmp_path / "whole")
    assert names_in(tmp_path) == names_in(tmp_path / "whole")


def test_shards_that_are_not_as_planned_are_written_anew(zips, tmp_path):
    run(zips, tmp_path / "whole")
    run(zips, tmp_path)
    folder = records_folder(tmp_path)
    (folder / "dataset_info.json").unlink()
    first, second, third = sorted(folder.glob("cityscapes-train*"))[:3]
    os.replace(first, second)
    third.write_bytes(third.read_bytes()[:70_000])
    (folder / "cityscapes-train.array_record-00000-of-00077").write_bytes(b"another plan")
    summary = run(zips, tmp_path)
    assert 0 < summary["frames_kept"] < 12 - 3
    assert read_all(tmp_path) == read_all(tmp_path / "whole")
    assert names_in(tmp_path) == names_in(tmp_path / "whole")


def test_a_full_disk(zips, tmp_path):
    arguments = ("--zips", zips, "--data_dir", tmp_path, "--splits", "train")
    # Python ignores SIGXFSZ, so that a write beyond this size fails as on a full disk.
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (80_000, 80_000))"
    failed = program(*arguments, before=limit)
    assert failed.returncode == 2
    message = failed.stderr.splitlines()[-1]
    assert message.startswith("error: ") and "00000-of-00001: cannot be written" in message
    assert "File too large" in message and "check disk space" in message
    assert names_in(tmp_path) == {".prepare.lock"}
    assert run(zips, tmp_path)["frames_written"] == 12


def test_no_room_is_seen_before_the_start(zips, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")(100_000)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        DataError, match=r"0.\d GB are needed, but 0.0 GB are free; .*--data_dir"
    ):
        run(zips, tmp_path)
    assert names_in(tmp_path) == {".prepare.lock"}


def test_one_run_at_a_time(zips, tmp_path):
    with writer.locked(records_folder(tmp_path)):
        with pytest.raises(DataError, match="another run is writing here"):
            run(zips, tmp_path)
    assert run(zips, tmp_path)["frames_written"] == 12


def test_a_description_that_cannot_be_written(zips, tmp_path, monkeypatch):
    replace = os.replace

    def fail_late(source, target):
        if Path(target).name == "dataset_info.json":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_late)
    with pytest.raises(DataError, match="1.0.0: cannot be written .*No space left"):
        run(zips, tmp_path)
    with pytest.raises(DataError, match="preparation has not ended"):
        CityscapesRecords(tmp_path, "train")
    monkeypatch.undo()
    assert run(zips, tmp_path)["frames_kept"] == 12


def test_a_finished_folder_that_was_damaged_later(zips, tmp_path):
    run(zips, tmp_path)
    path = sorted(records_folder(tmp_path).glob("cityscapes-validation*"))[0]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        DataError, match=f"{path.name}: must hold . frames, but none can be read"
    ):
        run(zips, tmp_path)


def test_missing_zips_are_named_with_their_source(copied):
    (copied / "other.txt").write_text("")
    (copied / LABELS).unlink()
    with pytest.raises(DataError) as caught:
        run(copied, copied / "out")
    message = str(caught.value)
    assert "neither gtFine_trainvaltest.zip nor the folder gtFine/" in message
    assert f"it holds {IMAGES}, other.txt" in message
    assert "https://www.cityscapes-dataset.com/downloads/" in message
    with pytest.raises(DataError, match="leftImg8bit_trainvaltest.zip .*nothing is there"):
        run(copied / "nowhere", copied / "out")
    assert not (copied / "out").exists()


def test_a_web_page_in_place_of_a_zip(copied):
    (copied / IMAGES).write_text("<html>please log in</html>")
    with pytest.raises(DataError, match=f"{IMAGES}: is not a whole zip .*web page"):
        run(copied, copied / "out")


def test_pairs_are_checked_before_anything_is_written(copied):
    town = "gtFine/train/altdorf/altdorf_000002_000019_gtFine_labelIds.png"

    def small(name: str, data: bytes) -> bytes:
        return _png(np.zeros((64, 95), np.uint8)) if name == town else data

    def deep(name: str, data: bytes) -> bytes:
        return _png(np.zeros((64, 96), np.uint16)) if name == town else data

    whole = (copied / LABELS).read_bytes()
    for change, message in (
        (small, f"{town} is 95x64, but its picture is 96x64"),
        (deep, f"{town} is no 8-bit grey PNG"),
        (lambda name, data: b"" if name == town else data, f"{town} is no 8-bit grey PNG"),
        (lambda name, data: None if name == town else data, "1 of 9 frames .*altdorf_000002"),
    ):
        (copied / LABELS).write_bytes(whole)
        rewrite(copied / LABELS, change)
        with pytest.raises(DataError, match=message):
            run(copied, copied / "out")
        assert names_in(copied / "out") == {".prepare.lock"}


def test_a_damaged_file_in_a_zip_is_named(copied):
    data = bytearray((copied / IMAGES).read_bytes())
    with zipfile.ZipFile(copied / IMAGES) as file:
        info = next(info for info in file.infolist() if "neudorf_000006" in info.filename)
    data[info.header_offset + 500] ^= 1
    (copied / IMAGES).write_bytes(data)
    with pytest.raises(DataError, match="neudorf_000006_000019_leftImg8bit.png cannot be read"):
        run(copied, copied / "out")
    left = names_in(copied / "out")
    assert left and not [name for name in left if "partial" in name or "info" in name]


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
