"""Losses against float64 loops and a real sort; the oracles share nothing with the code."""

import itertools
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import hard_pixels
from benchmarks.timing import Budget
from bisenet_jax import parallel
from bisenet_jax.config import LossConfig
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.errors import ConfigError
from bisenet_jax.model.bisenetv2 import BOOSTER_NAMES, Outputs
from bisenet_jax.resize import upsample
from bisenet_jax.training.cross_entropy import pixel_losses
from bisenet_jax.training.losses import (
    check_class_weights,
    hard_pixel_weights,
    head_loss,
    kth_largest,
    total_loss,
)

N = 4
PLAIN = LossConfig()
OHEM = LossConfig(ohem=True)
CONFIGS = pytest.mark.parametrize("config", [PLAIN, OHEM], ids=["plain", "ohem"])

compiled_weights = jax.jit(hard_pixel_weights, static_argnums=(2, 3))
compiled_kth = jax.jit(kth_largest)
loss_and_gradient = {
    config.ohem: jax.jit(jax.value_and_grad(partial(head_loss, config=config)))
    for config in (PLAIN, OHEM)
}


def random_logits(*shape: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def random_labels(*shape: int, seed: int = 1, ignored: float = 0.2) -> np.ndarray:
    random = np.random.default_rng(seed)
    labels = random.integers(0, N, shape, dtype=np.uint8)
    labels[random.random(shape) < ignored] = IGNORE
    return labels


def enlarge(logits: np.ndarray, factor: int) -> np.ndarray:
    """Half-pixel bilinear by a loop over output rows, then over columns."""
    for axis in (1, 2):
        size, lines = logits.shape[axis], []
        for output in range(size * factor):
            source = (output + 0.5) / factor - 0.5
            low = math.floor(source)
            near, far = (np.take(logits, np.clip(i, 0, size - 1), axis) for i in (low, low + 1))
            lines.append(near * (1 - (source - low)) + far * (source - low))
        logits = np.stack(lines, axis)
    return logits


def losses_by_loop(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = enlarge(logits.astype(np.float64), labels.shape[1] // logits.shape[1])
    losses, is_labelled = np.zeros(labels.shape), np.zeros(labels.shape, bool)
    for pixel in np.ndindex(*labels.shape):
        label, scores = int(labels[pixel]), logits[pixel]
        if 0 <= label < len(scores):
            losses[pixel] = np.log(np.exp(scores - scores.max()).sum()) + scores.max()
            losses[pixel] -= scores[label]
            is_labelled[pixel] = True
    return losses, is_labelled


def weights_by_sort(
    losses: np.ndarray, is_labelled: np.ndarray, threshold: float, min_share: float
) -> np.ndarray:
    weights = np.zeros(losses.shape)
    for image, (loss, labelled) in enumerate(zip(losses, is_labelled, strict=True)):
        count = int(labelled.sum())
        least = min(max(math.floor(count * min_share), 1), count)
        hard = labelled & (loss > (-math.log(threshold) if threshold else math.inf))
        if hard.sum() >= least:
            weights[image] = hard
        else:
            # Rounding makes a loss of zero negative at times.
            size = np.abs(loss)
            border = np.sort(size[labelled])[::-1][least - 1]
            above, equal = labelled & (size > border), labelled & (size == border)
            weights[image] = above + equal * (least - above.sum()) / equal.sum()
    return weights


def loss_by_loop(logits: np.ndarray, labels: np.ndarray, config: LossConfig) -> float:
    losses, weights = losses_by_loop(logits, labels)
    if config.ohem:
        weights = weights_by_sort(losses, weights, config.ohem_threshold, config.ohem_min_share)
    total, count = 0.0, 0.0
    for pixel in np.argwhere(weights):
        weight = weights[tuple(pixel)]
        if config.class_weights:
            weight = weight * config.class_weights[labels[tuple(pixel)]]
        total, count = total + weight * losses[tuple(pixel)], count + weight
    return total / count if count else 0.0


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


def image_of_losses(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Losses `[6, 8]` of one image and where they count; a threshold of 0.7 is 0.357."""
    random = np.random.default_rng(3)
    losses = random.uniform(0.0, 0.3, (6, 8)).astype(np.float32)
    is_labelled = np.ones((6, 8), bool)
    if case == "many hard":
        losses[1:4] += 1
    elif case == "few hard":
        losses[0, 0], losses[5, 7] = 2, 1
    elif case == "ties at the border":
        losses[0, 0], losses[1, :5] = 2, 0.35
    elif case == "all equal":
        losses[:] = 0.25
    elif case == "all zero":
        losses[:] = 0
    elif case == "rounded below zero":
        losses[:] = 0
        losses[2] = -6e-8
    elif case == "all ignored":
        is_labelled[:] = False
    elif case == "one pixel":
        is_labelled[:] = False
        is_labelled[2, 3] = True
    elif case == "all zero or ignored":
        losses[:] = 0
        is_labelled[::2] = False
    elif case == "half ignored":
        is_labelled[3:] = False
        losses[3:] = 0
    return np.where(is_labelled, losses, 0), is_labelled


CASES = (
    *("many hard", "few hard", "all easy", "ties at the border", "all equal", "all zero"),
    *("all zero or ignored", "rounded below zero", "all ignored", "one pixel", "half ignored"),
)


@pytest.mark.parametrize(
    ("threshold", "min_share"),
    [(0.7, 1 / 16), (0.7, 0.3), (0.7, 0), (0.7, 1), (0, 0.1), (1, 0)],
)
def test_mining_equals_sort(threshold, min_share):
    images = [image_of_losses(case) for case in CASES]
    losses, is_labelled = (np.stack(arrays) for arrays in zip(*images, strict=True))
    weights = np.asarray(compiled_weights(losses, is_labelled, threshold, min_share))
    expected = weights_by_sort(losses, is_labelled, threshold, min_share)
    np.testing.assert_allclose(weights, expected, atol=1e-6, err_msg=str(CASES))
    assert weights.dtype == np.float32
    assert not weights[~is_labelled].any()
    if (threshold, min_share) == (0.7, 1 / 16):
        # By hand: 48 pixels, so that at least 3 count; of five equal ones each 2/5.
        counts = dict(zip(CASES, weights.sum(axis=(1, 2)), strict=True))
        assert counts == pytest.approx(
            {case: 3 for case in CASES}
            | {"many hard": 24, "all ignored": 0, "one pixel": 1}
            | {"half ignored": 1, "all zero or ignored": 1}
        )
        tied = weights[CASES.index("ties at the border")]
        np.testing.assert_allclose(tied[1, :5], 0.4, rtol=1e-6)
        assert tied[0, 0] == 1


def test_weights_of_an_image_depend_on_no_other():
    together = [image_of_losses(case) for case in CASES]
    losses, is_labelled = (np.stack(arrays) for arrays in zip(*together, strict=True))
    weights = compiled_weights(losses, is_labelled, 0.7, 0.1)
    for image in range(len(CASES)):
        alone = compiled_weights(
            losses[image : image + 1], is_labelled[image : image + 1], 0.7, 0.1
        )
        np.testing.assert_array_equal(alone[0], weights[image])


def test_mining_options_change_the_loss():
    labels = random_labels(2, 4, 6)
    logits = random_logits(2, 4, 6, N) + 6 * (np.arange(N) == labels[..., None])
    configs = (
        PLAIN,
        replace(OHEM, ohem_min_share=0.9),
        OHEM,
        replace(OHEM, ohem_threshold=0.1),
    )
    losses = [
        float(jax.jit(partial(head_loss, config=config))(logits.astype(np.float32), labels))
        for config in configs
    ]
    assert sorted(set(losses)) == losses, losses


@pytest.mark.parametrize("seed", range(8))
def test_kth_largest_equals_sort(seed):
    random = np.random.default_rng(seed)
    rows = np.stack(
        [
            random.uniform(0, 1, 57),
            random.integers(0, 4, 57),  # duplicates
            np.zeros(57),
            random.integers(1, 1000, 57) * 1e-45,  # denormals
            10.0 ** random.uniform(-45, 38, 57),
            random.uniform(0, 2 ** random.integers(100), 57),
            np.where(random.random(57) < 0.5, np.inf, 1.0),
            random.exponential(1, 57),
        ]
    ).astype(np.float32)
    for k in (np.ones(8), np.full(8, 57), random.integers(1, 58, 8)):
        expected = -np.sort(-rows)[np.arange(8), k.astype(int) - 1]
        found = np.asarray(compiled_kth(rows, k.astype(np.int32)))
        np.testing.assert_array_equal(found.view(np.int32), np.abs(expected).view(np.int32))


def test_kth_largest_leaves_marked_pixels_out():
    values = np.array([[-1, 3, -1, 0, 2], [-1, -1, -1, -1, 7]], np.float32)
    np.testing.assert_array_equal(compiled_kth(values, np.array([3, 1], np.int32)), [0, 7])


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

    @jax.jit
    def gradients(weights):
        config = config_of(tuple(weights))
        return jax.grad(lambda outputs: total_loss(outputs, labels, config)[0])(outputs)

    everything = gradients(jnp.ones(5))
    for index in range(5):
        without = gradients(jnp.ones(5).at[index].set(0))
        twice = gradients(jnp.ones(5).at[index].set(2))
        for head, (base, none, double) in enumerate(
            zip(*map(jax.tree.leaves, (everything, without, twice)), strict=True)
        ):
            assert np.any(base)
            np.testing.assert_allclose(none, base * (head != index), rtol=1e-5, atol=1e-9)
            np.testing.assert_allclose(
                double, base * (1 + (head == index)), rtol=1e-5, atol=1e-9
            )


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


def test_forms_of_the_kth_largest_are_timed_where_they_agree(monkeypatch):
    monkeypatch.setattr(hard_pixels, "BUDGET", Budget(calls=1, seconds=0.1))
    row = hard_pixels.measure_shape((2, 64))
    assert row["ratio"]["bisection"] == 1 and row["milliseconds"]["sort"] > 0
    wrong = {"bisection": kth_largest, "smallest": lambda values, k: values.min(axis=1)}
    monkeypatch.setattr(hard_pixels, "FORMS", wrong)
    with pytest.raises(ValueError, match="bisection, smallest differ at"):
        hard_pixels.measure_shape((2, 64))
