"""What augmentation must give, by float64 loops over pixels."""

import math
from dataclasses import astuple, replace
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np

from bisenet_jax.config import AugmentConfig
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.normalization import Normalization
from bisenet_jax.training.augment import augment, draw_windows

# Leaves pixels as they are, so that tests can read them.
PLAIN = Normalization(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
STILL = AugmentConfig(crop_height=32, crop_width=32, scales=(1.0,), flip_probability=0.0)
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def random_frames(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`[*shape, 3]` pixels and `[*shape]` labels, none of them ignored."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    return images, random.integers(0, 19, shape, dtype=np.uint8)


@cache
def compiled_augment(fields: tuple, normalization: Normalization):
    return jax.jit(partial(augment, config=AugmentConfig(*fields), normalization=normalization))


def whole(images: np.ndarray) -> np.ndarray:
    """The sizes of frames that fill their canvas."""
    return np.tile(np.int32(images.shape[1:3]), (len(images), 1))


def views(images, labels, config, *, sizes=None, seed=0, normalization=PLAIN):
    run = compiled_augment(astuple(config), normalization)
    sizes = whole(images) if sizes is None else sizes
    return tuple(map(np.asarray, run(jax.random.key(seed), images, labels, sizes)))


class View(NamedTuple):
    """What is drawn for one frame; of each pair, the first is for rows."""

    scale: float
    offsets: tuple[float, float]
    flips: tuple[bool, bool]
    crop: tuple[int, int]

    def source(self, row: float, column: float) -> tuple[float, ...]:
        """A place in the crop: undo the flip, the crop and the scale."""
        place = []
        for output, size, offset, flip in zip(
            (row, column), self.crop, self.offsets, self.flips, strict=True
        ):
            output = size - 1 - output if flip else output
            place.append((output + offset + 0.5) / self.scale - 0.5)
        return tuple(place)


def labels_by_loop(label: np.ndarray, view: View, step: int) -> np.ndarray:
    """The pixel that the centre of every `step` x `step` pixels of the crop falls into."""
    classes = np.full([size // step for size in view.crop], IGNORE)
    for row, column in np.ndindex(*classes.shape):
        centre = (row * step + (step - 1) / 2, column * step + (step - 1) / 2)
        i, j = (math.floor(place + 0.5) for place in view.source(*centre))
        if 0 <= i < label.shape[0] and 0 <= j < label.shape[1]:
            classes[row, column] = label[i, j]
    return classes


def pixels_by_loop(
    image: np.ndarray, view: View, shrink: int, enlarge: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of `shrink` x `shrink` bilinear reads each, and how many of them lie inside."""
    height, width = image.shape[:2]
    shape = [size * enlarge // shrink for size in view.crop]
    pixels, inside = np.zeros((*shape, 3)), np.zeros(shape)
    for row, column, i, j in np.ndindex(*shape, shrink, shrink):
        place = (row * shrink + i, column * shrink + j)
        y, x = view.source(*((centre + 0.5) / enlarge - 0.5 for centre in place))
        for down, across in np.ndindex(2, 2):
            i, j = math.floor(y) + down, math.floor(x) + across
            weight = (1 - abs(y - i)) * (1 - abs(x - j)) / shrink**2
            i, j = np.clip(i, 0, height - 1), np.clip(j, 0, width - 1)
            pixels[row, column] += weight * image[i, j].astype(float)
        is_inside = -0.5 <= y < height - 0.5 and -0.5 <= x < width - 0.5
        inside[row, column] += is_inside / shrink**2
    return pixels, inside


def on_canvas(frame: np.ndarray, height: int, width: int, seed: int) -> np.ndarray:
    """A frame at the top left of random filler."""
    canvas = np.random.default_rng(seed).integers(0, 256, (height, width, *frame.shape[2:]))
    canvas[: frame.shape[0], : frame.shape[1]] = frame
    return canvas.astype(np.uint8)


def drawn_view(keys, label: np.ndarray, config: AugmentConfig) -> View:
    """Of the places drawn one after the other, the first in which no class is too large."""
    scale_key, row_key, column_key, flip_key = keys
    crop = config.crop_height, config.crop_width
    free = replace(config, class_share_limit=1.0)
    for row, column in zip(
        jax.random.split(row_key, 10), jax.random.split(column_key, 10), strict=True
    ):
        keys = scale_key, row, column, flip_key
        rows, columns = draw_windows(keys, label, np.int32(label.shape), free)
        offsets = float(rows.offset), float(columns.offset)
        flips = bool(rows.is_flipped), bool(columns.is_flipped)
        view = View(float(rows.scale), offsets, flips, crop)
        counted = labels_by_loop(label, view, 8)
        counted = counted[counted != IGNORE]
        largest = np.bincount(counted).max() if counted.size else math.inf
        if largest <= config.class_share_limit * counted.size:
            break
    return view


def rulers(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames whose red is the row and whose green is the column: a view tells its window."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(height)[:, None], np.arange(width)[None, :]
    images = np.broadcast_to(image, (count, height, width, 3))
    return images, np.zeros((count, height, width), np.uint8)


def jitter_by_hand(images, brightness, contrast, saturation):
    images = np.clip(images * brightness, 0, 255)
    mean = grey_of(images).mean((1, 2, 3), keepdims=True)
    images = np.clip((images - mean) * contrast + mean, 0, 255)
    grey = grey_of(images)
    return np.clip((images - grey) * saturation + grey, 0, 255)


def grey_of(images: np.ndarray) -> np.ndarray:
    return (images @ [0.299, 0.587, 0.114])[..., None]
