"""Pictures and videos through a segmenter: reading, computing and writing at the same time.

A thread reads ahead, JAX computes while the next batch is put together, threads draw and write
behind. All queues are short, so that memory does not grow with the work.
"""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bisenet_jax import media, pictures
from bisenet_jax.data.classes import ClassSet
from bisenet_jax.drawing import write_picture
from bisenet_jax.errors import DataError
from bisenet_jax.inference import scaled_size
from bisenet_jax.media import Input
from bisenet_jax.queues import read_ahead, write_behind
from bisenet_jax.segmenter import Segmenter
from bisenet_jax.video import Video, open_video, open_video_writer

READ_AHEAD = 4  # pictures or frames
PICTURE_WRITERS = 2  # threads; a video has one, its frames have an order
# Of the frames that a container announces, some of them by an estimate from its length.
LEAST_SHARE_OF_FRAMES = 0.9
RATE_WINDOW = 30  # frames that the running rate looks back


@dataclass(frozen=True)
class Options:
    """How to predict.

    Attributes:
        height, width: of the network's input; one of them alone keeps the picture's shape,
            none its size. Labels are brought back to the picture's size (nearest pixel).
        batch_size: pictures of one size that follow each other go together.
        max_frames: of each video or camera; None is all.
    """

    height: int | None = None
    width: int | None = None
    batch_size: int = 1
    max_frames: int | None = None


@dataclass
class Report:
    """What was done, as JSON values, and each input that failed with the reason."""

    pictures: list[dict[str, Any]] = field(default_factory=list)
    videos: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)

    def fail(self, item: Input, error: DataError) -> None:
        self.failures.append({"input": str(item), "error": str(error)})


@dataclass(frozen=True)
class Frame:
    """A picture `[H, W, 3]` as read, and as it goes to the segmenter."""

    item: Input
    image: np.ndarray
    network_image: np.ndarray


def output_paths(item: Input, output: Path) -> list[Path]:
    """The files that an input becomes: labels, colours, overlay; or overlay video and still."""
    kinds = ("labels.png", "colours.png", "overlay.png")
    if item.is_video:
        kinds = ("overlay.mp4", "overlay.png")
    return [output / f"{item.name}_{kind}" for kind in kinds]


def predict_pictures(
    segmenter: Segmenter,
    items: list[Input],
    output: Path,
    options: Options,
    report: Report,
    progress: Callable[[bool], Any] = lambda is_done: None,
) -> None:
    """Write three pictures per image into `output`; unreadable ones are reported and left.

    Args:
        progress: called once for each input, with whether it succeeded.
    """

    def read() -> Iterator[Frame]:
        for item in items:
            try:
                image = media.read_picture(str(item.source))
                yield Frame(item, image, _resize(image, options, segmenter.input_scale))
            except DataError as error:
                report.fail(item, error)
                progress(False)

    def write(frame: Frame, labels: np.ndarray) -> None:
        class_set = segmenter.class_set
        paths = output_paths(frame.item, output)
        media.write_label_map(paths[0], labels)
        write_picture(paths[1], pictures.colour_mask(labels, class_set))
        overlay = segmenter.overlay(frame.image, labels)
        counts = _count(labels, class_set)
        overlay = pictures.with_legend(overlay, class_set, np.flatnonzero(counts))
        write_picture(paths[2], overlay)
        report.pictures.append(_describe(frame, counts, paths, segmenter))
        progress(True)

    with (
        closing(read_ahead(read(), READ_AHEAD)) as frames,
        write_behind(PICTURE_WRITERS) as start,
    ):
        for frame, labels in label_frames(segmenter, frames, options.batch_size):
            start(write, frame, labels)
    # In the order of the inputs, whichever thread was first.
    place = {str(item): index for index, item in enumerate(items)}
    report.pictures.sort(key=lambda entry: place[entry["input"]])


def predict_video(
    segmenter: Segmenter,
    item: Input,
    output: Path,
    options: Options,
    report: Report,
    progress: Callable[[bool], Any] = lambda is_done: None,
) -> None:
    """Write the overlay video of a video or camera, each frame with the running rate in it.

    Beside it goes a still of the last frame, with a legend of all classes that were seen.
    The rate is that of reading, network, drawing and encoding together, over the last frames;
    the program is compiled before, and frames of a camera count as dropped from then on.
    Interrupting a camera ends it like the end of a video.

    Args:
        progress: called with True once for each frame.
    """
    try:
        with open_video(item.source) as video:
            _predict_open_video(segmenter, item, video, output, options, report, progress)
    except DataError as error:
        report.fail(item, error)


