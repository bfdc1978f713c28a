"""Views equal a float64 loop over pixels; geometry, borders, cost."""

from dataclasses import astuple, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from views_by_loop import (
    PLAIN,
    SCALES,
    STILL,
    View,
    compiled_augment,
    drawn_view,
    jitter_by_hand,
    labels_by_loop,
    on_canvas,
    pixels_by_loop,
    random_frames,
    views,
    whole,
)

from bisenet_jax import parallel
from bisenet_jax.config import AugmentConfig
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.normalization import Normalization
from bisenet_jax.resize import resize
from bisenet_jax.training.augment import Window, augment, sample_view

compiled_view = jax.jit(sample_view, static_argnums=(4, 5, 6))


def window(size: int, scale: float, offset: float, is_flipped: bool = False) -> Window:
    return Window(
        jnp.int32(size), jnp.float32(scale), jnp.float32(offset), jnp.asarray(is_flipped)
    )


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


@pytest.mark.parametrize("crop", [(32, 64), (64, 32), (96, 96)])
def test_crop_is_the_size_of_the_view(crop):
    config = replace(STILL, crop_height=crop[0], crop_width=crop[1])
    run = partial(augment, config=config, normalization=PLAIN)
    frames = random_frames(2, 48, 40)
    pixels, classes = jax.eval_shape(run, jax.random.key(0), *frames, whole(frames[0]))
    assert (pixels.shape, classes.shape) == ((2, *crop, 3), (2, *crop))


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
