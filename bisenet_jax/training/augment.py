"""Random scale, crop, flip and colour of a training batch, on the device, inside the step.

One map from output to source pixels serves image and label alike: the image reads four
neighbours of it, the label the pixel that it falls into. Only the crop is ever computed, in
float32 whatever the dtype of the network: bfloat16 cannot tell column 257 from 258.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bisenet_jax.config import AugmentConfig
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.normalization import Normalization

# Weights of red, green and blue in luma (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)
# How often a crop is drawn until no class fills too much of it, as in mmsegmentation.
_TRIES = 10
# The share of a class is counted on every eighth pixel of the crop, down and across.
_SHARE_STEP = 8


class Window(NamedTuple):
    """Where one axis of the crop lies: source = (output + offset + 0.5) / scale - 0.5.

    Beyond the `size` of the frame, `int32`, is nothing.
    """

    size: jax.Array
    scale: jax.Array
    offset: jax.Array
    is_flipped: jax.Array


def augment(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    sizes: jax.Array,
    config: AugmentConfig,
    normalization: Normalization,
) -> tuple[jax.Array, jax.Array]:
    """Draw one random view of every frame.

    With `config.shrink` s, one output pixel stands for s x s pixels of the crop: the image is
    their mean, the label that of the pixel which the centre falls into. With `config.enlarge` e
    the image has e x e pixels for each of the crop, the label one. Colours change last.

    Args:
        key: of this batch.
        images: `[B, H, W, 3] uint8`, each frame at the top left of its canvas.
        labels: `[B, H, W] uint8`.
        sizes: `[B, 2] int32`, height and width of each frame; the canvas beyond is never read.
        config: what may change, and the size of the crop.
        normalization: applied last.

    Returns:
        images `[B, crop_height * e / s, crop_width * e / s, 3] float32`, normalised, and labels
        `[B, crop_height / s, crop_width / s] uint8`. Outside the frame the image is the mean
        colour, the label ignored. A pixel across its border has the mean colour in proportion
        to what lies outside, and a label if its centre lies inside.
    """
    keys = jax.random.split(key, images.shape[0])
    view = partial(_augment_frame, config=config, normalization=normalization)
    return jax.vmap(view)(keys, images, labels, sizes)


def _augment_frame(
    key: jax.Array,
    image: jax.Array,
    label: jax.Array,
    size: jax.Array,
    *,
    config: AugmentConfig,
    normalization: Normalization,
) -> tuple[jax.Array, jax.Array]:
    *window_keys, colour_key = jax.random.split(key, 5)
    rows, columns = draw_windows(window_keys, label, size, config)
    crop = config.crop_height, config.crop_width
    image, label, inside = sample_view(
        image, label, rows, columns, crop, config.shrink, config.enlarge
    )
    image = normalization.normalize(_jitter(colour_key, image, config))
    # Zero is the mean colour: what inference pads with, too.
    inside = inside[..., None]
    return jnp.where(inside > 0, image * inside, 0.0), label


def draw_windows(
    keys: Sequence[jax.Array], label: jax.Array, size: jax.Array, config: AugmentConfig
) -> tuple[Window, Window]:
    """Rows and columns of a random crop; where one class fills too much of it, another place.

    Scale and flip are drawn once, places up to ten times; the last one counts, whatever is in
    it. All are drawn side by side, and the first that will do is taken: in a loop, frames and
    devices would wait for each other.

    Args:
        keys: four, for scale, row, column and flip.
        label: `[H, W] uint8`.
        size: `[2] int32`, height and width of the frame.
    """
    scale_key, row_key, column_key, flip_key = keys
    scale = _draw_scale(scale_key, config)
    is_flipped = jax.random.bernoulli(flip_key, config.flip_probability)

    def place(row_key: jax.Array, column_key: jax.Array) -> tuple[Window, Window]:
        upright = jnp.asarray(False)
        return (
            _draw_window(row_key, size[0], config.crop_height, scale, upright),
            _draw_window(column_key, size[1], config.crop_width, scale, is_flipped),
        )

    if config.class_share_limit >= 1:
        return place(row_key, column_key)
    places = jax.vmap(place)(
        jax.random.split(row_key, _TRIES), jax.random.split(column_key, _TRIES)
    )
    is_varied = jax.vmap(partial(_is_varied, label=label, config=config))(*places)
    chosen = is_varied.at[-1].set(True).argmax()
    return jax.tree.map(lambda values: values[chosen], places)


def _draw_scale(key: jax.Array, config: AugmentConfig) -> jax.Array:
    if config.scale_range is None:
        return jax.random.choice(key, jnp.asarray(config.scales, jnp.float32))
    low, high = config.scale_range
    return jax.random.uniform(key, minval=low, maxval=high)


def _draw_window(
    key: jax.Array, size: jax.Array, crop: int, scale: jax.Array, is_flipped: jax.Array
) -> Window:
    """A crop inside the scaled frame, or around it when the frame is the smaller one."""
    # Half a pixel rounds down: rounded up, the last pixel would fall outside the frame.
    slack = jnp.ceil(size * scale - 0.5) - crop
    offset = jnp.floor(jax.random.uniform(key) * (jnp.abs(slack) + 1)) * jnp.sign(slack)
    return Window(size, scale, offset, is_flipped)


def _is_varied(
    rows: Window, columns: Window, label: jax.Array, config: AugmentConfig
) -> jax.Array:
    """Whether anything is labelled in the crop, and no class beyond its share of that.

    Estimated on a grid of the crop's pixels, whatever the size of the frame.
    """
    crop = config.crop_height, config.crop_width
    classes = _read_label(label, rows, columns, crop, _SHARE_STEP)
    counts = jnp.bincount(classes.reshape(-1), length=256).at[IGNORE].set(0)
    total = counts.sum()
    return (total > 0) & (counts.max() <= total * config.class_share_limit)


def sample_view(
    image: jax.Array,
    label: jax.Array,
    rows: Window,
    columns: Window,
    crop: tuple[int, int],
    shrink: int = 1,
    enlarge: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Read a crop of a scaled, flipped frame: the image bilinear, the label nearest.

    Args:
        crop: height and width before shrinking and enlarging.
        shrink: h = height / shrink, w = width / shrink.
        enlarge: of the image alone.

    Returns:
        image `[h * enlarge, w * enlarge, 3] float32` from 0 to 255, which repeats the frame's
        border outside of it; label `[h, w] uint8`, ignored outside; and how much of each pixel
        of the image lies inside the frame, `float32` from 0 to 1.
    """
    row, column = (
        _source_positions(window, size, 1 / enlarge)
        for window, size in ((rows, crop[0]), (columns, crop[1]))
    )
    # A sum of strided reads: on a CPU, a mean over axes of the crop takes forty times as long.
    reads = (
        _read_image(image, row[i::shrink], column[j::shrink], rows.size, columns.size)
        for i, j in product(range(shrink), repeat=2)
    )
    pixels = sum(reads, jnp.float32(0)) / shrink**2
    inside_rows, inside_columns = (
        _nearest(position, window.size)[1].reshape(-1, shrink).mean(axis=1)
        for position, window in ((row, rows), (column, columns))
    )
    inside = inside_rows[:, None] * inside_columns[None, :]
    return pixels, _read_label(label, rows, columns, crop, shrink), inside


