"""What a run tells about itself: JSON lines for programs, TensorBoard for people."""

import json
import math
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter

# Made at run time from its description.
# pyrefly: ignore[missing-module-attribute]
from tensorboardX.proto.event_pb2 import Event, SessionLog

from bisenet_jax.errors import OutputError
from bisenet_jax.files import write_bytes

LOG_FILE = "log.jsonl"
BOARD_FOLDER = "tensorboard"


@dataclass
class Log:
    """The two open logs of a run; one that cannot be written raises an OutputError."""

    lines: FileIO
    # Not a SummaryWriter: where its thread finds the disk full, the run waits for ever.
    board: EventsWriter | None

    def write(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """One line `{"step": ..., "group": ..., ...}` and one point per curve `group/name`.

        A value that is no number, such as the mIoU of an empty split, is null in the line and
        no point of the curve.
        """
        plain = {name: float(value) for name, value in values.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in plain.items()}
        data = (json.dumps({"step": step, "group": group, **finite}) + "\n").encode()
        points = [
            value
            for name, number in finite.items()
            if number is not None
            for value in summary.scalar(f"{group}/{name}", number).value
        ]
        with _writing(self.lines.name):
            # Without a buffer a full disk may take a part, and refuses the rest.
            while data:
                data = data[self.lines.write(data) :]
        self._show(step, points)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show `[H, W, 3] uint8` in TensorBoard."""
        if self.board is not None:
            self._show(step, summary.image(name, picture, dataformats="HWC").value)

    def sync(self) -> None:
        """Have all lines on the disk, to be there after a power cut if a later file is."""
        if self.board is not None:
            with _writing(self.lines.name):
                os.fsync(self.lines.fileno())

    def _show(self, step: int, values: list) -> None:
        if self.board is None:
            return
        event = Event(wall_time=time.time(), step=step)
        event.summary.value.extend(values)
        with _writing(BOARD_FOLDER):
            self.board.write_event(event)
            self.board.flush()


@contextmanager
def open_log(
    workdir: Path, start_step: int, *, is_kept: bool = True, lacks_scores: bool = False
) -> Generator[Log]:
    """The logs of a run, continued after `start_step`.

    Lines of later steps, written before the run was cut off, are dropped: they come again.
    So are the scores of that step, where its checkpoint lacks them. One that is not kept writes
    nothing, for all but the first of several processes.
    """
    path = workdir / LOG_FILE if is_kept else Path(os.devnull)
    if is_kept and path.exists():
        kept = [line for line in read_log(path) if line["step"] <= start_step]
        if lacks_scores:
            again = ("val", start_step)
            kept = [line for line in kept if (line["group"], line["step"]) != again]
        write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    with _writing(path):
        lines = path.open("ab", buffering=0)
    board = None
    with lines:
        try:
            board = _open_board(workdir, start_step) if is_kept else None
            yield Log(lines, board)
        finally:
            if board is not None:
                # All was flushed; what fails now has failed, and was told, before.
                with suppress(OSError):
                    board.close()


def read_log(path: Path) -> list[dict]:
    """The lines of a log; a last one that was cut off in writing is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def _open_board(workdir: Path, start_step: int) -> EventsWriter:
    with _writing(workdir / BOARD_FOLDER):
        (workdir / BOARD_FOLDER).mkdir(exist_ok=True)
        # The name alone would repeat within a second, and the file be written over.
        suffix = f".{time.time_ns()}"
        board = EventsWriter(str(workdir / BOARD_FOLDER / "events"), suffix)
        # TensorBoard then drops what an earlier start wrote of these steps.
        start = SessionLog(status=SessionLog.SessionStatus.START)
        board.write_event(Event(wall_time=time.time(), step=start_step + 1, session_log=start))
        board.flush()
    return board


@contextmanager
def _writing(what: object) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"the log {what} cannot be written ({error.strerror or error}): make room or give "
            "leave there; the same command then goes on from the last checkpoint"
        ) from error
