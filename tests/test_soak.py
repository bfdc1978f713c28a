"""A short form of benchmarks/soak.py, and that it would notice a difference."""

import os
import subprocess
import sys

from benchmarks import soak
from bisenet_jax.training.logs import LOG_FILE


def test_a_run_that_is_killed_twice_ends_like_one_left_alone(tmp_path):
    result = soak.soak(tmp_path, kills=2, steps=12, seed=1, seconds=3600)
    assert soak.is_equal(result), soak.table(result)
    assert result["kills"] == 2 and result["arrays"] > 100
    assert sum(result["aimed"].values()) == sum(result["hit"].values()) == 2
    assert not soak.half_written(tmp_path / "killed_0")
    runs = result["runs"]
    assert soak.table(result).count(f"equal in all {runs} runs") == len(soak.COMPARED)
    other = result | {soak.COMPARED[0]: 0}
    assert not soak.is_equal(other) and f"equal in 0 of {runs}" in soak.table(other)

    # Were anything else, it would be seen.
    log = tmp_path / "killed_0" / LOG_FILE
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:3], *lines[2:]]) + "\n")
    assert not soak.compare(tmp_path / "alone", tmp_path / "killed_0")["same_log"]


def test_the_last_step_of_a_log_that_is_being_written(tmp_path):
    log = tmp_path / LOG_FILE
    assert soak.step_of(soak.last_line(tmp_path)) == 0
    log.write_text('{"step": 6, "group": "train"}\n{"step": 6, "gro')
    assert soak.step_of(soak.last_line(tmp_path)) == 6
    # Its scores are not there yet.
    assert soak.is_scoring(soak.last_line(tmp_path))
    log.write_text(log.read_text() + 'up": "val"}\n')
    assert not soak.is_scoring(soak.last_line(tmp_path))


def test_it_runs_as_a_file():
    command = [sys.executable, "benchmarks/soak.py", "--help"]
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, cwd=soak.ROOT, env=environment, check=True, capture_output=True)
