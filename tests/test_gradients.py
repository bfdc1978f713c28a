"""Gradients by other ways: in micro-batches, with activations made anew, with frozen norms."""

import functools
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bisenet_jax import parallel
from bisenet_jax.config import AugmentConfig, Config, LossConfig, TrainConfig
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.model.bisenetv2 import Outputs
from bisenet_jax.model.layers import LayerOptions, batch_norm
from bisenet_jax.model.presets import build_model
from bisenet_jax.training import gradients
from bisenet_jax.training.gradients import make_forward, make_gradients
from bisenet_jax.training.losses import HEADS
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.state import TrainState
from bisenet_jax.training.step import make_train_step

BATCH, SIZE, CLASSES = 4, 64, 5
NARROW = {
    "num_classes": CLASSES,
    "detail_channels": (8, 8, 16),
    "semantic_late_channels": (8, 16),
    "semantic_repeats": (1, 1, 1),
    "expansion": 2,
    "head_channels": 8,
    "booster_channels": (4, 4, 4, 4),
}
KEY = jax.random.key(3)
MINING = {"ohem_threshold": 0.2, "ohem_min_share": 0.3}
LOSSES = {
    "plain": LossConfig(),
    "mined and weighted": LossConfig(
        ohem=True,
        **MINING,
        class_weights=(3.0, 1.0, 0.1, 0.0, 2.0),
    ),
}


class Small(nn.Module):
    """One layer and five heads: the losses of the network, compiled in seconds."""

    num_classes: int = CLASSES
    frozen: bool = False

    @nn.compact
    def __call__(self, images, *, is_training: bool) -> Outputs:
        options = LayerOptions(frozen_batch_norm=self.frozen)
        x = nn.Conv(6, (8, 8), strides=(8, 8), use_bias=False, name="conv")(images)
        x = nn.relu(batch_norm(is_training=is_training, options=options, name="bn")(x))
        logits = [nn.Dense(self.num_classes, name=f"head_{i}")(x) for i in range(5)]
        return Outputs(logits[0], tuple(logits[1:]))


@functools.cache
def compiled(model, ohem, class_weights, micro_batches):
    loss = LossConfig(ohem=ohem, **MINING, class_weights=class_weights)
    train = TrainConfig(batch_size=BATCH, micro_batches=micro_batches)
    return jax.jit(make_gradients(model, Config(loss=loss, train=train)))


def gradients_of(model, loss, variables, examples, micro_batches=1):
    function = compiled(model, loss.ohem, loss.class_weights, micro_batches)
    return jax.device_get(function(variables, *examples, KEY))


def drawn_variables(model):
    """Random numbers, statistics included."""
    images = np.zeros((1, SIZE, SIZE, 3), "f4")
    shapes = jax.eval_shape(functools.partial(model.init, is_training=True), KEY, images)
    random = np.random.default_rng(0)

    def draw(leaf):
        if len(leaf.shape) > 1:
            deviation = np.prod(leaf.shape[:-1]) ** -0.5
            return random.normal(0, deviation, leaf.shape).astype("f4")
        return random.uniform(0.5, 1.5, leaf.shape).astype("f4")

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def variables():
    return drawn_variables(Small())


@pytest.fixture(scope="module")
def examples() -> tuple[np.ndarray, np.ndarray]:
    """Images of unlike brightness, and of unlike shares of ignored pixels."""
    random = np.random.default_rng(1)
    scale = np.arange(1, BATCH + 1).reshape(-1, 1, 1, 1) / 2
    images = (random.normal(0.3, 1, (BATCH, SIZE, SIZE, 3)) * scale).astype("f4")
    labels = random.integers(0, CLASSES, (BATCH, SIZE, SIZE), dtype=np.uint8)
    labels[0, 4:] = IGNORE
    labels[1, :30] = IGNORE
    return images, labels


def distance(one, other) -> float:
    """The norm of the difference of two trees, relative to that of the second."""
    difference = jax.tree.map(np.subtract, one, other)
    return float(optax.tree.norm(difference) / optax.tree.norm(other))


def model_of(**fields):
    return build_model(**(NARROW | fields))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_micro_batches_equal_the_batch(loss, variables, examples):
    # Frozen norms: a batch's own statistics are the one thing that parts cannot share.
    model = Small(frozen=True)
    whole = gradients_of(model, loss, variables, examples)
    parts = gradients_of(model, loss, variables, examples, micro_batches=2)
    assert distance(parts[0], whole[0]) < 1e-5
    jax.tree.map(np.testing.assert_array_equal, parts[1], whole[1])
    for name, value in whole[2].items():
        np.testing.assert_allclose(parts[2][name], value, rtol=1e-5)
    # The mean over images, each divided by its own pixels, is something else.
    singles = [
        gradients_of(model, loss, variables, [array[i : i + 1] for array in examples])[0]
        for i in range(BATCH)
    ]
    assert (
        distance(jax.tree.map(lambda *leaves: sum(leaves) / BATCH, *singles), whole[0]) > 0.05
    )


