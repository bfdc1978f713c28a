"""Views against a float64 loop over pixels; what is drawn, read off the pixels themselves."""

import math
from dataclasses import astuple, replace
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from bisenet_jax import parallel
from bisenet_jax.config import AugmentConfig
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.normalization import Normalization
from bisenet_jax.resize import resize
from bisenet_jax.training.augment import Window, augment, draw_windows, sample_view

# Leaves pixels as they are, so that tests can read them.
PLAIN = Normalization(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
STILL = AugmentConfig(crop_height=32, crop_width=32, scales=(1.0,), flip_probability=0.0)
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)

compiled_view = jax.jit(sample_view, static_argnums=(4, 5, 6))


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


def window(size: int, scale: float, offset: float, is_flipped: bool = False) -> Window:
    return Window(
        jnp.int32(size), jnp.float32(scale), jnp.float32(offset), jnp.asarray(is_flipped)
    )


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


@pytest.mark.parametrize(
    ("scale", "shrink", "enlarge"),
    [
        *((scale, 1, 1) for scale in SCALES),
        *((0.75, 2, 1), (1.0, 2, 1), (1.5, 3, 1)),
        *((0.75, 1, 2), (1.0, 1, 2), (1.5, 1, 3)),
    ],
)
@pytest.mark.parametrize("flips", [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("offsets", [(0, 0), (3, 5), (-4, 2), (2, -7), (-6, -3)])
def test_view_equals_loop(scale, flips, offsets, shrink, enlarge):
    image, label = random_frames(9, 13)
    view = View(scale, offsets, flips, (6, 12))
    rows, columns = (
        window(size, scale, offset, flip)
        for size, offset, flip in zip(label.shape, offsets, flips, strict=True)
    )
    canvas = on_canvas(image, 11, 19, seed=1), on_canvas(label, 11, 19, seed=2)
    pixels, classes, inside = compiled_view(*canvas, rows, columns, view.crop, shrink, enlarge)
    expected, expected_inside = pixels_by_loop(image, view, shrink, enlarge)
    np.testing.assert_allclose(pixels, expected, atol=1e-3)
    np.testing.assert_array_equal(classes, labels_by_loop(label, view, shrink))
    np.testing.assert_allclose(inside, expected_inside, atol=1e-6)
    if shrink == enlarge == 1:
        np.testing.assert_array_equal(inside == 1, np.asarray(classes) != IGNORE)
    assert (pixels.dtype, classes.dtype, inside.dtype) == (jnp.float32, jnp.uint8, jnp.float32)


EVERYTHING = AugmentConfig(
    crop_height=32,
    crop_width=48,
    scale_range=(0.4, 2.0),
    shrink=2,
    class_share_limit=0.6,
    flip_probability=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
)


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


def augment_by_loop(key, image, label, config, normalization):
    *window_keys, colour_key = jax.random.split(key, 5)
    view = drawn_view(window_keys, label, config)
    pixels, inside = pixels_by_loop(image, view, config.shrink)
    brightness, contrast, saturation = (
        float(jax.random.uniform(part, minval=1 - 0.4, maxval=1 + 0.4))
        for part in jax.random.split(colour_key, 3)
    )
    pixels = jitter_by_hand(pixels[None], brightness, contrast, saturation)[0]
    pixels = (pixels / 255 - normalization.mean) / normalization.std * inside[..., None]
    return pixels, labels_by_loop(label, view, config.shrink), view


def blocks(height: int, width: int, seed: int) -> np.ndarray:
    """Labels in blocks of 8 x 8: half of them of one class, some ignored."""
    random = np.random.default_rng(seed)
    classes = np.array([0, 0, 0, 0, 3, 7, 18, IGNORE], np.uint8)
    small = random.choice(classes, (height // 8 + 1, width // 8 + 1))
    return small.repeat(8, 0).repeat(8, 1)[:height, :width]


def test_everything_together_equals_loop():
    sizes = np.int32([[70, 90], [41, 100], [70, 37], [23, 29], [64, 64], [70, 100], [50, 58]])
    frames = [
        (random_frames(*size, seed=seed)[0], blocks(*size, seed=seed))
        for seed, size in enumerate(sizes)
    ]
    images, labels = (
        np.stack([on_canvas(frame[part], 70, 100, seed=9) for frame in frames])
        for part in range(2)
    )
    normalization = Normalization()
    pixels, classes = views(
        images, labels, EVERYTHING, sizes=sizes, seed=1, normalization=normalization
    )
    assert (pixels.shape, classes.shape) == ((7, 16, 24, 3), (7, 16, 24))
    chosen = []
    keys = jax.random.split(jax.random.key(1), len(sizes))
    for index, (key, frame) in enumerate(zip(keys, frames, strict=True)):
        expected = augment_by_loop(key, *frame, EVERYTHING, normalization)
        np.testing.assert_allclose(pixels[index], expected[0], atol=2e-4)
        np.testing.assert_array_equal(classes[index], expected[1])
        chosen.append(expected[2])
    # The case holds what it is about: flips, frames within and beyond the crop, other places.
    assert len({view.flips for view in chosen}) == 2
    assert {np.sign(offset) for view in chosen for offset in view.offsets} >= {-1, 1}
    first, _ = views(
        images,
        labels,
        replace(EVERYTHING, class_share_limit=1.0),
        sizes=sizes,
        seed=1,
        normalization=normalization,
    )
    assert not np.array_equal(first, pixels)


def test_identity_returns_the_frame():
    images, labels = random_frames(2, 32, 64)
    config = replace(STILL, crop_width=64)
    pixels, classes = views(images, labels, config)
    np.testing.assert_array_equal(pixels, images)
    np.testing.assert_array_equal(classes, labels)
    assert (pixels.dtype, classes.dtype) == (np.float32, np.uint8)
    normalised, _ = views(images, labels, config, normalization=Normalization())
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalised, expected, atol=1e-5)


def test_flip_mirrors_columns_and_twice_is_none():
    images, labels = random_frames(2, 32, 32)
    flipped, flipped_labels = views(images, labels, replace(STILL, flip_probability=1.0))
    np.testing.assert_array_equal(flipped, images[:, :, ::-1])
    np.testing.assert_array_equal(flipped_labels, labels[:, :, ::-1])
    twice = views(
        flipped.astype(np.uint8), flipped_labels, replace(STILL, flip_probability=1.0)
    )
    np.testing.assert_array_equal(twice[0], images)
    np.testing.assert_array_equal(twice[1], labels)


def test_image_and_label_share_their_geometry():
    blocks = np.random.default_rng(0).integers(0, 19, (16, 6, 7), dtype=np.uint8)
    labels = blocks.repeat(12, axis=1).repeat(12, axis=2)
    images = np.repeat(labels[..., None] * 10, 3, axis=-1)
    config = replace(STILL, crop_height=64, crop_width=64, scales=(0.75, 1.0, 1.5, 2.0))
    pixels, classes = views(images, labels, replace(config, flip_probability=0.5))
    neighbours = np.stack(
        [classes[:, 4 + i : 60 + i, 4 + j : 60 + j] for i in range(-2, 3) for j in range(-2, 3)]
    )
    is_interior = (neighbours == neighbours[:1]).all(0) & (neighbours[0] != IGNORE)
    assert is_interior.mean() > 0.3
    middle = classes[:, 4:60, 4:60][is_interior]
    np.testing.assert_allclose(
        pixels[:, 4:60, 4:60][is_interior], middle[:, None] * 10.0 * np.ones(3), atol=1e-3
    )


def test_around_a_small_frame_is_nothing():
    images, labels = random_frames(6, 24, 20)
    config = replace(STILL, crop_height=64, crop_width=32)
    pixels, classes = views(images, labels, config, normalization=Normalization())
    inside, _ = views(
        images,
        labels,
        replace(config, crop_height=24, crop_width=20),
        normalization=Normalization(),
    )
    is_inside = classes != IGNORE
    for image in range(6):
        rows, columns = np.where(is_inside[image])
        top, left = rows.min(), columns.min()
        assert is_inside[image].sum() == 24 * 20
        frame = np.s_[top : top + 24, left : left + 20]
        np.testing.assert_array_equal(classes[image][frame], labels[image])
        np.testing.assert_array_equal(pixels[image][frame], inside[image])
        assert (pixels[image][~is_inside[image]] == 0).all()
    assert len({(np.argmax(each.any(1)), np.argmax(each.any(0))) for each in is_inside}) > 1


def test_keys_decide_and_each_frame_draws_its_own():
    images, labels = (np.repeat(array, 8, axis=0) for array in random_frames(1, 64, 80))
    config = replace(STILL, scales=SCALES, flip_probability=0.5, brightness=0.2)
    first, again, other = (views(images, labels, config, seed=seed) for seed in (0, 0, 1))
    for index in range(2):
        np.testing.assert_array_equal(first[index], again[index])
        assert not np.array_equal(first[index], other[index])
    assert len({view.tobytes() for view in first[0]}) == 8
    assert len({view.tobytes() for view in first[1]}) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"scales": (1.25,)},
        {"flip_probability": 1.0},
        {"brightness": 0.4},
        {"contrast": 0.4},
        {"saturation": 0.4},
        {"scale_range": (1.1, 1.9)},
    ],
    ids=str,
)
def test_each_option_changes_the_view(change):
    images, labels = random_frames(2, 48, 40)
    before, after = (
        views(images, labels, STILL),
        views(images, labels, replace(STILL, **change)),
    )
    assert not np.isclose(before[0], after[0], atol=0.5).all(axis=(1, 2, 3)).any()
    is_colour = change.keys() & {"brightness", "contrast", "saturation"}
    assert np.array_equal(before[1], after[1]) == bool(is_colour)


