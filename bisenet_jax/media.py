"""Pictures, videos and cameras as users have them: read and written, never too large to hold.

Unlike `data.decode`, which refuses what could part a picture from its labels, this reads
whatever has one plain meaning: a photo is turned as its EXIF tag says.
"""

import glob
import io
import os
import re
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from bisenet_jax.data.decode import MAX_PIXELS, require_size
from bisenet_jax.errors import DataError, PictureFormatError, PictureSizeError
from bisenet_jax.files import write_bytes

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
WHITE = (255, 255, 255)
DEFAULT_RATE = 25.0  # frames a second where a video or a camera names none

# How mp4 and mov begin, behind four bytes of length.
_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


@dataclass(frozen=True)
class Input:
    """One thing to read: an image or video file, or the camera of an index.

    `name` is unlike that of all other inputs, whatever their folders.
    """

    name: str
    source: Path | int

    @property
    def is_camera(self) -> bool:
        return isinstance(self.source, int)

    @property
    def is_video(self) -> bool:
        """Whether frames come out of it, as of a camera too."""
        return isinstance(self.source, int) or self.source.suffix.lower() in VIDEO_SUFFIXES

    def __str__(self) -> str:
        return f"camera {self.source}" if self.is_camera else str(self.source)


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


def find_inputs(words: Sequence[str]) -> list[Input]:
    """What the words mean: files, folders (their own images), globs, camera indices.

    Raises:
        DataError: for a word that means nothing, before anything is read.
    """
    found: list[tuple[str, Path | int]] = []
    for word in words:
        if word.isdecimal() and not Path(word).exists():
            found.append((f"camera{int(word)}", int(word)))
        else:
            found.extend((path.stem, path) for path in _find_files(word))
    inputs, taken = [], set()
    for stem, source in found:
        name, number = stem, 1
        # Compared in lower case, for file systems that do so.
        while name.lower() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        inputs.append(Input(name, source))
    return inputs


def read_picture(
    path: str | os.PathLike[str], *, background: tuple[int, int, int] = WHITE
) -> np.ndarray:
    """A JPEG, PNG, WebP, BMP or TIFF file as `[H, W, 3] uint8` RGB, upright.

    Grey, palette and CMYK pictures become RGB, transparent pixels show the background, 16-bit
    values are scaled from 0..65535 to 0..255, an EXIF orientation is applied.

    Raises:
        DataError: for a file that cannot be read, is larger than `MAX_PIXELS`, holds several
            pictures, or pixels whose range no one can know (32-bit).
    """
    return _read_picture(path, str(path), background)


def decode_picture(
    content: bytes, name: str, *, background: tuple[int, int, int] = WHITE
) -> np.ndarray:
    """Like `read_picture` for the content of a file; `name` is what errors call it."""
    return _read_picture(io.BytesIO(content), name, background)


def write_label_map(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """Write class ids `[H, W] uint8` as an 8-bit grey PNG, whole or not at all."""
    encoded = io.BytesIO()
    Image.fromarray(labels, mode="L").save(encoded, format="PNG")
    write_bytes(path, encoded.getvalue())


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


def _find_files(word: str) -> list[Path]:
    path = Path(word)
    if path.is_dir():
        files = [
            file
            for file in path.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        ]
        if not files:
            raise DataError(f"{word}: no image in this folder; known are {IMAGE_SUFFIXES}")
        return sorted(files, key=_natural)
    if path.is_file():
        return [path]
    matches = [Path(match) for match in glob.glob(word, recursive=True)]
    files = sorted((match for match in matches if match.is_file()), key=_natural)
    if not files:
        raise DataError(
            f"input {word!r} is no file, folder, glob or camera index; check the path"
        )
    return files


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _read_picture(
    source: str | os.PathLike[str] | BinaryIO, name: str, background: tuple[int, int, int]
) -> np.ndarray:
    try:
        with Image.open(source, formats=_FORMATS) as image:
            require_size(name, *image.size)
            # A second picture in a JPEG is a preview; in the others it is a picture.
            pictures = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
            if pictures > 1:
                raise DataError(f"{name}: holds {pictures} pictures; save each as its own file")
            image.load()
            return _to_rgb(name, ImageOps.exif_transpose(image), background)
    except Image.UnidentifiedImageError as error:
        raise PictureFormatError(
            f"{name}: content is no readable picture; save it as one of {', '.join(_FORMATS)}"
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"{name}: does not exist; check the path") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureSizeError(
            f"{name}: has more than {MAX_PIXELS:,} pixels; make it smaller"
        ) from error
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - damaged files raise a dozen classes
        raise DataError(
            f"{name}: cannot be read ({error}); fetch or export it again"
        ) from error


def _to_rgb(name: str, image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise DataError(
            f"{name}: pixels are 32-bit, nobody says from where to where; save the picture "
            "with 8 or 16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(below, image)
    return np.array(image.convert("RGB"))


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
