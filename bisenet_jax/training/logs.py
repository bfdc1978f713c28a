"""What a run tells about itself: JSON lines for programs, TensorBoard for people."""

import json
import math
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from tensorboardX import SummaryWriter

from bisenet_jax.files import write_bytes

LOG_FILE = "log.jsonl"
BOARD_FOLDER = "tensorboard"


@dataclass
class Log:
    """The two open logs of a run."""

    lines: IO[str]
    board: SummaryWriter

    def write(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """One line `{"step": ..., "group": ..., ...}` and one point per curve `group/name`.

        A value that is no number, such as the mIoU of an empty split, is null in the line and
        no point of the curve.
        """
        plain = {name: float(value) for name, value in values.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in plain.items()}
        self.lines.write(json.dumps({"step": step, "group": group, **finite}) + "\n")
        self.lines.flush()
        for name, value in finite.items():
            if value is not None:
                self.board.add_scalar(f"{group}/{name}", value, step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show `[H, W, 3] uint8` in TensorBoard."""
        self.board.add_image(name, picture, step, dataformats="HWC")


@contextmanager
def open_log(workdir: Path, start_step: int, *, is_kept: bool = True) -> Generator[Log]:
    """The logs of a run, continued after `start_step`.

    Lines of later steps, written before the run was cut off, are dropped: they come again.
    One that is not kept writes nothing, for all but the first of several processes.
    """
    path = workdir / LOG_FILE if is_kept else Path(os.devnull)
    if is_kept and path.exists():
        kept = [line for line in read_log(path) if line["step"] <= start_step]
        write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    board = SummaryWriter(
        str(workdir / BOARD_FOLDER), purge_step=start_step + 1, write_to_disk=is_kept
    )
    with path.open("a", encoding="utf-8") as lines:
        try:
            yield Log(lines, board)
        finally:
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
