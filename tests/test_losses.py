"""Losses of heads and network equal loops that share nothing with the code."""

import itertools
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses_by_loop import (
    OHEM,
    PLAIN,
    N,
    loss_by_loop,
    losses_by_loop,
    random_labels,
    random_logits,
)

from bisenet_jax import parallel
from bisenet_jax.config import LossConfig
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.errors import ConfigError
from bisenet_jax.model.bisenetv2 import BOOSTER_NAMES, Outputs
from bisenet_jax.resize import upsample
from bisenet_jax.training.cross_entropy import pixel_losses
from bisenet_jax.training.losses import check_class_weights, head_loss, total_loss

CONFIGS = pytest.mark.parametrize("config", [PLAIN, OHEM], ids=["plain", "ohem"])
loss_and_gradient = {
    config.ohem: jax.jit(jax.value_and_grad(partial(head_loss, config=config)))
    for config in (PLAIN, OHEM)
}


@CONFIGS
@pytest.mark.parametrize("factor", [1, 2, 8])
def test_head_loss_equals_loop(config, factor):
    logits = random_logits(2, 3, 4, N)
    labels = random_labels(2, 3 * factor, 4 * factor)
    # The first image is easy, so that mining has to choose its largest losses.
    logits[0] += 12 * (np.arange(N) == labels[0, ::factor, ::factor, None])
    expected = loss_by_loop(logits, labels, config)
    loss, _ = loss_and_gradient[config.ohem](logits, labels)
    assert loss.shape == () and loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=2e-6)


WEIGHTS = (0.02, 3.0, 0.0, 0.5)


@CONFIGS
@pytest.mark.parametrize("factor", [1, 2, 8])
def test_weighted_loss_equals_loop(config, factor):
    config = replace(config, class_weights=WEIGHTS)
    logits = random_logits(2, 3, 4, N)
    labels = random_labels(2, 3 * factor, 4 * factor)
    logits[0] += 12 * (np.arange(N) == labels[0, ::factor, ::factor, None])
    loss = jax.jit(partial(head_loss, config=config))(logits, labels)
    np.testing.assert_allclose(loss, loss_by_loop(logits, labels, config), rtol=5e-6)
    unweighted = loss_by_loop(logits, labels, replace(config, class_weights=()))
    assert abs(loss / unweighted - 1) > 0.005


@CONFIGS
def test_class_weights_are_relative(config):
    logits, labels = random_logits(2, 3, 4, N), random_labels(2, 6, 8).astype(np.int32)
    # Foreign ids have no weight, wherever a table of weights would end.
    labels[0, 0, :4] = (-1, N, -300, 1000)
    plain, gradient = loss_and_gradient[config.ohem](logits, labels)

    def weighted(*class_weights: float) -> tuple[jax.Array, jax.Array]:
        options = replace(config, class_weights=class_weights)
        return jax.jit(jax.value_and_grad(partial(head_loss, config=options)))(logits, labels)

    # Not even sums far below one change the mean.
    for equal in (1.0, 1e-6, 300.0):
        loss, slope = weighted(*[equal] * N)
        np.testing.assert_allclose(loss, plain, rtol=1e-6)
        np.testing.assert_allclose(slope, gradient, rtol=1e-5, atol=1e-8)
    # Of one class, the mean is that class's own.
    loss, _ = weighted(0.0, 0.0, 7.0, 0.0)
    if not config.ohem:
        alone = np.where(labels == 2, labels, IGNORE)
        np.testing.assert_allclose(loss, loss_by_loop(logits, alone, PLAIN), rtol=2e-6)
    assert abs(loss - plain) > 0.001


@CONFIGS
def test_nothing_but_classes_without_weight_is_zero(config):
    config = replace(config, class_weights=WEIGHTS)
    labels = np.full((2, 4, 6), 2, np.uint8)
    loss, gradient = jax.jit(jax.value_and_grad(partial(head_loss, config=config)))(
        random_logits(2, 2, 3, N), labels
    )
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros((2, 2, 3, N)))


def test_weights_do_not_choose_the_hard_pixels():
    # The hard pixel has hardly any weight, the easy ones have a large one: it is still the one.
    logits, labels = np.zeros((1, 2, 8, N), np.float32), np.zeros((1, 2, 8), np.uint8)
    logits[..., 0] = 6.0
    labels[0, 1, 3] = 1
    config = replace(OHEM, class_weights=(100.0, 0.01, 1.0, 1.0))
    loss = head_loss(logits, labels, config)
    np.testing.assert_allclose(loss, math.log(math.exp(6) + 3), rtol=1e-6)


def test_each_class_needs_a_weight():
    check_class_weights(PLAIN, N)
    check_class_weights(replace(PLAIN, class_weights=WEIGHTS), N)
    for class_weights in (WEIGHTS[:1], WEIGHTS[:3], (*WEIGHTS, 1.0)):
        with pytest.raises(ConfigError) as error:
            check_class_weights(replace(PLAIN, class_weights=class_weights), N)
        assert str(error.value) == (
            f"config.loss.class_weights holds {len(class_weights)} weights for 4 classes; give "
            "one per class in the order of their ids, or () for none"
        )