def _read_image(
    image: jax.Array, row: jax.Array, column: jax.Array, height: jax.Array, width: jax.Array
) -> jax.Array:
    top, bottom, down = _neighbours(row, height)
    left, right, across = _neighbours(column, width)

    def taps(row: jax.Array, column: jax.Array) -> jax.Array:
        return image[row[:, None], column[None, :]].astype(jnp.float32)

    down, across = down[:, None, None], across[None, :, None]
    upper = taps(top, left) * (1 - across) + taps(top, right) * across
    lower = taps(bottom, left) * (1 - across) + taps(bottom, right) * across
    return upper * (1 - down) + lower * down


def _read_label(
    label: jax.Array, rows: Window, columns: Window, crop: tuple[int, int], step: int
) -> jax.Array:
    """One label for each `step` x `step` pixels of the crop, at their centre."""
    row, row_is_inside = _nearest(_source_positions(rows, crop[0], step), rows.size)
    column, column_is_inside = _nearest(_source_positions(columns, crop[1], step), columns.size)
    is_inside = row_is_inside[:, None] & column_is_inside[None, :]
    classes = label[row[:, None], column[None, :]]
    return jnp.where(is_inside, classes, jnp.asarray(IGNORE, label.dtype))


def _source_positions(window: Window, crop: int, step: float) -> jax.Array:
    """Where the centre of every `step` pixels of the crop lies, `[crop / step] float32`."""
    output = jnp.arange(int(crop / step), dtype=jnp.float32) * step + (step - 1) / 2
    output = jnp.where(window.is_flipped, crop - 1 - output, output)
    return (output + window.offset + 0.5) / window.scale - 0.5


def _neighbours(position: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The two pixels around each position and the weight of the second."""
    first = jnp.floor(position)
    low = jnp.clip(first.astype(jnp.int32), 0, size - 1)
    high = jnp.clip(first.astype(jnp.int32) + 1, 0, size - 1)
    return low, high, position - first


def _nearest(position: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The pixel that each position falls into, and whether it lies inside the frame."""
    index = jnp.floor(position + 0.5).astype(jnp.int32)
    return jnp.clip(index, 0, size - 1), (index >= 0) & (index < size)


def _jitter(key: jax.Array, image: jax.Array, config: AugmentConfig) -> jax.Array:
    """Random brightness, then contrast around the mean grey, then saturation."""
    strengths = (config.brightness, config.contrast, config.saturation)
    if not any(strengths):
        return image
    brightness, contrast, saturation = (
        jax.random.uniform(part, minval=1 - strength, maxval=1 + strength)
        for part, strength in zip(jax.random.split(key, 3), strengths, strict=True)
    )
    image = jnp.clip(image * brightness, 0, 255)
    image = jnp.clip(_blend(image, _grey(image).mean(), contrast), 0, 255)
    return jnp.clip(_blend(image, _grey(image), saturation), 0, 255)


def _grey(image: jax.Array) -> jax.Array:
    return (image * jnp.asarray(_LUMA, jnp.float32).reshape(1, 1, 3)).sum(-1, keepdims=True)


def _blend(image: jax.Array, base: jax.Array, factor: jax.Array) -> jax.Array:
    return image * factor + base * (1 - factor)
