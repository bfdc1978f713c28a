"""A short form of benchmarks/soak.py, and that it would notice a difference."""

from benchmarks import soak
from bisenet_jax.training.logs import LOG_FILE


def test_a_run_that_is_killed_twice_ends_like_one_left_alone(tmp_path):
    result = soak.soak(tmp_path, kills=2, steps=40, seed=1, seconds=600)
    assert soak.is_equal(result), soak.table(result)
    assert result["kills"] == 2 and result["arrays"] > 100
    assert result["half_written_left"] == 0
    assert "equal" in soak.table(result) and "NOT" not in soak.table(result)

    # Were anything else, it would be seen.
    log = tmp_path / "killed" / LOG_FILE
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:3], *lines[2:]]) + "\n")
    assert not soak.compare(tmp_path / "alone", tmp_path / "killed")["same_log"]


def test_the_last_step_of_a_log_that_is_being_written(tmp_path):
    log = tmp_path / LOG_FILE
    assert soak.last_step(tmp_path) == 0
    log.write_text('{"step": 3, "group": "train"}\n{"step": 4, "gro')
    assert soak.last_step(tmp_path) == 3
