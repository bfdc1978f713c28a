"""A cache gives the same frames quicker, is never read half-written, and never an old one."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from bisenet_jax.config import Config, DataConfig
from bisenet_jax.data import cache
from bisenet_jax.data.cache import open_cache
from bisenet_jax.data.classes import CITYSCAPES
from bisenet_jax.data.coding import plain_ids
from bisenet_jax.data.example import name_of
from bisenet_jax.data.folder import list_pairs
from bisenet_jax.data.pairs import PairSource
from bisenet_jax.data.sources import (
    open_batches,
    open_sampler,
    open_source,
    open_training_source,
)
from bisenet_jax.data.synthetic import SyntheticStreets, draw_street
from bisenet_jax.errors import DataError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def streets() -> SyntheticStreets:
    return SyntheticStreets(images=5, height=64, width=128, seed=3)


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "data"
    for part in ("images", "labels"):
        (root / "train" / part).mkdir(parents=True)
    for index in range(4):
        image, label = draw_street(0, index, 64, 128)
        Image.fromarray(image).save(root / f"train/images/straße{index}.png")
        Image.fromarray(label).save(root / f"train/labels/straße{index}.png")
    return root


def open_folder(root: Path) -> PairSource:
    return PairSource(list_pairs(root, "train"), plain_ids(CITYSCAPES))


def test_array_cache_is_exact_and_jpeg_close(streets, tmp_path):
    exact = open_cache(streets, "array", str(tmp_path))
    close = open_cache(streets, "jpeg", str(tmp_path))
    assert len(exact) == len(close) == 5
    for index, example in enumerate(streets):
        assert name_of(exact, index) == name_of(close, index) == example["name"]
        for cached in (exact[index], close[index]):
            assert cached["name"] == example["name"]
            assert cached["image"].dtype == cached["label"].dtype == np.uint8
            np.testing.assert_array_equal(cached["label"], example["label"])
        np.testing.assert_array_equal(exact[index]["image"], example["image"])
        difference = close[index]["image"].astype(float) - example["image"]
        # 30 dB at the least, and yet not the same: this is a JPEG.
        assert 0 < np.square(difference).mean() < 255**2 / 10**3


def test_cache_is_made_once(streets, tmp_path, monkeypatch):
    open_cache(streets, "array", str(tmp_path))
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(SyntheticStreets, "__getitem__", lambda *_: 1 / 0)
    cached = open_cache(streets, "array", str(tmp_path))
    assert cached[4]["image"].shape == (64, 128, 3)
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_another_file_coding_or_kind_is_another_cache(folder, tmp_path):
    store = tmp_path / "caches"

    def caches_after(source, kind="jpeg") -> int:
        open_cache(source, kind, str(store))
        return len(list(store.iterdir()))

    assert caches_after(open_folder(folder)) == 1
    assert caches_after(open_folder(folder)) == 1
    assert caches_after(open_folder(folder), "array") == 2
    path = folder / "train/labels/straße2.png"
    Image.fromarray(np.zeros((64, 128), np.uint8)).save(path)
    os.utime(path, ns=(1, 1))
    assert caches_after(open_folder(folder)) == 3
    assert (open_cache(open_folder(folder), "jpeg", str(store))[2]["label"] == 0).all()
    swapped = PairSource(list_pairs(folder, "train"), plain_ids(CITYSCAPES))
    swapped.coding.table[0], swapped.coding.table[1] = 1, 0
    assert caches_after(swapped) == 4


@pytest.mark.parametrize("kind", ["jpeg", "array"])
def test_cached_sources_survive_pickling_without_their_pixels(streets, tmp_path, kind):
    cached = open_cache(streets, kind, str(tmp_path))
    pickled = pickle.dumps(cached)
    assert len(pickled) < 2000
    np.testing.assert_array_equal(pickle.loads(pickled)[3]["label"], streets[3]["label"])


def test_batches_of_a_cached_run_are_the_same_for_any_workers(tmp_path):
    data = DataConfig(height=64, width=128, train_images=6, cache="array")
    data.cache_dir = str(tmp_path)
    config = Config(data=data)
    config.train.batch_size = 4

    def take(start: int, workers: int) -> Iterator[dict]:
        config.data.workers = workers
        source = open_training_source(config.data)
        with closing(
            open_batches(config, source, open_sampler(config.data, source), start)
        ) as batches:
            return list(islice(batches, 4 - start))

    plain = DataConfig(height=64, width=128, train_images=6)
    original = open_source(plain, "train")
    with closing(open_batches(config, original, open_sampler(plain, original))) as batches:
        expected = list(islice(batches, 4))
    for start, workers in ((0, 0), (0, 2), (2, 1)):
        for batch, other in zip(take(start, workers), expected[start:], strict=True):
            assert batch["name"] == other["name"]
            np.testing.assert_array_equal(batch["image"], other["image"])
            np.testing.assert_array_equal(batch["label"], other["label"])


def test_evaluation_never_reads_a_cache(folder, tmp_path):
    (folder / "train").rename(folder / "val")
    data = DataConfig(source="folder", root=str(folder), cache="jpeg")
    data.cache_dir = str(tmp_path / "caches")
    example = open_source(data, "val")[0]
    np.testing.assert_array_equal(example["image"], draw_street(0, 0, 64, 128)[0])
    assert not (tmp_path / "caches").exists()


class TwoSizes(SyntheticStreets):
    def __getitem__(self, index):
        example = super().__getitem__(index)
        if index == 3:
            example["image"], example["label"] = example["image"][:32], example["label"][:32]
        return example


def test_array_cache_refuses_two_sizes(tmp_path):
    streets = TwoSizes(images=5, height=64, width=128)
    with pytest.raises(DataError, match=r"street_000003 is 128x32, .*128x64;.*cache to jpeg"):
        open_cache(streets, "array", str(tmp_path))
    assert not list(tmp_path.iterdir())
    assert open_cache(streets, "jpeg", str(tmp_path))[3]["label"].shape == (32, 128)


def test_a_damaged_file_is_named_and_leaves_no_cache(folder, tmp_path):
    path = folder / "train/images/straße2.png"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="straße2.png: cannot be decoded"):
        open_cache(open_folder(folder), "jpeg", str(tmp_path / "caches"))
    assert not list((tmp_path / "caches").iterdir())


def test_unwritable_folder(streets, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"file/.*: the cache cannot be written.*cache_dir"):
        open_cache(streets, "jpeg", str(tmp_path / "file"))


MAKE = """
import resource, signal, sys
from bisenet_jax.data.cache import open_cache
from bisenet_jax.data.synthetic import SyntheticStreets
from bisenet_jax.errors import DataError

