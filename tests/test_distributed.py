"""Two processes are as good as one: same numbers, one voice, and no end without a word."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from test_train import log_without_clock, read_state

import train
from bisenet_jax import config_file, distributed, parallel
from bisenet_jax.config import Config
from bisenet_jax.errors import ConfigError
from bisenet_jax.training import checkpoint

ROOT = Path(__file__).parents[1]
PATIENCE = 300  # seconds; they compile on the cores that all else on the machine uses


@pytest.fixture
def launch(tmp_path):
    """Starts one script as two processes; none outlives the test."""
    started: list[subprocess.Popen] = []

    def start(form: str, *arguments: str, own: tuple[tuple[str, ...], ...] = ((), ())):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pair = []
        for process in range(2):
            how, environment = membership(form, process, port)
            command = [sys.executable, *arguments, *own[process], *how]
            output = (tmp_path / f"output_{len(started)}.txt").open("w+")
            pair.append(
                subprocess.Popen(
                    [*command, "--heartbeat_seconds=200", "--join_seconds=200"],
                    cwd=ROOT,
                    env=os.environ | environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
            pair[-1].output = output
            started.append(pair[-1])
        return pair

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.output.close()


def membership(form: str, process: int, port: int) -> tuple[list[str], dict[str, str]]:
    """Flags and environment of one of two processes, as each launcher sets them."""
    if form == "flags":
        address = f"127.0.0.1:{port}"
        return ["--coordinator", address, "--processes=2", f"--process={process}"], {}
    of_launcher = {
        "slurm": {
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(process),
            "SLURM_LOCALID": str(process),
        },
        "open mpi": {
            "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": str(process),
            "OMPI_COMM_WORLD_LOCAL_RANK": str(process),
        },
    }
    return ["--distributed"], of_launcher[form] | {"JAX_COORDINATOR_PORT": str(port)}


def text_of(process: subprocess.Popen) -> str:
    process.output.flush()
    return Path(process.output.name).read_text(errors="replace")


def wait_for(pair: list[subprocess.Popen]) -> list[str]:
    """What each printed, once both have ended well."""
    for process in pair:
        assert process.wait(PATIENCE) == 0, text_of(process)
    return [text_of(process) for process in pair]


def write_config(path: Path, options: Config) -> str:
    config_file.save(options, path)
    script = path / "config.py"
    script.write_text(
        "from pathlib import Path\nfrom bisenet_jax import config_file\n"
        "def get_config():\n    return config_file.load(Path(__file__).parent)\n"
    )
    return str(script)


def test_killed_and_started_again_two_equal_one(tmp_path, tiny_config, launch):
    alone, workdir = tmp_path / "alone", tmp_path / "run"
    tiny_config.data.val_images = 5  # three for one process, two for the other
    tiny_config.model.semantic_repeats = (1, 1, 1)
    tiny_config.train.steps, tiny_config.train.evaluate_every = 4, 2
    command = ["train.py", f"--config={write_config(tmp_path, tiny_config)}"]
    command.append(f"--workdir={workdir}")

    first, second = pair = launch("flags", *command)
    give_up = time.monotonic() + PATIENCE
    while not (workdir / checkpoint.FOLDER / "2").exists() and time.monotonic() < give_up:
        assert first.poll() is None and second.poll() is None, [*map(text_of, pair)]
        time.sleep(0.05)
    assert (workdir / checkpoint.FOLDER / "2").exists(), [*map(text_of, pair)]
    second.kill()
    assert first.wait(PATIENCE) == 2, text_of(first)
    assert "error: process 0 of 2 lost another one" in text_of(first)
    assert "from the last checkpoint" in text_of(first)

    summary = tmp_path / "summary.json"
    texts = wait_for(launch("slurm", *command, f"--json={summary}"))
    assert "after step 2 of 4" in texts[0] and "train: 100%" in texts[0]
    for word in ("resuming", "mIoU", "train:", "evaluate:"):
        assert word in texts[0] and word not in texts[1]

    made = train.train(tiny_config, alone)
    told = json.loads(summary.read_text())
    assert told["first_step"] == 3 and told["miou"] == made["miou"]
    for here, there in zip(log_without_clock(alone), log_without_clock(workdir), strict=True):
        assert {name: pytest.approx(value, 1e-5) for name, value in here.items()} == there
    one, two = (read_state(path, tiny_config, 4) for path in (alone, workdir))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, two)