def _predict_open_video(
    segmenter: Segmenter,
    item: Input,
    video: Video,
    output: Path,
    options: Options,
    report: Report,
    progress: Callable[[bool], Any],
) -> None:
    class_set, paths = segmenter.class_set, output_paths(item, output)
    counts = np.zeros(len(class_set), np.int64)
    frames = (
        Frame(item, image, _resize(image, options, segmenter.input_scale))
        for image in itertools.islice(video.frames, options.max_frames)
    )
    first = next(frames, None)
    if first is None:
        raise DataError(f"{item}: holds no frame that can be read; record or fetch it again")
    frames = itertools.chain([first], frames)
    # A camera has its own thread, and frames that wait would be old ones.
    ahead = nullcontext(frames) if item.is_camera else closing(read_ahead(frames, READ_AHEAD))
    height, width = first.image.shape[:2]
    # Before the clock starts; what a camera has shown until then was never meant to be kept.
    asked = time.monotonic()
    seen_height, seen_width = first.network_image.shape[:2]
    segmenter.compile(seen_height, seen_width, options.batch_size)
    compile_seconds = time.monotonic() - asked
    video.dropped = 0
    began, moments = time.monotonic(), deque[float](maxlen=RATE_WINDOW)
    made, last = 0, None

    with (
        ahead as frames,
        open_video_writer(paths[0], video.rate, height, width) as append,
    ):

        def write(frame: Frame, labels: np.ndarray) -> None:
            nonlocal made, last
            counts[:] += _count(labels, class_set)
            moments.append(time.monotonic())
            last = segmenter.overlay(frame.image, labels)
            append(pictures.with_caption(last, _rate(moments)))
            made += 1
            progress(True)

        with write_behind(1) as start:
            try:
                for frame, labels in label_frames(segmenter, frames, options.batch_size):
                    start(write, frame, labels)
            except KeyboardInterrupt:
                if not item.is_camera:
                    raise
        if last is None:
            raise DataError(f"{item}: ended before its first frame was done; start it again")
    still = pictures.with_legend(last, class_set, np.flatnonzero(counts))
    write_picture(paths[1], still)
    seconds = time.monotonic() - began
    report.videos.append(
        _describe(first, counts, paths, segmenter)
        | {
            "frames": made,
            "announced_frames": video.announced,
            "dropped_frames": video.dropped,
            "file_frames_per_second": video.rate,
            "compile_seconds": compile_seconds,
            "seconds": seconds,
            "frames_per_second": made / seconds,
        }
    )
    expected = min(video.announced or 0, options.max_frames or math.inf)
    if made < LEAST_SHARE_OF_FRAMES * expected:
        raise DataError(
            f"{item}: ended after {made} of the {expected:g} frames that it announces, so it "
            f"was cut off or is damaged; {paths[0]} holds those; fetch or record it again"
        )


def label_frames(
    segmenter: Segmenter, frames: Iterable[Frame], batch_size: int = 1
) -> Iterator[tuple[Frame, np.ndarray]]:
    """Each frame with its labels at the frame's own size, in order.

    A batch is at work on the device while the one before is handed out.
    """
    under_way: list[tuple[list[Frame], Any]] = []
    for batch in _batches(frames, batch_size):
        # A rest is filled up: another number of pictures would be another program to compile.
        full = batch + batch[-1:] * (batch_size - len(batch))
        images = np.stack([frame.network_image for frame in full])
        under_way.append((batch, segmenter.start(images)))
        if len(under_way) > 1:
            yield from _collect(*under_way.pop(0))
    for batch, labels in under_way:
        yield from _collect(batch, labels)


def _batches(frames: Iterable[Frame], batch_size: int) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    for frame in frames:
        if batch and frame.network_image.shape != batch[0].network_image.shape:
            yield batch
            batch = []
        batch.append(frame)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _collect(batch: list[Frame], labels: Any) -> Iterator[tuple[Frame, np.ndarray]]:
    for frame, predicted in zip(batch, np.asarray(labels), strict=False):
        height, width = frame.image.shape[:2]
        if predicted.shape != (height, width):
            resized = Image.fromarray(predicted).resize(
                (width, height), Image.Resampling.NEAREST
            )
            predicted = np.asarray(resized)
        yield frame, predicted


def _resize(image: np.ndarray, options: Options, input_scale: float) -> np.ndarray:
    """The picture at the size by which the network, which scales it, sees what was asked."""
    height, width = image.shape[:2]
    if options.height is None and options.width is None:
        return image
    asked_height, asked_width = (
        size and max(1, round(size / input_scale)) for size in (options.height, options.width)
    )
    to_height = asked_height or max(1, round(height * (asked_width or width) / width))
    to_width = asked_width or max(1, round(width * to_height / height))
    resized = Image.fromarray(image).resize((to_width, to_height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def _count(labels: np.ndarray, class_set: ClassSet) -> np.ndarray:
    return np.bincount(labels.ravel(), minlength=len(class_set))


def _describe(
    frame: Frame, counts: np.ndarray, paths: list[Path], segmenter: Segmenter
) -> dict[str, Any]:
    shares, names = counts / counts.sum(), segmenter.class_set.names
    given_height, given_width = frame.network_image.shape[:2]
    height, width = scaled_size(given_height, given_width, segmenter.input_scale)
    return {
        "input": str(frame.item),
        "height": frame.image.shape[0],
        "width": frame.image.shape[1],
        "network_height": height,
        "network_width": width,
        "class_shares": {names[i]: float(shares[i]) for i in np.flatnonzero(counts)},
        "outputs": [str(path) for path in paths],
    }


def _rate(moments: deque[float]) -> str:
    if len(moments) < 2:
        return "- frames/s"
    return f"{(len(moments) - 1) / (moments[-1] - moments[0]):.1f} frames/s"
