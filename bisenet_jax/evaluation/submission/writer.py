"""Predictions as files: one PNG per image, and all of them in the zip that a server takes.

FOLDER/CITY_SEQUENCE_FRAME_labelIds.png    of Cityscapes, whose server wants label ids
FOLDER/NAME.png                            of other class sets, whose class ids are kept
FOLDER/submission.zip                      the same PNGs, at its top

cityscapesScripts looks for `CITY_SEQUENCE_FRAME*.png`, exactly one per frame, so that FOLDER
serves as its CITYSCAPES_RESULTS too. FOLDER appears when it is whole.
"""

import io
import os
import shutil
import zipfile
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from bisenet_jax.data.cityscapes.labels import LABEL_ID_OF
from bisenet_jax.data.classes import CITYSCAPES, ClassSet
from bisenet_jax.errors import DataError

ZIP_NAME = "submission.zip"

# Of an extracted file: zipfile's own default for a ZipInfo is that nobody may read it.
_READABLE = 0o644 << 16


class Submission:
    """Label maps on their way to disk, encoded by threads while the device goes on."""

    def __init__(self, folder: Path, class_set: ClassSet, threads: int) -> None:
        is_cityscapes = class_set == CITYSCAPES
        self.folder = folder
        self.class_set = class_set
        self.ending = "_labelIds.png" if is_cityscapes else ".png"
        self.files: set[str] = set()
        self._stored = LABEL_ID_OF if is_cityscapes else np.arange(256, dtype=np.uint8)
        self._pool = ThreadPoolExecutor(threads, "submission")
        self._waiting: deque[Future[None]] = deque()
        self._most_waiting = 2 * threads

    def add(self, name: str, labels: np.ndarray) -> None:
        """Write one label map; waits only while too many others are still being written.

        Args:
            name: of the image, such as `berlin_000000_000019`.
            labels: `[H, W] uint8` class ids (Cityscapes: train ids) at the size of the image,
                not to be changed afterwards.

        Raises:
            DataError: the name is no file name or was added before, or a file, perhaps an
                earlier one, cannot be written.
            ValueError: the labels are not such an array, or hold no class ids.
        """
        file_name = name + self.ending
        if Path(file_name).name != file_name or "\\" in name:
            raise DataError(f"image name {name!r} must be a plain file name; rename the image")
        if file_name in self.files:
            raise DataError(
                f"image {name} was added before; names must be unique, as a server takes one "
                "label map per image: rename one of the two images"
            )
        if labels.ndim != 2 or labels.dtype != np.uint8 or not labels.size:
            raise ValueError(f"labels are {labels.dtype} {labels.shape}, must be uint8 [H, W]")
        if labels.max() >= len(self.class_set):
            raise ValueError(
                f"labels of {name} go up to {labels.max()}, must be below {len(self.class_set)}"
            )
        self.files.add(file_name)
        while len(self._waiting) >= self._most_waiting:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._write, file_name, labels))

    def finish(self) -> None:
        """Wait for all files and put them into the zip."""
        while self._waiting:
            self._waiting.popleft().result()
        # Stored: PNGs do not shrink. One date for all: equal predictions give equal bytes.
        path = self.folder / ZIP_NAME
        with _writing(path), zipfile.ZipFile(path, "w") as file:
            for name in sorted(self.files):
                info = zipfile.ZipInfo(name)
                info.external_attr = _READABLE
                file.writestr(info, (self.folder / name).read_bytes())

    def close(self) -> None:
        """End the threads; what has not begun is not written."""
        self._pool.shutdown(cancel_futures=True)

    def _write(self, file_name: str, labels: np.ndarray) -> None:
        data = io.BytesIO()
        Image.fromarray(self._stored[labels]).save(data, "PNG")
        with _writing(self.folder / file_name):
            (self.folder / file_name).write_bytes(data.getvalue())


@contextmanager
def open_submission(
    folder: str | Path, class_set: ClassSet, *, threads: int = 2
) -> Generator[Submission, None, None]:
    """A folder of predictions, which appears with its zip when the block ends without error.

    Args:
        folder: new or empty, so that it never holds the answers of two networks.
        class_set: of the labels; Cityscapes' train ids are written as label ids.
        threads: that encode PNGs.

    Raises:
        DataError: the folder holds something or cannot be written, or nothing was added.
    """
    folder = Path(folder).expanduser().absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(
            f"{folder}: exists and is no empty folder; remove it, or choose another, so that "
            "the answers of two networks are not mixed"
        )
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with _writing(folder):
        partial.mkdir(parents=True)
    submission = Submission(partial, class_set, threads)
    try:
        yield submission
        if not submission.files:
            raise DataError(f"{folder}: no image was added; give a split that holds some")
        submission.finish()
        with _writing(folder):
            if folder.exists():
                folder.rmdir()  # even an empty folder is in the way on some systems
            os.rename(partial, folder)
    finally:
        submission.close()
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _writing(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); check disk space and "
            "permissions, or choose another folder for the submission"
        ) from error
