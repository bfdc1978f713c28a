"""What the pixels of a split add up to: classes, colours, and a file that keeps the counts."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from bisenet_jax.data.classes import IGNORE, ClassSet
from bisenet_jax.data.example import Example
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import read_json, write_bytes

FORM = "bisenet_jax statistics 1"

_LEVELS = np.arange(256)


class FrameCounts(NamedTuple):
    """What one example holds; all counts are exact.

    Attributes:
        label_pixels: from each id that occurs, `IGNORE` too, to its number of pixels.
        channel_sums: of red, green and blue, in levels from 0 to 255.
        channel_squares: of the same, squared.
        image_digest: equal for pictures of equal pixels, whatever their files.
        label_digest: likewise.
    """

    name: str
    height: int
    width: int
    label_pixels: dict[int, int]
    channel_sums: tuple[int, ...]
    channel_squares: tuple[int, ...]
    image_digest: bytes
    label_digest: bytes


class Totals(NamedTuple):
    """A split in numbers; arrays have one entry per class, or one per colour channel.

    Attributes:
        mean: `[3] float64` in units of full brightness; nan without any pixel.
        std: likewise, of all pixels as a population.
    """

    images: int
    pixels: int
    ignored: int
    class_pixels: np.ndarray
    class_images: np.ndarray
    mean: np.ndarray
    std: np.ndarray


class Statistics(NamedTuple):
    """What `write` kept of a split; `label_pixels[i]` is that of the frame `names[i]`."""

    path: Path
    class_set: str
    class_names: tuple[str, ...]
    names: list[str]
    label_pixels: list[dict[int, int]]


def count(example: Example) -> FrameCounts:
    """Count one example."""
    image, label = map(np.ascontiguousarray, (example["image"], example["label"]))
    # Pillow counts levels several times as fast as numpy.
    levels = np.array(Image.fromarray(image).histogram()).reshape(3, 256)
    return FrameCounts(
        name=example["name"],
        height=label.shape[0],
        width=label.shape[1],
        label_pixels=count_labels(label),
        channel_sums=tuple((levels @ _LEVELS).tolist()),
        channel_squares=tuple((levels @ _LEVELS**2).tolist()),
        image_digest=_digest(image),
        label_digest=_digest(label),
    )


def count_labels(label: np.ndarray) -> dict[int, int]:
    """How many pixels of a label map `[H, W] uint8` carry each id that occurs in it."""
    counts = Image.fromarray(np.ascontiguousarray(label)).histogram()
    return {label_id: pixels for label_id, pixels in enumerate(counts) if pixels}


def add_up(frames: Sequence[FrameCounts], class_set: ClassSet) -> Totals:
    """The sums over all frames, in whole numbers up to the last division."""
    pixels, images = np.zeros((2, 256), np.int64)
    sums, squares = [0, 0, 0], [0, 0, 0]
    for frame in frames:
        for label_id, found in frame.label_pixels.items():
            pixels[label_id] += found
            images[label_id] += 1
        for channel in range(3):
            sums[channel] += frame.channel_sums[channel]
            squares[channel] += frame.channel_squares[channel]
    total, classes = int(pixels.sum()), len(class_set)
    mean, std = [math.nan] * 3, [math.nan] * 3
    if total:
        mean = [each / total / 255 for each in sums]
        # Python's integers know no overflow and no cancellation.
        variances = zip(sums, squares, strict=True)
        std = [math.sqrt(total * square - each**2) / total / 255 for each, square in variances]
    return Totals(
        images=len(frames),
        pixels=total,
        ignored=int(pixels[IGNORE]),
        class_pixels=pixels[:classes],
        class_images=images[:classes],
        mean=np.array(mean),
        std=np.array(std),
    )


def suggest_class_weights(class_pixels: np.ndarray) -> np.ndarray:
    """Weights of mean 1 for `config.loss.class_weights`, `[C] float64`.

    1 / ln(1.02 + share of the labelled pixels), the rule of ENet (Paszke et al. 2016, section
    5.2): no weight exceeds 36 times another, however rare a class, so that nothing has to be
    clipped. A class that never occurs weighs 1, since nothing is known of it.
    """
    occurs = class_pixels > 0
    weights = np.ones(len(class_pixels))
    if occurs.any():
        raw = 1 / np.log(1.02 + class_pixels[occurs] / class_pixels.sum())
        weights[occurs] = raw / raw.mean()
    return weights


def write(
    path: str | Path, frames: Sequence[FrameCounts], class_set: ClassSet, split: str
) -> None:
    """Keep the counts of each frame and of all as JSON, whole or not at all."""
    totals = add_up(frames, class_set)
    content = {
        "form": FORM,
        "class_set": class_set.name,
        "class_names": class_set.names,
        "split": split,
        "images": totals.images,
        "pixels": totals.pixels,
        "ignored_pixels": totals.ignored,
        "class_pixels": totals.class_pixels.tolist(),
        "class_images": totals.class_images.tolist(),
        "mean": totals.mean.tolist(),
        "std": totals.std.tolist(),
        "frames": [
            [frame.name, list(frame.label_pixels), list(frame.label_pixels.values())]
            for frame in frames
        ],
    }
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    write_bytes(path, text.encode())


def read(path: str | Path) -> Statistics:
    """Read what `write` wrote; anything else is a ConfigError."""
    path = Path(path).expanduser()
    cure = "write it by python -m bisenet_jax.data.check --config ... --statistics FILE"
    content = read_json(path, f"config.data.statistics names it: {cure}", ConfigError)
    if not isinstance(content, dict) or content.get("form") != FORM:
        raise ConfigError(f"config.data.statistics {path} is not of the form {FORM!r}; {cure}")
    try:
        frames = [(str(name), _label_pixels(*counts)) for name, *counts in content["frames"]]
        return Statistics(
            path=path,
            class_set=str(content["class_set"]),
            class_names=tuple(map(str, content["class_names"])),
            names=[name for name, _ in frames],
            label_pixels=[label_pixels for _, label_pixels in frames],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"config.data.statistics {path} was changed after it was written ({error!r}); "
            f"{cure}"
        ) from error


def _label_pixels(ids: Sequence[int], pixels: Sequence[int]) -> dict[int, int]:
    found = dict(zip(ids, pixels, strict=True))
    if not all(
        type(label_id) is type(count) is int and 0 <= label_id <= IGNORE and 0 < count < 2**53
        for label_id, count in found.items()
    ):
        raise ValueError(f"{found} are no pixels by label id")
    return found


def _digest(pixels: np.ndarray) -> bytes:
    shape = np.array(pixels.shape, np.int64)
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, salt=shape.tobytes()[:16]).digest()
