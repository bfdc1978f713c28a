"""What a disk does to checkpoints is found, named and skipped; the last good one stays."""

import gc
import json
import os
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax import parallel
from bisenet_jax.errors import CheckpointError, DamagedCheckpointError, OutputError
from bisenet_jax.training import checkpoint
from bisenet_jax.training.state import TrainState

# Where several arrays fail, orbax looks at the first error only and drops the other tasks.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state_of(step: int, size: int = 4096) -> TrainState:
    array = jnp.asarray(np.random.default_rng(step).normal(size=size), jnp.float32)
    return TrainState(jnp.int32(step), {"kernel": array}, {"mean": array[:4]}, ())


@pytest.fixture
def run(tmp_path):
    """A workdir with the checkpoints 1, 2 and 3."""
    with checkpoint.open_checkpoints(tmp_path, keep=3) as saved:
        for step in (1, 2, 3):
            checkpoint.save(saved, state_of(step), step, step / 10)
    yield tmp_path
    gc.collect()


def go_on(workdir) -> int:
    """As train.py does; the numbers are those of the step that it goes on from."""
    checkpoint.tidy(workdir)
    with checkpoint.open_checkpoints(workdir, keep=3) as saved:
        found = checkpoint.restore_newest(saved, workdir, state_of(0), parallel.make_mesh())
    state, step = found
    jax.tree.map(np.testing.assert_array_equal, state, state_of(step))
    return step


def largest_file(workdir, step: int):
    files = (workdir / checkpoint.FOLDER / str(step)).rglob("*")
    return max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)


def test_the_newest_good_one_is_taken(run, capsys):
    assert go_on(run) == 3 and capsys.readouterr().out == ""
    for step in (3, 2):
        path = largest_file(run, step)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert go_on(run) == 1
    told = capsys.readouterr().out
    for step in (3, 2):
        assert f"skipping the checkpoint of step {step}, now in" in told
        assert (run / checkpoint.DAMAGED_FOLDER / str(step)).is_dir()
    assert checkpoint.steps_made(run) == 1
    # The steps come again, and their checkpoints are written anew.
    with checkpoint.open_checkpoints(run, keep=3) as saved:
        checkpoint.save(saved, state_of(3), 3, None)
    assert go_on(run) == 3


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "remove"])
def test_no_harm_to_any_file_gives_other_numbers(run, harm):
    random, folder = np.random.default_rng(0), run / checkpoint.FOLDER / "3"
    good = run / "good"
    shutil.copytree(folder, good)
    skipped = 0
    for path in sorted(path for path in good.rglob("*") if path.is_file()):
        data = bytearray(path.read_bytes())
        place = int(random.integers(len(data)))
        if harm == "flip":
            data[place] ^= 1 << int(random.integers(8))
        target = folder / path.relative_to(good)
        target.write_bytes({"truncate": data[:place], "empty": b""}.get(harm, data))
        if harm == "remove":
            target.unlink()
        step = go_on(run)  # compares the numbers
        assert step in (2, 3)
        skipped += step == 2
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
    assert skipped >= 4


def test_a_changed_score_is_damage(run):
    path = run / checkpoint.FOLDER / "3" / "metrics" / "metrics"
    path.write_text(json.dumps({"miou": 0.9}))
    assert go_on(run) == 2


def test_scoring_names_what_is_damaged_and_moves_nothing(run):
    path = largest_file(run, 3)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with checkpoint.open_checkpoints(run) as saved:
        with pytest.raises(
            DamagedCheckpointError, match="of step 3 is damaged .*checkpoints/3"
        ):
            checkpoint.restore(saved, 3, state_of(0), parallel.make_mesh())
    assert checkpoint.steps_made(run) == 3
    (run / checkpoint.FOLDER / "3" / "_CHECKPOINT_METADATA").write_text("{")
    with pytest.raises(CheckpointError):
        with checkpoint.open_checkpoints(run) as saved:
            checkpoint.restore(saved, 3, state_of(0), parallel.make_mesh())


def test_what_another_process_cannot_read_is_left_here_too(run, monkeypatch, capsys):
    real, asked = parallel.gather_arrays, []

    def gather(arrays):
        shares = real(arrays)
        if "reason" in arrays:
            asked.append(arrays)
            other = b"bad there" if len(asked) == 1 else b""
            shares = [*shares, {"reason": np.frombuffer(other, np.uint8)}]
        return shares

    monkeypatch.setattr(checkpoint.parallel, "gather_arrays", gather)
    assert go_on(run) == 2 and len(asked) == 2
    assert "another process cannot read it" in capsys.readouterr().out


def test_a_checkpoint_of_before_there_were_digests_is_read(run):
    path = run / checkpoint.FOLDER / "3" / "_CHECKPOINT_METADATA"
    described = json.loads(path.read_bytes())
    assert described["custom_metadata"].pop("sha256")
    path.write_text(json.dumps(described))
    assert go_on(run) == 3


def test_nothing_good_left_is_said_once(run):
    for step in (1, 2, 3):
        largest_file(run, step).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no good checkpoint left: .*from the first step"):
        go_on(run)
    assert checkpoint.steps_made(run) == 0


def test_another_network_is_refused_and_not_set_aside(run):
    other = state_of(0, size=8)
    with checkpoint.open_checkpoints(run, keep=3) as saved:
        with pytest.raises(CheckpointError, match=r"kernel is float32\[4096\] there and"):
            checkpoint.restore_newest(saved, run, other, parallel.make_mesh())
    assert checkpoint.steps_made(run) == 3


def test_a_write_that_was_cut_off_is_swept(run):
    folder = run / checkpoint.FOLDER
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp")
    assert go_on(run) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]


def test_a_full_disk_stops_with_the_last_good_one_whole(run):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            OutputError, match=r"no checkpoint can be written .*the last good one, of step 3"
        ):
            with checkpoint.open_checkpoints(run, keep=3) as saved:
                checkpoint.save(saved, state_of(4, size=1 << 18), 4, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert go_on(run) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_leave_stops(run):
    (run / checkpoint.FOLDER).chmod(0o500)
    try:
        with pytest.raises(OutputError, match="no checkpoint can be written"):
            with checkpoint.open_checkpoints(run, keep=3) as saved:
                checkpoint.save(saved, state_of(4), 4, None)
    finally:
        (run / checkpoint.FOLDER).chmod(0o700)
