"""Random scale, crop, flip and colour of a training batch, on the device, inside the step.

One map from output to source pixels serves image and label alike: the image reads four
neighbours of it, the label the pixel that it falls into. Only the crop is ever computed.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bisenet_jax.config import AugmentConfig
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.normalization import Normalization

# Weights of red, green and blue in luma (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)


class Window(NamedTuple):
    """Where one axis of the crop lies: source = (output + offset + 0.5) / scale - 0.5."""

    scale: jax.Array
    offset: jax.Array
    is_flipped: jax.Array


def augment(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    config: AugmentConfig,
    normalization: Normalization,
) -> tuple[jax.Array, jax.Array]:
    """Draw one random view of every frame.

    Args:
        key: of this batch.
        images: `[B, H, W, 3] uint8`.
        labels: `[B, H, W] uint8`.
        config: what may change, and the size of the crop.
        normalization: applied last.

    Returns:
        images `[B, crop_height, crop_width, 3] float32`, normalised, and labels
        `[B, crop_height, crop_width] uint8`. Outside the frame the image is the mean colour,
        the label ignored.
    """
    keys = jax.random.split(key, images.shape[0])
    view = partial(_augment_frame, config=config, normalization=normalization)
    return jax.vmap(view)(keys, images, labels)


def _augment_frame(
    key: jax.Array,
    image: jax.Array,
    label: jax.Array,
    *,
    config: AugmentConfig,
    normalization: Normalization,
) -> tuple[jax.Array, jax.Array]:
    scale_key, row_key, column_key, flip_key, colour_key = jax.random.split(key, 5)
    scale = jax.random.choice(scale_key, jnp.asarray(config.scales, jnp.float32))
    is_flipped = jax.random.bernoulli(flip_key, config.flip_probability)
    height, width = label.shape
    rows = _draw_window(row_key, height, config.crop_height, scale, jnp.asarray(False))
    columns = _draw_window(column_key, width, config.crop_width, scale, is_flipped)
    image, label, is_inside = sample_view(
        image, label, rows, columns, (config.crop_height, config.crop_width)
    )
    image = normalization.normalize(_jitter(colour_key, image, config))
    # Zero is the mean colour: what inference pads with, too.
    return jnp.where(is_inside[..., None], image, 0.0), label


def _draw_window(
    key: jax.Array, size: int, crop: int, scale: jax.Array, is_flipped: jax.Array
) -> Window:
    """A crop inside the scaled frame, or around it when the frame is the smaller one."""
    # Half a pixel rounds down: rounded up, the last pixel would fall outside the frame.
    slack = jnp.ceil(size * scale - 0.5) - crop
    offset = jnp.floor(jax.random.uniform(key) * (jnp.abs(slack) + 1)) * jnp.sign(slack)
    return Window(scale, offset, is_flipped)


def sample_view(
    image: jax.Array, label: jax.Array, rows: Window, columns: Window, crop: tuple[int, int]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Read a crop of a scaled, flipped frame: the image bilinear, the label nearest.

    Returns:
        image `[h, w, 3] float32` from 0 to 255, label `[h, w] uint8`, and whether each pixel
        lies inside the frame, `[h, w] bool`; outside it the label is ignored.
    """
    row, column = _source_positions(rows, crop[0]), _source_positions(columns, crop[1])
    (top, bottom, down), (left, right, across) = (
        _neighbours(row, image.shape[0]),
        _neighbours(column, image.shape[1]),
    )

    def taps(row: jax.Array, column: jax.Array) -> jax.Array:
        return image[row[:, None], column[None, :]].astype(jnp.float32)

    down, across = down[:, None, None], across[None, :, None]
    upper = taps(top, left) * (1 - across) + taps(top, right) * across
    lower = taps(bottom, left) * (1 - across) + taps(bottom, right) * across
    pixels = upper * (1 - down) + lower * down

    nearest_row, row_is_inside = _nearest(row, image.shape[0])
    nearest_column, column_is_inside = _nearest(column, image.shape[1])
    is_inside = row_is_inside[:, None] & column_is_inside[None, :]
    classes = label[nearest_row[:, None], nearest_column[None, :]]
    ignored = jnp.asarray(IGNORE, label.dtype)
    return pixels, jnp.where(is_inside, classes, ignored), is_inside


def _source_positions(window: Window, crop: int) -> jax.Array:
    output = jnp.arange(crop, dtype=jnp.float32)
    output = jnp.where(window.is_flipped, crop - 1 - output, output)
    return (output + window.offset + 0.5) / window.scale - 0.5


def _neighbours(position: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The two pixels around each position and the weight of the second."""
    first = jnp.floor(position)
    low = jnp.clip(first.astype(jnp.int32), 0, size - 1)
    high = jnp.clip(first.astype(jnp.int32) + 1, 0, size - 1)
    return low, high, position - first


def _nearest(position: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
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