def plain_pixel_losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """All logits at once, enlarged as a whole."""
    logits = upsample(logits, labels.shape[1] // logits.shape[1])
    losses = jax.nn.logsumexp(logits, axis=-1)
    index = jnp.minimum(labels, N - 1).astype(jnp.int32)[..., None]
    losses = losses - jnp.take_along_axis(logits, index, axis=-1)[..., 0]
    return jnp.where(labels < N, losses, 0.0)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 6, 8, 16, 32])
def test_piecewise_losses_equal_the_plain_form(factor):
    logits = random_logits(2, 3, 2, N, scale=5.0)
    labels = random_labels(2, 3 * factor, 2 * factor)
    pull = random_logits(*labels.shape, seed=4)
    found, expected = (
        jax.jit(jax.value_and_grad(lambda x, form=form: (form(x, labels) * pull).sum()))(logits)
        for form in (lambda *arrays: pixel_losses(*arrays)[0], plain_pixel_losses)
    )
    pixels = pixel_losses(logits, labels)[0]
    np.testing.assert_allclose(pixels, plain_pixel_losses(logits, labels), rtol=1e-6, atol=4e-6)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-4)
    scale = np.abs(expected[1]).max()
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-5 * scale)


def test_enlarged_logits_are_never_there_as_a_whole():
    logits, labels = random_logits(1, 16, 16, 19), random_labels(1, 128, 128)
    enlarged = labels.size * 19 * 4

    def memory(form) -> int:
        gradient = jax.jit(jax.grad(lambda x: form(x, labels).sum()))
        return gradient.lower(logits).compile().memory_analysis().temp_size_in_bytes

    assert memory(plain_pixel_losses) > enlarged
    assert memory(lambda *arrays: pixel_losses(*arrays)[0]) < enlarged / 2


def test_function_runs_outside_jit():
    logits, labels = random_logits(1, 2, 3, N), random_labels(1, 4, 6)
    expected = loss_by_loop(logits, labels, OHEM)
    np.testing.assert_allclose(head_loss(logits, labels, OHEM), expected, rtol=2e-6)


def test_pixel_losses_equal_loop():
    logits, labels = random_logits(2, 3, 4, N), random_labels(2, 12, 16)
    losses, is_labelled = jax.jit(pixel_losses)(logits, labels)
    expected, expected_labelled = losses_by_loop(logits, labels)
    np.testing.assert_array_equal(is_labelled, expected_labelled)
    assert 0 < expected_labelled.sum() < labels.size
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("dtype", "foreign"), [(np.uint8, (N, 254, 255)), (np.int32, (N, 255, 1000, -1, -255))]
)
def test_every_foreign_id_is_ignored(dtype, foreign):
    logits = random_logits(1, 3, 4, N)
    labels = random_labels(1, 3, 4).astype(dtype)
    labels[0, 0, :2] = IGNORE
    expected, _ = loss_and_gradient[False](logits, labels)
    for label in foreign:
        labels[0, 0, 0] = label
        loss, gradient = loss_and_gradient[False](logits, labels)
        np.testing.assert_array_equal(loss, expected)
        assert not np.any(gradient[0, 0, 0])
    labels[0, 0, 0] = 0
    assert loss_and_gradient[False](logits, labels)[0] != expected


@CONFIGS
def test_gradient_equals_difference_quotient(config):
    logits, labels = random_logits(2, 2, 3, N), random_labels(2, 4, 6)
    _, gradient = loss_and_gradient[config.ohem](logits, labels)
    direction = random_logits(*logits.shape, seed=2).astype(np.float64)
    step = 1e-5
    ahead, behind = (
        loss_by_loop(logits + sign * step * direction, labels, config) for sign in (1, -1)
    )
    slope = (ahead - behind) / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-4)


@CONFIGS
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e4])
def test_loss_and_gradient_stay_finite(config, scale):
    for seed, ignored in itertools.product(range(3), (0.0, 0.5, 1.0)):
        logits = random_logits(2, 2, 3, N, seed=seed, scale=scale)
        labels = random_labels(2, 4, 6, seed=seed + 10, ignored=ignored)
        loss, gradient = loss_and_gradient[config.ohem](logits, labels)
        assert np.isfinite(loss) and np.isfinite(gradient).all()
        assert (loss > 0) == np.any(gradient) == (ignored < 1)
        np.testing.assert_allclose(loss, loss_by_loop(logits, labels, config), rtol=1e-5)


@CONFIGS
def test_nothing_labelled_is_zero(config):
    labels = np.full((2, 4, 6), IGNORE, np.uint8)
    loss, gradient = loss_and_gradient[config.ohem](random_logits(2, 2, 3, N), labels)
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros((2, 2, 3, N)))


@CONFIGS
def test_an_ignored_image_does_not_count(config):
    logits, labels = random_logits(2, 2, 3, N), random_labels(2, 4, 6)
    labels[1] = IGNORE
    loss, gradient = loss_and_gradient[config.ohem](logits, labels)
    np.testing.assert_allclose(loss, loss_by_loop(logits[:1], labels[:1], config), rtol=2e-6)
    assert np.any(gradient[0]) and not np.any(gradient[1])


