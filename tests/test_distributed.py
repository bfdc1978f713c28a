"""Two processes are as good as one: same numbers, one voice, and no end without a word."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from absl import flags
from test_train import log_without_clock, read_state

import train
from bisenet_jax import config_file, distributed
from bisenet_jax.config import Config
from bisenet_jax.errors import ConfigError
from bisenet_jax.model.presets import build_model
from bisenet_jax.training import checkpoint
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.state import create_state

ROOT = Path(__file__).parents[1]
PATIENCE = 300  # seconds; they compile on the cores that all else on the machine uses

Own = tuple[tuple[str, ...], tuple[str, ...]]


@pytest.fixture
def launch(tmp_path):
    """Starts one script as two processes; none outlives the test."""
    started: list[subprocess.Popen] = []

    def start(form: str, *arguments: str, heartbeat: int = 200, own: Own = ((), ())):
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
                    [*command, f"--heartbeat_seconds={heartbeat}", "--join_seconds=200"],
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
    tiny_config.train.steps, tiny_config.train.evaluate_every = 6, 2
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
    # A trace, too, has one writer.
    # Hosts may read in their own ways.
    own = (), ("--config.data.threads=3",)
    command += [f"--json={summary}", "--profile=1"]
    texts = wait_for(launch("slurm", *command, own=own))
    traces = workdir / "tensorboard" / "plugins" / "profile"
    assert len(list(traces.glob("*/perfetto_trace.json.gz"))) == 1
    assert "after step 2 of 6" in texts[0] and "train: 100%" in texts[0]
    for word in ("resuming", "mIoU", "train:", "evaluate:"):
        assert word in texts[0] and word not in texts[1]

    made = train.train(tiny_config, alone)
    told = json.loads(summary.read_text())
    assert told["first_step"] == 3 and told["miou"] == made["miou"]
    for here, there in zip(log_without_clock(alone), log_without_clock(workdir), strict=True):
        assert here.pop("group") == there.pop("group")
        assert there == pytest.approx(here, rel=1e-5)
    one, two = (read_state(path, tiny_config, 6) for path in (alone, workdir))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, two)


def test_two_score_as_one(tmp_path, tiny_config, launch):
    tiny_config.data.val_images = 5
    workdir, pictures = tmp_path / "run", tmp_path / "pictures"
    model = build_model(**dataclasses.asdict(tiny_config.model))
    optimizer = make_optimizer(tiny_config.optimizer, tiny_config.train.steps)
    config_file.save(tiny_config, workdir)
    with checkpoint.open_checkpoints(workdir, keep=1) as saved:
        checkpoint.save(saved, create_state(model, optimizer, seed=0), 1, miou=0.5)
    command = ["evaluate.py", f"--workdir={workdir}", "--boundary", "--json"]
    together = [str(tmp_path / "two.json"), f"--save_dir={pictures}", "--pictures=3"]
    first, second = wait_for(launch("open mpi", *command, *together))
    assert "traffic light" in first and "3/3" in first
    assert "traffic light" not in second and "evaluate:" not in second
    assert {path.stem for path in pictures.iterdir()} == {f"street_{n:06}" for n in range(3)}

    alone = [sys.executable, *command, str(tmp_path / "one.json")]
    subprocess.run(alone, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    # Sums of floats, in another order.
    for scored in (one, two):
        for key in ("boundary_f1", "class_boundary_f1"):
            scored[key] = pytest.approx(scored[key]) if scored is one else scored[key]
    assert one == two and one["images"] == 5


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            (("--config.train.steps=4",), ("--config.train.steps=5",)),
            "config.train.steps is 4 in process 0 and 5 in process 1",
        ),
        (
            (("--config.train.batch_size=3",),) * 2,
            "batch_size 3 must be divisible by the 2 devices of 2 processes; use 2",
        ),
    ],
)
def test_what_cannot_work_together_is_refused(tmp_path, tiny_config, launch, own, message):
    workdir, config = tmp_path / "run", write_config(tmp_path, tiny_config)
    pair = launch("flags", "train.py", f"--config={config}", f"--workdir={workdir}", own=own)
    for process in pair:
        assert process.wait(PATIENCE) == 2 and message in text_of(process)
    assert not (workdir / "config.json").exists()


def test_a_silent_process_ends_the_other(tmp_path, tiny_config, launch):
    workdir, config = tmp_path / "run", write_config(tmp_path, tiny_config)
    command = ["train.py", f"--config={config}", f"--workdir={workdir}"]
    first, second = launch("flags", *command, heartbeat=10)
    give_up = time.monotonic() + PATIENCE
    while not workdir.exists() and time.monotonic() < give_up:
        assert first.poll() is None and second.poll() is None
        time.sleep(0.05)
    second.send_signal(signal.SIGSTOP)
    assert first.wait(PATIENCE) == -signal.SIGABRT
    assert "another task died" in text_of(first)


@pytest.mark.parametrize(
    ("coordinator", "processes", "process", "is_detected", "message"),
    [
        ("a:1", 2, None, False, "belong together"),
        (None, 2, 1, False, "belong together"),
        ("a:1", 2, 0, True, "or --distributed alone"),
        ("a", 2, 0, False, "'a' must be HOST:PORT"),
        ("a:1", 2, 2, False, "--process 2 must be from 0 to 1"),
        ("a:1", 2, -1, False, "--process -1 must be from 0 to 1"),
    ],
)
def test_flags_that_do_not_fit(coordinator, processes, process, is_detected, message):
    with pytest.raises(ConfigError, match=message):
        distributed.join(
            coordinator,
            processes,
            process,
            is_detected=is_detected,
            join_seconds=1,
            heartbeat_seconds=10,
        )


def test_an_abort_while_the_others_are_told_keeps_the_exit_code():
    # As jax does it, in a thread of its own, while the main thread waits.
    code = """
import ctypes, threading, time
from bisenet_jax import distributed
if {is_told}:
    distributed._let_abort_end_with(2)
threading.Thread(target=ctypes.CDLL(None).abort).start()
time.sleep(60)
"""
    for is_told, expected in ((True, 2), (False, -signal.SIGABRT)):
        command = [sys.executable, "-c", code.format(is_told=is_told)]
        assert subprocess.run(command, timeout=PATIENCE).returncode == expected


def test_without_a_cluster_there_is_nothing_to_detect(tmp_path):
    command = ["train.py", "--config=configs/synthetic.py", "--distributed"]
    told = subprocess.run(
        [sys.executable, *command, f"--workdir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert told.returncode == 2 and "--distributed finds no cluster here" in told.stderr


def test_a_folder_of_its_own_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "_PATIENCE_SECONDS", 0.0)
    (tmp_path / "config.json").touch()
    distributed.require_shared(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="a folder that all hosts share"):
        distributed.require_shared(tmp_path / "elsewhere.json")


def test_launch_files_name_flags_that_exist():
    folder = ROOT / "docs" / "launch"
    script = folder / "train.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    job_set = yaml.safe_load((folder / "jobset.yaml").read_text())
    job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 2
    (command,) = job["template"]["spec"]["containers"][0]["args"]
    _, train_command = script.read_text().split("train.py")
    for text in (command, train_command.split("code=")[0]):
        used = re.findall(r"--([\w.]+)", text)
        assert len(used) >= 5
        for name in used:
            assert name in flags.FLAGS or name in config_file.legal_keys(), name