kind, folder, images, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if limit:
    # As on a full disk, a write ends with an error from the system.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    print(len(open_cache(SyntheticStreets(images=images, height=64, width=128), kind, folder)))
except DataError as error:
    print(error)
"""


def make_command(kind: str, folder: Path, images: int, limit: int = 0) -> list[str]:
    return [sys.executable, "-c", MAKE, kind, str(folder), str(images), str(limit)]


@pytest.mark.parametrize("kind", ["jpeg", "array"])
def test_full_disk_is_told_and_leaves_no_cache(tmp_path, kind):
    command = make_command(kind, tmp_path, images=30, limit=60_000)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "the cache cannot be written" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())
    streets = SyntheticStreets(images=30, height=64, width=128)
    np.testing.assert_array_equal(
        open_cache(streets, kind, str(tmp_path))[29]["label"], streets[29]["label"]
    )


def test_killed_run_leaves_nothing_that_is_read_or_stays(tmp_path, monkeypatch):
    process = subprocess.Popen(
        make_command("array", tmp_path, images=2000), cwd=ROOT, stderr=subprocess.DEVNULL
    )
    while not list(tmp_path.glob("*.partial/images")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not [path for path in tmp_path.rglob("*.json") if json.loads(path.read_text())]
    left, lock = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert left.suffix == ".partial" and lock.suffix == ".lock" and not lock.stat().st_size
    kept = tmp_path / "notes.partial"
    kept.mkdir()
    streets = SyntheticStreets(images=4, height=64, width=128)
    # Nobody holds the lock of the killed one.
    with cache._turn(lock.with_suffix("")):
        pass
    lock.touch()
    # Within the hour it may be another run's, which is at work on it.
    open_cache(streets, "array", str(tmp_path))
    assert left.is_dir() and lock.exists()
    monkeypatch.setattr(cache, "ABANDONED", 0.0)
    open_cache(streets, "array", str(tmp_path))
    assert left.is_dir(), "nothing was made, so nothing is tidied"
    open_cache(streets, "jpeg", str(tmp_path))
    assert not left.exists() and not lock.exists() and kept.is_dir()
    assert len(list(tmp_path.iterdir())) == 3


def no_locks(*_) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


class CountedStreets(SyntheticStreets):
    reads: ClassVar[list[int]] = []

    def __getitem__(self, index):
        self.reads.append(index)
        return super().__getitem__(index)


@pytest.mark.parametrize("kind", ["jpeg", "array"])
@pytest.mark.parametrize("knows_locks", [True, False])
def test_two_makers_of_one_cache(tmp_path, kind, knows_locks, monkeypatch):
    streets = CountedStreets(images=20, height=64, width=128)
    monkeypatch.setattr(streets, "reads", [])
    if not knows_locks:
        monkeypatch.setattr(cache.fcntl, "flock", no_locks)

    # Threads share a process number, as the first processes of two containers do.
    with ThreadPoolExecutor(2) as pool:
        makers = [pool.submit(open_cache, streets, kind, str(tmp_path)) for _ in range(2)]
        for maker in makers:
            assert len(maker.result()) == 20
    if knows_locks:
        assert sorted(streets.reads) == list(range(20)), "one made it, the other waited"
    # And otherwise they left each other alone.
    (path,) = tmp_path.iterdir()
    label = open_cache(streets, kind, str(tmp_path))[19]["label"]
    np.testing.assert_array_equal(label, streets[19]["label"])
    # And one that somebody has emptied says what to do.
    for file in path.iterdir():
        if file.name != "index.json":
            file.unlink()
    with pytest.raises(DataError, match="cache cannot be read .*; remove this folder"):
        open_cache(streets, kind, str(tmp_path))