@CONFIGS
def test_one_labelled_pixel_is_the_loss(config):
    logits, labels = random_logits(1, 1, 1, N), np.full((1, 1, 1), 2, np.uint8)
    loss, _ = loss_and_gradient[config.ohem](logits, labels)
    expected = np.log(np.exp(logits[0, 0, 0].astype(np.float64)).sum()) - logits[0, 0, 0, 2]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    # In a large image, too, and even if it is an easy one.
    logits, labels = random_logits(1, 2, 3, N), np.full((1, 4, 6), IGNORE, np.uint8)
    labels[0, 3, 1], logits[0, 1, :, 3] = 3, 9.0
    loss, gradient = loss_and_gradient[config.ohem](logits, labels)
    np.testing.assert_allclose(loss, loss_by_loop(logits, labels, PLAIN), atol=1e-6)
    assert 0 < loss < 0.3 and np.any(gradient)


def test_bfloat16_logits_are_promoted():
    labels = random_labels(2, 8, 12)
    logits = jnp.asarray(random_logits(2, 4, 6, N), jnp.bfloat16)
    loss, _ = loss_and_gradient[True](logits, labels)
    assert loss.dtype == jnp.float32
    # Not in bfloat16 at any point: that would be wrong from the third digit on.
    expected = loss_by_loop(np.asarray(logits, np.float32), labels, OHEM)
    np.testing.assert_allclose(loss, expected, rtol=2e-6)


@pytest.mark.parametrize("size", [(9, 16), (8, 17), (8, 12), (4, 16), (2, 3)])
def test_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match=r"whole multiple of logits of \(4, 8\)"):
        head_loss(random_logits(1, 4, 8, N), random_labels(1, *size), PLAIN)


STRIDES = (8, 4, 8, 16, 32)  # of the main head and the four boosters
HEADS = ("main", *BOOSTER_NAMES)


@pytest.fixture
def outputs() -> Outputs:
    main, *boosters = (
        random_logits(1, 32 // stride, 32 // stride, N, seed=index)
        for index, stride in enumerate(STRIDES)
    )
    return Outputs(main, tuple(boosters))


def config_of(weights: tuple[float, ...], *, ohem: bool = False) -> LossConfig:
    return LossConfig(main_weight=weights[0], booster_weights=weights[1:], ohem=ohem)


def test_total_is_the_weighted_sum(outputs):
    labels = random_labels(1, 32, 32)
    config = config_of((0.5, 1.0, 2.0, 0.25, 3.0), ohem=True)
    total, parts = jax.jit(partial(total_loss, config=config))(outputs, labels)
    assert set(parts) == set(HEADS)
    heads = (outputs.logits, *outputs.boosters)
    expected = [loss_by_loop(logits, labels, config) for logits in heads]
    np.testing.assert_allclose([parts[name] for name in HEADS], expected, rtol=2e-6)
    assert len({round(value, 6) for value in expected}) == len(HEADS)
    weighted = np.dot(expected, (config.main_weight, *config.booster_weights))
    np.testing.assert_allclose(total, weighted, rtol=2e-6)
    assert total.dtype == jnp.float32


def test_each_weight_counts_and_zero_leaves_a_head_out(outputs):
    labels = random_labels(1, 32, 32)

    @partial(jax.jit, static_argnums=range(5))
    def gradients(*weights):
        config = config_of(weights)
        return jax.grad(lambda outputs: total_loss(outputs, labels, config)[0])(outputs)

    everything = jax.tree.leaves(gradients(1, 1, 1, 1, 1))
    assert all(np.any(base) for base in everything)
    for index in range(5):
        # The others count twice.
        found = gradients(*(0 if head == index else 2 for head in range(5)))
        for head, (base, other) in enumerate(
            zip(everything, jax.tree.leaves(found), strict=True)
        ):
            np.testing.assert_allclose(other, base * 2 * (head != index), rtol=1e-5, atol=1e-9)


def test_outputs_without_boosters_are_refused(outputs):
    with pytest.raises(ValueError, match="shorter"):
        total_loss(Outputs(outputs.logits, ()), random_labels(1, 32, 32), PLAIN)


@CONFIGS
def test_two_devices_equal_one(config):
    logits, labels = random_logits(4, 2, 3, N), random_labels(4, 4, 6)
    logits[1:3] += 15 * (np.arange(N) == labels[1:3, ::2, ::2, None])
    labels[3] = IGNORE
    step = loss_and_gradient[config.ohem]
    loss, gradient = jax.block_until_ready(step(logits, labels))
    split = parallel.split_batch((logits, labels), parallel.make_mesh())
    assert len(split[0].sharding.device_set) == 2
    split_loss, split_gradient = jax.block_until_ready(step(*split))
    np.testing.assert_allclose(split_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(split_gradient, gradient, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(loss, loss_by_loop(logits, labels, config), rtol=2e-6)
