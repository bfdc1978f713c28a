"""The two logs of a run, read back: lines as JSON, the board as TensorBoard's own records."""

import gc
import io
import json
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from bisenet_jax.errors import OutputError
from bisenet_jax.training.logs import LOG_FILE, open_log, read_log


def board_events(workdir: Path) -> list[Event]:
    """The records of every event file: length, its checksum, the event, its checksum."""
    events = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def board_points(workdir: Path) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, value.simple_value)
        for event in board_events(workdir)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def test_values_reach_both_logs(tmp_path):
    with open_log(tmp_path, start_step=0) as log:
        log.write(10, "train", {"loss": np.float32(1.5), "learning_rate": 0.05})
        # A line can be read while the run goes on.
        assert len(read_log(tmp_path / LOG_FILE)) == 1
        log.write(20, "val", {"miou": 0.25})
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 10, "group": "train", "loss": 1.5, "learning_rate": 0.05},
        {"step": 20, "group": "val", "miou": 0.25},
    ]
    assert board_points(tmp_path) == [
        ("train/loss", 10, 1.5),
        ("train/learning_rate", 10, pytest.approx(0.05)),
        ("val/miou", 20, 0.25),
    ]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -np.float32("inf")])
def test_no_number_is_null_and_no_point(tmp_path, capfd, caplog, number):
    with open_log(tmp_path, start_step=0) as log:
        log.write(10, "val", {"miou": number, "pixel_accuracy": 0.5})
    line = (tmp_path / LOG_FILE).read_text()
    assert "NaN" not in line and "Infinity" not in line
    assert json.loads(line) == {
        "step": 10,
        "group": "val",
        "miou": None,
        "pixel_accuracy": 0.5,
    }
    assert board_points(tmp_path) == [("val/pixel_accuracy", 10, 0.5)]
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_picture_reaches_the_board(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    with open_log(tmp_path, start_step=0) as log:
        log.picture(30, "val/picture", picture)
    (shown,) = [
        (value.tag, event.step, value.image)
        for event in board_events(tmp_path)
        for value in event.summary.value
    ]
    assert shown[:2] == ("val/picture", 30)
    encoded = Image.open(io.BytesIO(shown[2].encoded_image_string))
    np.testing.assert_array_equal(np.asarray(encoded), picture)


def test_resuming_drops_what_comes_again(tmp_path):
    with open_log(tmp_path, start_step=0) as log:
        for step in (10, 20, 30, 40):
            log.write(step, "train", {"loss": step / 10})
    path = tmp_path / LOG_FILE
    with path.open("a") as file:
        file.write('{"step": 50, "group": "tra')
    assert [line["step"] for line in read_log(path)] == [10, 20, 30, 40]
    with open_log(tmp_path, start_step=20) as log:
        assert [line["step"] for line in read_log(path)] == [10, 20]
        log.write(30, "train", {"loss": 9.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 10, "group": "train", "loss": 1.0},
        {"step": 20, "group": "train", "loss": 2.0},
        {"step": 30, "group": "train", "loss": 9.0},
    ]
    # The board is told to drop the same points: those of this step and later.
    starts = [event.step for event in board_events(tmp_path) if event.HasField("session_log")]
    assert starts[-1] == 21


def test_a_failed_run_leaves_whole_logs(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_log(tmp_path, start_step=0) as log:
        log.write(10, "train", {"loss": 1.0})
        raise KeyboardInterrupt
    assert len(read_log(tmp_path / LOG_FILE)) == 1
    assert board_points(tmp_path) == [("train/loss", 10, 1.0)]
    assert log.lines.closed


# tensorboardX leaves a file open that cannot be flushed, and so does the interpreter.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_told_and_does_not_wait_for_ever(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OutputError, match="log .* cannot be written .File too large.*room"):
            with open_log(tmp_path, start_step=0) as log:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
                for step in range(1000):
                    log.write(step, "train", {"loss": 1.0, "learning_rate": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    gc.collect()
    # Whole lines are read back, and the run goes on from them.
    steps = [line["step"] for line in read_log(tmp_path / LOG_FILE)]
    assert steps and steps == list(range(len(steps)))
