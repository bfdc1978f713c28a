"""Batches depend on seed and step alone, arrive whole, and fail with the name of the file."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from bisenet_jax.data.classes import CAMVID
from bisenet_jax.data.coding import plain_ids
from bisenet_jax.data.example import Batch, Example
from bisenet_jax.data.folder import list_pairs
from bisenet_jax.data.loader import batch_names, evaluation_examples, shuffled, training_batches
from bisenet_jax.data.pairs import PairSource
from bisenet_jax.errors import ConfigError, DataError

BATCH_BYTES = 4 * 24 * 32 * 4


class Numbers:
    """Pictures that show their own index; `reads` counts how often one was asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.reads = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        self.reads += 1
        image = np.full((24, 32, 3), index % 100, np.uint8)
        return {"image": image, "label": image[..., 0] + 100, "name": f"n{index}"}


def take(count: int, source: Numbers, **options) -> list[Batch]:
    options = {"batch_size": 4, "seed": 3} | options
    with closing(training_batches(source, **options)) as batches:
        return list(islice(batches, count))


def names(batches: list[Batch]) -> list[str]:
    return [name for batch in batches for name in batch["name"]]


def assert_equal(batches: list[Batch], others: list[Batch]) -> None:
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch["name"] == other["name"]
        np.testing.assert_array_equal(batch["image"], other["image"])
        np.testing.assert_array_equal(batch["label"], other["label"])


def test_batch_holds_whole_examples():
    for batch in take(3, Numbers(10)):
        assert batch["image"].shape == (4, 24, 32, 3) and batch["image"].dtype == np.uint8
        assert batch["label"].shape == (4, 24, 32) and batch["label"].dtype == np.uint8
        shown = batch["image"][:, 5, 5, 0]
        np.testing.assert_array_equal(batch["label"][:, 7, 7], shown + 100)
        assert batch["name"] == [f"n{index}" for index in shown]


@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("start_step", [0, 1, 5])
def test_threads_and_start_step_change_no_batch(threads, start_step):
    expected = take(8, Numbers(10), threads=2)[start_step:]
    batches = take(8 - start_step, Numbers(10), threads=threads, start_step=start_step)
    assert_equal(batches, expected)


@pytest.mark.parametrize("workers, start_step", [(1, 3), (2, 0)])
def test_workers_change_no_batch_and_end_with_the_stream(workers, start_step):
    batches = take(5, Numbers(10), workers=workers, start_step=start_step)
    assert_equal(batches, take(5, Numbers(10), start_step=start_step))
    assert type(batches[0]["image"]) is np.ndarray
    assert not multiprocessing.active_children()


def test_each_epoch_holds_every_example_once_in_a_new_order():
    shown = names(take(6, Numbers(12)))
    first, second = shown[:12], shown[12:]
    everything = {f"n{index}" for index in range(12)}
    assert set(first) == everything and set(second) == everything
    assert first != second
    assert first != sorted(first)


def test_seeds_give_different_runs():
    runs = [names(take(9, Numbers(12), seed=seed)) for seed in (0, 1)]
    assert runs[0] != runs[1]
    # grain's own epoch seeds would make one run the other's, an epoch late.
    assert runs[0][12:24] != runs[1][:12]
    assert runs[0] == names(take(9, Numbers(12), seed=0))


