"""A run that is asked to end does so soon, whole, and leaves no process behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from test_distributed import write_config
from test_train import log_without_clock, read_state

import train
from bisenet_jax.evaluation import validation
from bisenet_jax.training import checkpoint, pace, stop
from bisenet_jax.training.logs import LOG_FILE, read_log
from bisenet_jax.training.stop import Stop, Stopped

ROOT = Path(__file__).parents[1]
PATIENCE = 300


@pytest.mark.parametrize("number", stop.SIGNALS)
def test_a_signal_is_noted_and_the_next_one_is_as_before(number):
    seen = []
    before = signal.signal(number, lambda *_: seen.append("outer"))
    try:
        with Stop(agree_every=10) as asked:
            assert not asked.is_due(1)
            os.kill(os.getpid(), number)
            assert asked.is_due(2) and asked.is_due(3)
            assert asked.name == signal.Signals(number).name and not seen
            os.kill(os.getpid(), number)
            assert seen == ["outer"]
        os.kill(os.getpid(), number)
        assert seen == ["outer", "outer"]
    finally:
        signal.signal(number, before)


def test_other_threads_train_too():
    found = []

    def work() -> None:
        with Stop(agree_every=1) as asked:
            found.append(asked.is_due(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_several_processes_agree_on_the_step(monkeypatch):
    asked_for = []

    def gather(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        asked_for.append(arrays)
        other = np.frombuffer(b"SIGTERM" if len(asked_for) > 1 else b"", np.uint8)
        return [arrays, {"name": other}]

    monkeypatch.setattr(stop.jax, "process_count", lambda: 2)
    monkeypatch.setattr(stop.parallel, "gather_arrays", gather)
    with Stop(agree_every=5) as asked:
        assert [step for step in range(1, 13) if asked.is_due(step)] == [10]
        assert asked.name == "SIGTERM" and len(asked_for) == 2


def test_a_signal_that_comes_while_others_are_asked_counts_the_next_time(monkeypatch):
    asked_for = []

    def gather(own: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        asked_for.append(own["name"].tobytes())
        if len(asked_for) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return [own, {"name": np.frombuffer(b"", np.uint8)}]

    monkeypatch.setattr(stop.jax, "process_count", lambda: 2)
    monkeypatch.setattr(stop.parallel, "gather_arrays", gather)
    with Stop(agree_every=1) as asked:
        # The others were not told, and go on as well.
        assert not asked.is_due(1)
        assert asked.is_due(2) and asked.name == "SIGTERM"
    assert asked_for == [b"", b"SIGTERM"]


def test_several_processes_leave_an_evaluation_together(monkeypatch):
    monkeypatch.setattr(stop.jax, "process_count", lambda: 2)
    nobody = np.frombuffer(b"", np.uint8)
    other = np.frombuffer(b"SIGTERM", np.uint8)
    monkeypatch.setattr(stop.parallel, "gather_arrays", lambda own: [own, {"name": nobody}])
    with Stop(agree_every=5) as asked:
        assert list(asked.until_asked(range(3))) == [0, 1, 2]
    monkeypatch.setattr(stop.parallel, "gather_arrays", lambda own: [own, {"name": other}])
    seen = []
    with Stop(agree_every=5) as asked, pytest.raises(Stopped):
        for item in asked.until_asked(range(3)):
            seen.append(item)
    # It had no signal itself and has read all of its own.
    assert seen == [0, 1, 2] and asked.name == "SIGTERM"


@pytest.mark.parametrize("at", [3, 6])  # the last one as well
def test_a_run_stopped_within_an_evaluation_scores_it_after_all(
    at, tmp_path, tiny_config, monkeypatch
):
    tiny_config.data.val_images = 6
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train.train(tiny_config, straight)
    real_evaluate, real_save, evaluations = validation.evaluate, checkpoint.save, []

    def ask(step, variables, examples, **rest):
        def asked():
            for example in examples:
                evaluations[-1] += 1
                if len(evaluations) == at / 3 and evaluations[-1] == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield example

        evaluations.append(0)
        return real_evaluate(step, variables, asked(), **rest)

    monkeypatch.setattr(validation, "evaluate", ask)
    summary = train.train(tiny_config, stopped)
    assert summary["stopped_by"] == "SIGTERM" and summary["last_step"] == at
    assert summary["miou"] is None and evaluations[-1] == 2
    assert checkpoint.steps_made(stopped) == at
    assert read_log(stopped / LOG_FILE)[-1]["group"] == "train"
    monkeypatch.undo()

    # Cut off after the scores are in the log and before they are saved.
    def cut_off(*_, **__) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train.train(tiny_config, stopped)
    assert read_log(stopped / LOG_FILE)[-1]["group"] == "val"
    monkeypatch.setattr(checkpoint, "save", real_save)
    summary = train.train(tiny_config, stopped)
    assert summary["stopped_by"] is None and summary["miou"] is not None
    one, other = (read_state(path, tiny_config, 6) for path in (straight, stopped))
    train.jax.tree.map(np.testing.assert_array_equal, one, other)
    assert log_without_clock(stopped) == log_without_clock(straight)
    scores = []
    for path in (straight, stopped):
        with checkpoint.open_checkpoints(path) as saved:
            assert not checkpoint.lacks_scores(saved, 6)
            best = checkpoint.best_step(saved)
            scores.append((best, checkpoint.miou_of(saved, best), checkpoint.miou_of(saved, 6)))
    assert scores[0] == scores[1]


class Hung:
    """Streets that nobody gets to see until the event is set."""

    def __init__(self, source, is_told: threading.Event) -> None:
        self.source, self.is_told = source, is_told
        self.name = source.name

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int):
        assert self.is_told.wait(PATIENCE)
        return self.source[index]


@pytest.mark.parametrize("split", ["training", "validation"])
def test_a_disk_that_hangs_is_told_with_the_frames(
    split, tmp_path, tiny_config, monkeypatch, capsys
):
    tiny_config.train.steps = 1
    monkeypatch.setattr(pace, "PATIENCE", 0.05)
    is_told, real = threading.Event(), train.waiting

    def note(seconds: float, what: str) -> str:
        # A batch is several frames, and one frame at a time is scored.
        if "street" in what and (", street" in what) == (split == "training"):
            is_told.set()
        return real(seconds, what)

    monkeypatch.setattr(train if split == "training" else validation, "waiting", note)
    real_open, hung = train.open_source, "train" if split == "training" else "val"

    def open_hung(data, split):
        source = real_open(data, split)
        return Hung(source, is_told) if split == hung else source

    monkeypatch.setattr(train, "open_source", open_hung)
    train.train(tiny_config, tmp_path)
    out = capsys.readouterr().out
    if split == "validation":
        assert "evaluation: waiting for 0 s for street_000000 of synthetic (0 loader" in out
    else:
        source = real_open(tiny_config.data, "train")
        order = train.open_sampler(tiny_config.data, source)(0)
        names = ", ".join(f"street_{order[place]:06d}" for place in range(4))
        assert f"step 1: waiting for 0 s for {names} of synthetic (0 loader" in out


@pytest.mark.parametrize(
    ("owner", "name", "what"),
    [
        (train, "open_source", "synthetic"),
        (train.checkpoint, "save", "after step 1"),
        (train.checkpoint, "finish", "the last checkpoint"),
        (train.checkpoint, "restore_newest", "run"),
    ],
)
def test_a_disk_that_hangs_elsewhere_is_told(
    owner, name, what, tmp_path, tiny_config, monkeypatch, capsys
):
    workdir = tmp_path / "run"
    tiny_config.train.steps = 1
    if name == "restore_newest":
        train.train(tiny_config, workdir)
    monkeypatch.setattr(pace, "PATIENCE", 0.05)
    is_told, told, do = threading.Event(), train.waiting, getattr(owner, name)

    def note(seconds: float, thing: str) -> str:
        if what in thing:
            is_told.set()
        return told(seconds, thing)

    def hang(*rest, **named):
        assert is_told.wait(PATIENCE)
        return do(*rest, **named)

    monkeypatch.setattr(train, "waiting", note)
    monkeypatch.setattr(owner, name, hang)
    train.train(tiny_config, workdir)
    assert re.search(f"waiting for 0 s for .*{what}.*: the disk", capsys.readouterr().out)


def test_making_a_cache_is_not_hanging(tmp_path, tiny_config, monkeypatch):
    watched: list[str] = []
    asked: list[list[str]] = []

    @contextmanager
    def watch(what):
        watched.append(what)
        yield
        watched.pop()

    def make(source, _):
        asked.append([*watched])
        return source

    tiny_config.train.steps = 1
    monkeypatch.setattr(train, "watch", watch)
    monkeypatch.setattr(train, "with_cache", make)
    train.train(tiny_config, tmp_path)
    assert asked == [[]]


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, tiny_config, monkeypatch):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train.train(tiny_config, straight)
    real = train.finite.require_finite

    def ask(step: int, *rest) -> None:
        real(step, *rest)
        if step == 4:  # reported while step 5 is at work
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train.finite, "require_finite", ask)
    before = signal.getsignal(signal.SIGTERM)
    summary = train.train(tiny_config, stopped)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) is before
    assert summary["stopped_by"] == "SIGTERM" and summary["last_step"] == 5
    assert summary["miou"] is None
    assert [line["step"] for line in read_log(stopped / LOG_FILE)] == [1, 2, 3, 3, 4, 5]
    summary = train.train(tiny_config, stopped)
    assert summary["first_step"] == 6 and summary["stopped_by"] is None
    one, other = (read_state(path, tiny_config, 6) for path in (straight, stopped))
    train.jax.tree.map(np.testing.assert_array_equal, one, other)
    assert log_without_clock(stopped) == log_without_clock(straight)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGTERM, 0, "the same command goes on from there"),
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGKILL, -9, ""),
    ],
)
def test_no_loader_process_outlives_the_run(tmp_path, tiny_config, number, code, word):
    tiny_config.model.semantic_repeats = (1, 1, 1)
    tiny_config.data.workers, tiny_config.train.steps = 2, 100_000
    tiny_config.train.evaluate_every = tiny_config.train.checkpoint_every = 100_000
    workdir = tmp_path / "run"
    command = [sys.executable, "train.py", "--config", write_config(tmp_path, tiny_config)]
    with (tmp_path / "output").open("w+") as output:
        process = subprocess.Popen(
            [*command, f"--workdir={workdir}"], cwd=ROOT, stdout=output, stderr=output
        )
        try:
            give_up = time.monotonic() + PATIENCE
            while not (workdir / LOG_FILE).exists() or not read_log(workdir / LOG_FILE):
                assert process.poll() is None, (tmp_path / "output").read_text()
                assert time.monotonic() < give_up
                time.sleep(0.05)
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) >= 2
            if number == signal.SIGTERM:
                # As a scheduler does: to all of them.
                for child in children:
                    child.send_signal(number)
            process.send_signal(number)
            assert process.wait(PATIENCE) == code, (tmp_path / "output").read_text()
            _, alive = psutil.wait_procs(children, timeout=60)
            assert not alive
        finally:
            process.kill()
            process.wait()
    assert word in (tmp_path / "output").read_text()
    assert (checkpoint.steps_made(workdir) > 0) == (number == signal.SIGTERM)
