"""A run that is asked to end ends between two steps, whole, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from test_distributed import write_config
from test_train import log_without_clock, read_state

import train
from bisenet_jax.training import checkpoint, stop
from bisenet_jax.training.logs import LOG_FILE, read_log
from bisenet_jax.training.stop import Stop

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
