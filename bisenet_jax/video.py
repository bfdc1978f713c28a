"""Videos and cameras, frame by frame: read and written, never held whole."""

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bisenet_jax.data.decode import require_size
from bisenet_jax.errors import DataError
from bisenet_jax.media import VIDEO_SUFFIXES

DEFAULT_RATE = 25.0  # frames a second where a video or a camera names none

# How mp4 and mov begin, behind four bytes of length.
_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


@dataclass
class Video:
    """An open video or camera.

    Attributes:
        frames: `[H, W, 3] uint8` RGB, one after the other.
        rate: frames a second.
        announced: how many frames the file says it has; None of a camera.
        dropped: frames of a camera that were overtaken by the next one before they were
            taken. What the driver itself lost is not known.
    """

    frames: Iterator[np.ndarray]
    rate: float
    announced: int | None = None
    dropped: int = 0


@contextmanager
def open_video(source: Path | int) -> Generator[Video]:
    """The frames of a video file, or of the camera of that index.

    A file is read frame by frame. A camera is read all the time: who takes frames too slowly
    gets the newest one, and `Video.dropped` counts the others.

    Raises:
        DataError: when it cannot be opened, or OpenCV is missing.
    """
    cv2 = _import_opencv()
    if isinstance(source, Path):
        _require_video(source)
    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    try:
        if not capture.isOpened():
            raise DataError(
                f"camera {source} cannot be opened; check that it is there and that no other "
                "program has it"
                if isinstance(source, int)
                else f"{source}: cannot be read as a video; fetch it again or save it as mp4"
            )
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        require_size(str(source), *(int(capture.get(side)) for side in sides))
        rate = capture.get(cv2.CAP_PROP_FPS)
        video = Video(iter(()), rate if 0 < rate < 1000 else DEFAULT_RATE)
        if isinstance(source, int):
            with _newest_frames(capture, video):
                yield video
        else:
            announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            video.announced = announced if announced > 0 else None
            with _all_frames(capture, video):
                yield video
    finally:
        capture.release()


@contextmanager
def open_video_writer(path: Path, rate: float, height: int, width: int) -> Generator[Any]:
    """A function that appends a frame `[height, width, 3] uint8` RGB to an mp4 file.

    The codec wants even sides: an odd one grows by a repeated row or column.
    The file gets its name when the block ends without an error; until then it is hidden.

    Raises:
        DataError: when it cannot be written, or OpenCV is missing.
    """
    cv2 = _import_opencv()
    path.parent.mkdir(parents=True, exist_ok=True)
    # OpenCV chooses the container by the suffix.
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    size = (width + width % 2, height + height % 2)
    writer = cv2.VideoWriter(str(partial), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)

    def append(frame: np.ndarray) -> None:
        # OpenCV drops a frame of another size without a word.
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"frame must be [{height}, {width}, 3] uint8, not {list(frame.shape)} "
                f"{frame.dtype}"
            )
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        writer.write(np.ascontiguousarray(even[..., ::-1]))

    try:
        if not writer.isOpened():
            raise DataError(f"{path}: cannot be written as a video of {width}x{height}")
        yield append
        writer.release()
        os.replace(partial, path)
    finally:
        writer.release()
        partial.unlink(missing_ok=True)


def _import_opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise DataError(
            "videos and cameras need OpenCV: pip install 'bisenet_jax[video]' (or "
            "opencv-python-headless)"
        ) from error
    return cv2


def _require_video(path: Path) -> None:
    """Only containers go to the decoder: its playlists and image lists name other files."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if start[4:8] not in _ATOMS and start[:4] not in (b"RIFF", b"\x1aE\xdf\xa3"):
        raise DataError(
            f"{path}: cannot be read as a video, its content is no {', '.join(VIDEO_SUFFIXES)};"
            " fetch it again or save it as mp4"
        )


@contextmanager
def _all_frames(capture: Any, video: Video) -> Generator[None]:
    """Fill `video.frames`, which end with the block at the latest.

    Another thread may read ahead, and be at it then. A capture that is released in the midst of
    reading hangs, or worse: the block waits for that frame.
    """
    reading, is_over = threading.Lock(), False

    def take() -> Iterator[np.ndarray]:
        while True:
            with reading:
                if is_over:
                    return
                is_there, frame = capture.read()
            if not is_there:
                return
            yield np.ascontiguousarray(frame[..., ::-1])

    video.frames = take()
    try:
        yield
    finally:
        with reading:
            is_over = True


@contextmanager
def _newest_frames(capture: Any, video: Video) -> Generator[None]:
    """Fill `video.frames` from a thread that reads a camera as fast as it goes."""
    newest: list[np.ndarray] = []
    has_news, is_over = threading.Condition(), threading.Event()

    def read() -> None:
        while not is_over.is_set():
            is_there, frame = capture.read()
            with has_news:
                if not is_there:
                    is_over.set()
                elif newest:
                    video.dropped += 1
                newest[:] = [frame] if is_there else newest
                has_news.notify()

    def take() -> Iterator[np.ndarray]:
        while True:
            with has_news:
                has_news.wait_for(lambda: newest or is_over.is_set())
                if not newest:
                    return
                frame = newest.pop()
            yield np.ascontiguousarray(frame[..., ::-1])

    video.frames = take()
    reader = threading.Thread(target=read, name="camera", daemon=True)
    reader.start()
    try:
        yield
    finally:
        is_over.set()
        reader.join()
