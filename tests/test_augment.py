"""Views against a float64 loop over pixels; what is drawn, read off the pixels themselves."""

import math
from dataclasses import astuple, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from bisenet_jax.config import AugmentConfig
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.normalization import Normalization
from bisenet_jax.training.augment import Window, augment, sample_view

# Leaves pixels as they are, so that tests can read them.
PLAIN = Normalization(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
STILL = AugmentConfig(crop_height=32, crop_width=32, scales=(1.0,), flip_probability=0.0)
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)

compiled_view = jax.jit(sample_view, static_argnums=4)


def random_frames(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`[*shape, 3]` pixels and `[*shape]` labels, none of them ignored."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    return images, random.integers(0, 19, shape, dtype=np.uint8)


@cache
def compiled_augment(fields: tuple, normalization: Normalization):
    return jax.jit(partial(augment, config=AugmentConfig(*fields), normalization=normalization))


def views(images, labels, config, *, seed=0, normalization=PLAIN):
    run = compiled_augment(astuple(config), normalization)
    return tuple(map(np.asarray, run(jax.random.key(seed), images, labels)))


def window(scale: float, offset: float, is_flipped: bool = False) -> Window:
    return Window(jnp.float32(scale), jnp.float32(offset), jnp.asarray(is_flipped))


def view_by_loop(image, label, scale, offsets, flips, crop):
    """Each output pixel: undo the flip, the crop and the scale, then look at the source."""
    height, width = label.shape
    pixels, classes = np.zeros((*crop, 3)), np.full(crop, IGNORE)
    for row, column in np.ndindex(*crop):
        place = []
        for output, size, offset, flip in zip((row, column), crop, offsets, flips, strict=True):
            output = size - 1 - output if flip else output
            place.append((output + offset + 0.5) / scale - 0.5)
        y, x = place
        for down, across in np.ndindex(2, 2):
            i, j = math.floor(y) + down, math.floor(x) + across
            weight = (1 - abs(y - i)) * (1 - abs(x - j))
            pixels[row, column] += weight * image[np.clip(i, 0, height - 1)][
                np.clip(j, 0, width - 1)
            ].astype(float)
        i, j = math.floor(y + 0.5), math.floor(x + 0.5)
        if 0 <= i < height and 0 <= j < width:
            classes[row, column] = label[i, j]
    return pixels, classes


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("flips", [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("offsets", [(0, 0), (3, 5), (-4, 2), (2, -7), (-6, -3)])
def test_view_equals_loop(scale, flips, offsets):
    image, label = random_frames(9, 13)
    rows, columns = (
        window(scale, offset, flip) for offset, flip in zip(offsets, flips, strict=True)
    )
    pixels, classes, is_inside = compiled_view(image, label, rows, columns, (10, 12))
    expected = view_by_loop(image, label, scale, offsets, flips, (10, 12))
    np.testing.assert_allclose(pixels, expected[0], atol=1e-3)
    np.testing.assert_array_equal(classes, expected[1])
    np.testing.assert_array_equal(is_inside, expected[1] != IGNORE)
    assert (pixels.dtype, classes.dtype) == (jnp.float32, jnp.uint8)


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
    pixels, classes = jax.eval_shape(run, jax.random.key(0), *random_frames(2, 48, 40))
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
    _, classes = views(images, labels, config)
    assert not (classes == IGNORE).any()


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
    expected = np.clip(images * brightness, 0, 255)
    mean = grey_of(expected).mean((1, 2, 3), keepdims=True)
    expected = np.clip((expected - mean) * contrast + mean, 0, 255)
    grey = grey_of(expected)
    expected = np.clip((expected - grey) * saturation + grey, 0, 255)
    np.testing.assert_allclose(after, expected, atol=0.02)


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


def test_cost_does_not_grow_with_the_frame():
    config = replace(STILL, scales=SCALES, brightness=0.1, contrast=0.1, saturation=0.1)
    run = jax.jit(partial(augment, config=config, normalization=Normalization()))
    costs = []
    for height, width in ((64, 64), (256, 512)):
        arguments = (
            jax.eval_shape(lambda: jax.random.key(0)),
            jax.ShapeDtypeStruct((2, height, width, 3), jnp.uint8),
            jax.ShapeDtypeStruct((2, height, width), jnp.uint8),
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