def test_split_smaller_than_a_batch_repeats():
    (batch,) = take(1, Numbers(3), batch_size=8)
    assert batch["image"].shape[0] == 8
    assert sorted(Counter(batch["name"]).values()) == [2, 3, 3]


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_same_global_batches(process_count):
    shares = [
        take(3, Numbers(10), process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    for step, batch in enumerate(take(3, Numbers(10))):
        parts = [share[step] for share in shares]
        assert {len(part["name"]) for part in parts} == {4 // process_count}
        assert names(parts) == batch["name"]
        np.testing.assert_array_equal(
            np.concatenate([p["image"] for p in parts]), batch["image"]
        )


@pytest.mark.parametrize("process_count", [1, 2])
def test_names_of_a_batch_are_known_before_it_is_read(process_count):
    class Named(Numbers):
        def name(self, index: int) -> str:
            return f"n{index}"

        def __getitem__(self, index: int) -> Example:
            raise AssertionError("nothing is to be read")

    size = 4
    for process in range(process_count):
        share = {"process_index": process, "process_count": process_count}
        batches = take(5, Numbers(7), batch_size=size, seed=3, **share)
        for step, batch in enumerate(batches, start=1):
            found = batch_names(Named(7), shuffled(7, 3), step, batch_size=size, **share)
            assert found == batch["name"]
    # A source that would have to read tells the places.
    unnamed = batch_names(Numbers(7), shuffled(7, 3), 1, batch_size=2)
    assert unnamed == [f"frame {int(shuffled(7, 3)[place])}" for place in range(2)]


def test_reads_no_further_ahead_than_asked():
    source = Numbers(1000)
    options = {"batch_size": 4, "seed": 0, "threads": 2, "prefetch_bytes": 3 * BATCH_BYTES}
    with closing(training_batches(source, **options)) as batches:
        for taken in range(1, 6):
            next(batches)
            # And one example, the first, to learn how large a batch is.
            assert 4 * taken <= source.reads <= 4 * (taken + 3) + 1


def test_evaluation_gives_every_example_once_in_order():
    examples = list(evaluation_examples(Numbers(7), threads=3))
    assert [example["name"] for example in examples] == [f"n{index}" for index in range(7)]
    assert [example["image"][0, 0, 0] for example in examples] == list(range(7))
    assert [e["name"] for e in evaluation_examples(Numbers(7), start=5)] == ["n5", "n6"]
    assert list(evaluation_examples(Numbers(7), start=7)) == []


def test_evaluation_by_processes_covers_each_example_once():
    shares = [
        [e["name"] for e in evaluation_examples(Numbers(7), process_index=i, process_count=3)]
        for i in range(3)
    ]
    assert shares == [["n0", "n3", "n6"], ["n1", "n4"], ["n2", "n5"]]


class TwoSizes(Numbers):
    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(index)
        if index == 4:
            example["image"] = np.zeros((12, 16, 3), np.uint8)
            example["label"] = np.zeros((12, 16), np.uint8)
        return example


def test_two_sizes_in_a_batch_are_named():
    with pytest.raises(DataError) as caught:
        take(1, TwoSizes(8), batch_size=8)
    message = str(caught.value)
    assert "n4 is 16x12" in message and "is 32x24" in message
    assert "one size" in message and "config.data.canvas_height" in message
    assert take(2, TwoSizes(8), batch_size=1)[0]["image"].shape[0] == 1


def test_canvas_holds_frames_of_several_sizes():
    (batch,) = take(1, TwoSizes(8), batch_size=8, canvas=(30, 40))
    assert batch["image"].shape == (8, 30, 40, 3) and batch["label"].shape == (8, 30, 40)
    for name, size, image, label in zip(
        batch["name"], batch["size"], batch["image"], batch["label"], strict=True
    ):
        example = TwoSizes(8)[int(name[1:])]
        height, width = example["label"].shape
        assert tuple(size) == (height, width)
        np.testing.assert_array_equal(image[:height, :width], example["image"])
        np.testing.assert_array_equal(label[:height, :width], example["label"])
        assert (label[height:] == 255).all() and (label[:, width:] == 255).all()
    with pytest.raises(DataError, match=r"is 32x24, larger than the canvas of 16x12; raise"):
        take(1, TwoSizes(8), canvas=(12, 16))


@pytest.fixture
def damaged(tmp_path) -> Iterator[PairSource]:
    for part in ("images", "labels"):
        (tmp_path / "train" / part).mkdir(parents=True)
        for name in "ab":
            grey = np.zeros((24, 32), np.uint8)
            Image.fromarray(grey).save(tmp_path / f"train/{part}/{name}.png")
    path = tmp_path / "train/images/b.png"
    path.write_bytes(path.read_bytes()[:45])
    yield PairSource(list_pairs(tmp_path, "train"), plain_ids(CAMVID))


@pytest.mark.parametrize("workers, threads", [(0, 0), (0, 2), (1, 1)])
def test_damaged_file_reaches_the_training_loop(damaged, workers, threads):
    options = {"batch_size": 2, "seed": 0, "workers": workers, "threads": threads}
    batches = training_batches(damaged, **options)
    with pytest.raises(DataError, match=r"images/b\.png: cannot be decoded"):
        next(batches)
    assert not multiprocessing.active_children()


def test_damaged_file_reaches_the_evaluation(damaged):
    examples = evaluation_examples(damaged)
    assert next(examples)["name"] == "a"
    with pytest.raises(DataError, match=r"images/b\.png: cannot be decoded"):
        next(examples)


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        (
            {"batch_size": 5, "process_count": 2},
            "batch_size 5 must be divisible by 2.*choose 4",
        ),
        (
            {"batch_size": 1, "process_count": 2},
            "batch_size 1 must be divisible by 2.*choose 2",
        ),
        ({"workers": -1}, "workers -1 must be at least 0"),
        ({"threads": -2}, "threads -2 must be at least 0"),
        ({"prefetch_bytes": 0}, "prefetch_bytes 0 must be at least 1"),
        ({"seed": -1}, "seed -1 must be at least 0"),
        ({"start_step": -1}, "start_step -1 must be at least 0"),
        ({"process_count": 0}, "process_count 0 must be at least 1"),
        ({"process_index": 2, "process_count": 2}, "process_index 2 must be from 0 to .*1"),
    ],
)
def test_wrong_options_fail_before_the_first_batch(options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        training_batches(Numbers(4), **({"batch_size": 4, "seed": 0} | options))


def test_wrong_evaluation_options_fail_at_once():
    with pytest.raises(ConfigError, match="start -1 must be at least 0"):
        evaluation_examples(Numbers(4), start=-1)
    with pytest.raises(ConfigError, match="examples_ready 0 must be at least 1"):
        evaluation_examples(Numbers(4), examples_ready=0)


def test_empty_source_is_refused():
    with pytest.raises(DataError, match="training split holds no examples"):
        training_batches(Numbers(0), batch_size=4, seed=0)


# Streams stay open at exit on purpose: their end must be as silent as a proper one.
SCRIPT = """
import sys
from bisenet_jax.data.coding import plain_ids
from bisenet_jax.data.folder import list_pairs
from bisenet_jax.data.pairs import PairSource
from bisenet_jax.data import decode
from bisenet_jax.data.classes import CAMVID
from bisenet_jax.data.loader import batch_names, evaluation_examples, shuffled, training_batches

if __name__ == "__main__":
    source = PairSource(list_pairs(sys.argv[1], "train"), plain_ids(CAMVID))
    workers = int(sys.argv[2])
    batches = training_batches(source, batch_size=2, seed=0, workers=workers, threads=1)
    examples = evaluation_examples(source)
    batch, example = next(batches), next(examples)
    print(batch["image"].shape, example["name"])
"""


def run_script(tmp_path, source_root, workers: int, *, before: str = "") -> tuple[str, str]:
    script = tmp_path / "script.py"
    script.write_text(before + SCRIPT)
    # No backend of this name exists: jax fails if anything asks it for a device.
    environment = os.environ | {"JAX_PLATFORMS": "no_such_platform"}
    command = [sys.executable, str(script), str(source_root), str(workers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.fixture
def sound(damaged, tmp_path):
    (tmp_path / "train/images/b.png").write_bytes(
        (tmp_path / "train/labels/b.png").read_bytes()
    )
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_starts_no_accelerator_and_open_streams_end_in_silence(sound, workers):
    assert run_script(sound, sound, workers) == ("(2, 24, 32, 3) a", "")


def test_loading_works_where_jax_cannot_be_imported(sound):
    without_jax = "import sys\nsys.modules['jax'] = None\n"
    output, _ = run_script(sound, sound, 0, before=without_jax)
    assert output == "(2, 24, 32, 3) a"


class Slow(Numbers):
    def __getitem__(self, index: int) -> Example:
        time.sleep(0.05)
        return super().__getitem__(index)


def test_killed_worker_ends_the_stream_with_a_cure():
    with closing(training_batches(Slow(100), batch_size=2, seed=0, workers=2)) as batches:
        next(batches)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with (
            warnings.catch_warnings(),
            pytest.raises(DataError, match=r"ended from outside.*-9.*config.data.workers"),
        ):
            # What the killed worker had in shared memory is left to the system.
            warnings.simplefilter("ignore")
            for _ in range(50):
                next(batches)
    assert not multiprocessing.active_children()