@pytest.mark.parametrize("crop", [(32, 64), (64, 32), (96, 96)])
def test_crop_is_the_size_of_the_view(crop):
    config = replace(STILL, crop_height=crop[0], crop_width=crop[1])
    run = partial(augment, config=config, normalization=PLAIN)
    frames = random_frames(2, 48, 40)
    pixels, classes = jax.eval_shape(run, jax.random.key(0), *frames, whole(frames[0]))
    assert (pixels.shape, classes.shape) == ((2, *crop, 3), (2, *crop))


def rulers(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames whose red is the row and whose green is the column: a view tells its window."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(height)[:, None], np.arange(width)[None, :]
    images = np.broadcast_to(image, (count, height, width, 3))
    return images, np.zeros((count, height, width), np.uint8)


def test_scales_and_flips_are_those_asked_for():
    config = replace(STILL, scales=SCALES, flip_probability=0.25)
    pixels, _ = views(*rulers(600, 90, 100), config)
    rows, columns = pixels[:, 16, 16, 0], pixels[:, 16, 16, 1]
    down = pixels[:, 17, 16, 0] - rows
    across = pixels[:, 16, 17, 1] - columns
    np.testing.assert_allclose(down, np.abs(across), atol=1e-3)
    drawn, counts = np.unique((1 / down).round(3), return_counts=True)
    np.testing.assert_array_equal(drawn, SCALES)
    # Five deviations of 600 draws with one chance in six, and one in four.
    assert np.abs(counts - 100).max() < 5 * math.sqrt(600 * 5 / 36), counts
    is_flipped = across < 0
    assert abs(is_flipped.sum() - 150) < 5 * math.sqrt(600 * 3 / 16)
    # Flips know nothing of scales.
    assert all(
        0 < is_flipped[down.round(3) == step].mean() < 0.6 for step in np.unique(down.round(3))
    )


@pytest.mark.parametrize(
    ("size", "scale"),
    [((40, 36), 1.0), ((48, 44), 0.75), ((26, 32), 1.0)],
)
def test_every_place_of_the_crop_occurs(size, scale):
    config = replace(STILL, scales=(scale,))
    pixels, classes = views(*rulers(600, *size), config)
    # Pixel 16 is inside whatever the place.
    place = np.round((pixels[:, 16, 16, :2] + 0.5) * scale - 0.5 - 16).astype(int)
    slack = np.array([round(side * scale) - 32 for side in size])
    low, high = np.minimum(slack, 0), np.maximum(slack, 0)
    for axis in range(2):
        drawn, counts = np.unique(place[:, axis], return_counts=True)
        np.testing.assert_array_equal(drawn, np.arange(low[axis], high[axis] + 1))
        share = 1 / len(drawn)
        assert np.abs(counts - 600 * share).max() <= 5 * math.sqrt(600 * share * (1 - share))
    # Rows and columns draw apart: every pair of places occurs.
    assert len({tuple(pair) for pair in place}) == np.prod(high - low + 1)
    assert (classes == IGNORE).any() == (slack < 0).any()


# Half a pixel remains of 90 * 0.75, 86 * 1.25 and 65 * 0.5.
@pytest.mark.parametrize("size", [(90, 86), (65, 131)])
def test_a_crop_never_leaves_a_larger_frame(size):
    scales = (0.5, 0.75, 0.9, 1.25, 1.5)
    assert min(size) * min(scales) >= 32
    images, labels = (np.repeat(array, 200, axis=0) for array in random_frames(1, *size))
    config = replace(STILL, scales=scales, flip_probability=0.5)
    for scale_range in (None, (0.5, 1.5)):
        _, classes = views(images, labels, replace(config, scale_range=scale_range))
        assert not (classes == IGNORE).any()


def test_what_lies_beyond_the_frame_is_never_read():
    frames = [random_frames(*size, seed=3) for size in ((40, 70), (64, 30), (20, 24))]
    sizes = np.int32([label.shape for _, label in frames])
    config = replace(STILL, scale_range=(0.5, 2.0), shrink=2, brightness=0.3, contrast=0.3)
    config = replace(config, class_share_limit=0.15)
    results = []
    for height, width, seed in ((64, 70, 4), (64, 70, 5), (80, 128, 6)):
        images, labels = (
            np.stack([on_canvas(frame[part], height, width, seed=seed) for frame in frames])
            for part in range(2)
        )
        results.append(views(images, labels, config, sizes=sizes))
    for pixels, classes in results[1:]:
        np.testing.assert_array_equal(pixels, results[0][0])
        np.testing.assert_array_equal(classes, results[0][1])
    # One that fills its canvas needs no other code: its view is the same.
    alone = views(frames[0][0][None], frames[0][1][None], config)
    canvas = views(
        on_canvas(frames[0][0], 64, 96, seed=7)[None],
        on_canvas(frames[0][1], 64, 96, seed=8)[None],
        config,
        sizes=sizes[:1],
    )
    np.testing.assert_array_equal(alone[0].view(np.int32), canvas[0].view(np.int32))
    np.testing.assert_array_equal(alone[1], canvas[1])
    # But a wrong size shows.
    assert not np.array_equal(views(images, labels, config)[0], results[0][0])


def test_any_scale_of_the_range_is_drawn():
    config = replace(STILL, scale_range=(0.5, 2.5), flip_probability=0.0)
    pixels, _ = views(*rulers(600, 90, 100), config)
    drawn = np.sort(1 / (pixels[:, 17, 16, 0] - pixels[:, 16, 16, 0]))
    assert 0.5 <= drawn[0] + 1e-3 and drawn[-1] - 1e-3 <= 2.5
    # Kolmogorov's distance from the uniform distribution: chance exceeds it once in 10^5.
    assert np.abs((drawn - 0.5) / 2 - np.linspace(0, 1, 600)).max() < 2.5 / math.sqrt(600)
    assert len(np.unique(drawn.round(4))) > 500
    fixed, _ = views(*rulers(8, 90, 100), replace(config, scale_range=(1.25, 1.25)))
    asked, _ = views(*rulers(8, 90, 100), replace(STILL, scales=(1.25,)))
    np.testing.assert_array_equal(fixed, asked)


def test_shrinking_by_two_is_halving():
    images, labels = random_frames(2, 32, 64)
    config = replace(STILL, crop_width=64, shrink=2)
    pixels, classes = views(images, labels, config)
    means = images.reshape(2, 16, 2, 32, 2, 3).astype(np.float64).mean((2, 4))
    np.testing.assert_allclose(pixels, means, atol=1e-4)
    # The centre lies on the corner of four pixels: the last of them begins there.
    np.testing.assert_array_equal(classes, labels[:, 1::2, 1::2])


def test_enlarging_by_two_is_what_inference_does():
    images, labels = random_frames(2, 32, 64)
    config = replace(STILL, crop_width=64, enlarge=2)
    pixels, classes = views(images, labels, config)
    seen = resize(jnp.asarray(images, jnp.float32), 64, 128)
    np.testing.assert_allclose(pixels, seen, atol=1e-3)
    np.testing.assert_array_equal(classes, labels)


def test_across_the_border_the_mean_colour_has_its_share():
    # A frame of 15 rows in a crop of 32: it begins at an odd row in half of the draws.
    images, labels = np.full((64, 15, 32, 3), 200, np.uint8), np.ones((64, 15, 32), np.uint8)
    pixels, classes = views(images, labels, replace(STILL, shrink=2))
    rows = pixels[:, :, 0, 0]
    assert set(np.unique(rows.round(2))) == {0.0, 100.0, 200.0}
    np.testing.assert_array_equal(rows.sum(1).round(1), np.full(64, 7.5 * 200))
    # Its label is that of its lower half.
    is_half = rows.round(1) == 100
    assert is_half.sum() == 64
    is_top = is_half & (np.roll(rows, -1, axis=1) > 150)
    assert 10 < is_top.sum() < 54
    np.testing.assert_array_equal(classes[:, :, 0] == 1, (rows > 150) | is_top)


def shares_of(classes: np.ndarray) -> np.ndarray:
    """The share of the largest class of each view among its labelled pixels."""
    counts = np.stack([np.bincount(view.reshape(-1), minlength=256) for view in classes])
    return counts[:, :IGNORE].max(1) / counts[:, :IGNORE].sum(1)


def test_no_class_fills_more_than_its_share():
    labels = np.zeros((200, 96, 96), np.uint8)
    labels[:, :48, :48], labels[:, :8] = np.arange(48)[:, None] // 16 + 1, IGNORE
    images = np.zeros((*labels.shape, 3), np.uint8)
    _, free = views(images, labels, STILL)
    _, limited = views(images, labels, replace(STILL, class_share_limit=0.7))
    # Counted on every eighth pixel, so nearly.
    assert (shares_of(free) > 0.85).mean() > 0.4
    assert (shares_of(limited) > 0.85).mean() < 0.05
    # What was drawn first by luck is kept, and shares below the limit still differ.
    assert shares_of(limited).std() > 0.02


def test_ignored_pixels_have_no_share():
    # Class 1 fills a third of the left half, but all that is labelled there.
    labels = np.where(np.random.default_rng(0).random((64, 96)) < 1 / 3, 1, IGNORE)
    labels[:, 48:] = np.arange(64)[:, None] // 8
    images, labels = np.zeros((200, 64, 96, 3), np.uint8), np.uint8(labels)[None].repeat(200, 0)
    _, free = views(images, labels, STILL)
    _, limited = views(images, labels, replace(STILL, class_share_limit=0.5))
    assert (shares_of(free) > 0.9).mean() > 0.2
    assert (shares_of(limited) > 0.9).mean() == 0


@pytest.mark.parametrize("only", [5, IGNORE])
def test_after_ten_tries_the_last_one_counts(only):
    images, _ = rulers(4, 90, 100)
    labels = np.full((4, 90, 100), only, np.uint8)
    config = replace(STILL, scale_range=(0.8, 1.5), class_share_limit=0.5)
    pixels, classes = views(images, labels, config)
    assert (classes == only).all()
    for pixel, key in zip(pixels, jax.random.split(jax.random.key(0), 4), strict=True):
        view = drawn_view(jax.random.split(key, 5)[:4], labels[0], config)
        np.testing.assert_allclose(pixel[16, 16, :2], view.source(16, 16), atol=1e-3)


def test_without_a_limit_nothing_is_counted():
    frames = random_frames(2, 64, 64)

    def program(limit: float) -> str:
        config = replace(STILL, class_share_limit=limit)
        run = partial(augment, config=config, normalization=PLAIN)
        return str(jax.make_jaxpr(run)(jax.random.key(0), *frames, whole(frames[0])))

    assert "scatter" in program(0.99) and "scatter" not in program(1.0)


def test_two_devices_draw_what_one_does():
    images, labels = random_frames(4, 64, 96)
    batch = images, labels, whole(images)
    config = replace(EVERYTHING, class_share_limit=0.1)
    run = compiled_augment(astuple(config), PLAIN)
    key = jax.random.key(0)
    one = jax.block_until_ready(run(key, *batch))
    split = parallel.split_batch(batch, parallel.make_mesh())
    two = jax.block_until_ready(run(key, *split))
    assert len(two[0].sharding.device_set) == 2
    np.testing.assert_allclose(two[0], one[0], atol=1e-3)
    np.testing.assert_array_equal(two[1], one[1])
    # Each device reads its own frames: none is sent to another.
    assert "u8[4,64,96" not in run.lower(key, *split).compile().as_text()


def factor_of(after: np.ndarray, before: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The one factor of each frame by which its distance to the base has changed."""
    axes = (1, 2, 3)
    factor = ((after - base) * (before - base)).sum(axes) / np.square(before - base).sum(axes)
    shaped = factor[:, None, None, None]
    np.testing.assert_allclose(after, shaped * (before - base) + base, atol=0.01)
    return factor


def test_jitter_is_brightness_then_contrast_then_saturation():
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    random = np.random.default_rng(0)
    labels = np.zeros((64, 32, 32), np.uint8)
    # Alone, and far from the ends of the range, each shows its factor.
    images = random.integers(70, 150, (64, 32, 32, 3), dtype=np.uint8)
    grey = grey_of(images)
    base = {"brightness": 0.0, "contrast": grey.mean((1, 2, 3), keepdims=True)}
    factors = {}
    for name in strengths:
        after, _ = views(images, labels, replace(STILL, **{name: 0.4}))
        factors[name] = factor_of(after, images, base.get(name, grey))
        assert 0.6 <= factors[name].min() < 0.65 and 1.35 < factors[name].max() <= 1.4
    # Each frame and each change has a factor of its own.
    assert len(np.unique(np.concatenate(list(factors.values())).round(5))) > 180
    # The same key draws the same factors for all three together.
    images = random.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    after, _ = views(images, labels, replace(STILL, **strengths))
    brightness, contrast, saturation = (
        factor[:, None, None, None] for factor in factors.values()
    )
    expected = jitter_by_hand(images, brightness, contrast, saturation)
    np.testing.assert_allclose(after, expected, atol=0.02)


def jitter_by_hand(images, brightness, contrast, saturation):
    images = np.clip(images * brightness, 0, 255)
    mean = grey_of(images).mean((1, 2, 3), keepdims=True)
    images = np.clip((images - mean) * contrast + mean, 0, 255)
    grey = grey_of(images)
    return np.clip((images - grey) * saturation + grey, 0, 255)


def grey_of(images: np.ndarray) -> np.ndarray:
    return (images @ [0.299, 0.587, 0.114])[..., None]


def test_jitter_keeps_the_range():
    images, labels = random_frames(16, 32, 32)
    images[:, :16] = images[:, :16] // 128 * 255
    strong = replace(STILL, brightness=1.0, contrast=1.0, saturation=1.0)
    pixels, _ = views(images, labels, strong)
    assert pixels.min() == 0 and 254 < pixels.max() <= 255
    assert np.isfinite(pixels).all()


def sizes_within(jaxpr) -> list[int]:
    """How many elements each value of a program has, inputs left out."""
    sizes = []
    for equation in jaxpr.eqns:
        inner = list(core.jaxprs_in_params(equation.params))
        sizes += [size for program in inner for size in sizes_within(program)]
        sizes += [variable.aval.size for variable in equation.outvars]
    return sizes


OPTIONS = {
    "plain": {"scales": SCALES},
    "range": {"scale_range": (0.25, 2.0)},
    "shrink": {"shrink": 2},
    "enlarge": {"enlarge": 2},
    "share": {"class_share_limit": 0.5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cost_does_not_grow_with_the_frame(options):
    config = replace(STILL, brightness=0.1, contrast=0.1, saturation=0.1, **options)
    run = jax.jit(partial(augment, config=config, normalization=Normalization()))
    costs = []
    for height, width in ((64, 64), (256, 512)):
        arguments = (
            jax.eval_shape(lambda: jax.random.key(0)),
            jax.ShapeDtypeStruct((2, height, width, 3), jnp.uint8),
            jax.ShapeDtypeStruct((2, height, width), jnp.uint8),
            jax.ShapeDtypeStruct((2, 2), jnp.int32),
        )
        sizes = sorted(sizes_within(jax.make_jaxpr(run)(*arguments).jaxpr))
        compiled = run.lower(*arguments).compile()
        temporary = compiled.memory_analysis().temp_size_in_bytes
        costs.append((sizes, compiled.cost_analysis()["flops"], temporary))
    (sizes, flops, temporary), (large_sizes, large_flops, large_temporary) = costs
    # No value but the frames themselves knows of their size.
    assert large_sizes == sizes and sizes[-1] < 2 * 64 * 64 * 3 * 4
    assert large_flops < 1.01 * flops
    assert large_temporary < 1.01 * temporary