def test_micro_batches_have_statistics_of_their_own(variables, examples):
    whole = gradients_of(Small(), LossConfig(), variables, examples)
    parts = gradients_of(Small(), LossConfig(), variables, examples, micro_batches=2)
    assert distance(parts[0], whole[0]) > 0.01
    # The running ones move once a step: to the mean of what each part makes of the old ones.
    expected = [
        gradients_of(Small(), LossConfig(), variables, [array[i::2] for array in examples])[1]
        for i in range(2)
    ]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 2, *expected)
    assert distance(parts[1], expected) < 1e-6
    # So of the first layer the means are those of the whole batch; the variances are not.
    first, whole_first = (tree["bn"] for tree in (parts[1], whole[1]))
    np.testing.assert_allclose(first["mean"], whole_first["mean"], rtol=1e-5, atol=1e-6)
    assert np.abs(first["var"] / whole_first["var"] - 1).max() > 1e-4


def test_each_micro_batch_draws_its_own_dropout(examples, monkeypatch):
    def apply(variables, images, *, rngs, **_):
        drawn = jax.random.uniform(rngs["dropout"])
        return variables["params"] * drawn, {"batch_stats": variables["batch_stats"]}

    def total_loss(outputs, *_):
        return outputs, dict.fromkeys(HEADS, outputs)

    monkeypatch.setattr(gradients, "total_loss", total_loss)
    model = SimpleNamespace(apply=apply, num_classes=CLASSES)
    variables = {"params": jnp.float32(1), "batch_stats": jnp.float32(0)}
    sums = [
        float(make_gradients(model, Config(train=train))(variables, *examples, KEY)[0])
        for train in (TrainConfig(batch_size=BATCH, micro_batches=n) for n in (2, 4))
    ]
    expected = [sum(map(jax.random.uniform, jax.random.split(KEY, n))) for n in (2, 4)]
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


def test_no_image_moves_between_devices():
    mesh = parallel.make_mesh(jax.devices()[:2])
    config = Config(
        augment=AugmentConfig(SIZE, SIZE), train=TrainConfig(batch_size=4, micro_batches=2)
    )
    model, optimizer = Small(), make_optimizer(config.optimizer, 10)
    step = parallel.compile_train_step(make_train_step(model, optimizer, config), mesh)
    variables = drawn_variables(model)
    state = TrainState(np.int32(0), **variables, opt_state=optimizer.init(variables["params"]))
    batch = {
        "image": jax.ShapeDtypeStruct((4, SIZE, SIZE, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((4, SIZE, SIZE), np.uint8),
        "size": jax.ShapeDtypeStruct((4, 2), np.int32),
    }
    program = step.lower(state, batch).compile().as_text()
    assert "all-reduce" in program
    for exchange in ("all-to-all", "all-gather", "collective-permute"):
        assert exchange not in program


def test_remat_keeps_less(examples):
    images, sizes = examples[0], []
    variables = drawn_variables(model_of())
    for remat in (False, True):
        forward = make_forward(model_of(), remat=remat)
        # What the backward pass finds is what the function that makes it holds.
        _, backward = jax.eval_shape(
            lambda forward=forward: jax.vjp(lambda v: forward(v, images, KEY), variables)
        )
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(backward)))
    assert sizes[1] < 0.6 * sizes[0]


def test_remat_makes_no_dense_convolution_anew(examples):
    variables, images = drawn_variables(model_of()), examples[0]

    def convolutions(remat: bool) -> int:
        forward = make_forward(model_of(), remat=remat)

        def total(variables):
            outputs, _ = forward(variables, images, KEY)
            return sum(logits.sum() for logits in jax.tree.leaves(outputs))

        return str(jax.make_jaxpr(jax.grad(total))(variables)).count("conv_general_dilated[")

    assert convolutions(True) == convolutions(False) > 50


def test_remat_changes_no_number(variables, examples):
    arguments = (variables, *examples, KEY)
    kept, remade = (
        make_gradients(Small(), Config(train=TrainConfig(batch_size=BATCH, remat=remat)))
        for remat in (False, True)
    )
    for one, other in zip(jax.jit(kept)(*arguments), jax.jit(remade)(*arguments), strict=True):
        assert distance(one, other) < 1e-6
    programs = [str(jax.make_jaxpr(function)(*arguments)) for function in (kept, remade)]
    assert ["_is_convolution" in program for program in programs] == [False, True]


def test_frozen_norms_use_the_running_statistics_and_leave_them(examples):
    images, model = examples[0], model_of(frozen_batch_norm=True)
    variables = drawn_variables(model)

    @functools.partial(jax.jit, static_argnums=0)
    def forward(model, variables):
        return model.apply(variables, images, is_training=True, mutable=["batch_stats"])

    frozen, free = forward(model, variables), forward(model_of(), variables)
    jax.tree.map(
        np.testing.assert_array_equal, frozen[1], {"batch_stats": variables["batch_stats"]}
    )
    assert all(
        np.abs(new - old).max() > 0
        for new, old in zip(
            jax.tree.leaves(free[1]["batch_stats"]),
            jax.tree.leaves(variables["batch_stats"]),
            strict=True,
        )
    )
    # What the network then computes is what it computes in use.
    logits = jax.jit(functools.partial(model_of().apply, is_training=False))(variables, images)
    np.testing.assert_allclose(frozen[0].logits, logits.logits, rtol=1e-4, atol=1e-4)
    assert np.abs(free[0].logits - logits.logits).max() > 0.1


def test_scales_and_biases_of_frozen_norms_still_learn(variables, examples):
    gradients, _, _ = gradients_of(Small(frozen=True), LossConfig(), variables, examples)
    assert np.any(gradients["bn"]["scale"]) and np.any(gradients["bn"]["bias"])
