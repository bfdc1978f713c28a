"""The step with a network that only looks: what it is given, and in which dtype."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bisenet_jax.config import AugmentConfig, Config, LossConfig, ModelConfig, TrainConfig
from bisenet_jax.errors import ConfigError
from bisenet_jax.model.presets import build_model
from bisenet_jax.training import gradients, step
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.state import TrainState, create_state

WIDTH = 2048


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    """A frame of 64 x 2048 on a larger canvas; its label is the column's number in disguise."""
    columns = np.broadcast_to(np.arange(WIDTH) % 251, (1, 64, WIDTH)).astype(np.uint8)
    labels = np.pad(columns, ((0, 0), (0, 32), (0, 64)), constant_values=252)
    images = np.stack([labels, labels, labels], axis=-1)
    return {"image": images, "label": labels, "size": np.array([[64, WIDTH]], np.int32)}


def seen(config: Config, batch, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    """The images that the network gets in one step, and the labels of its loss."""

    def apply(variables, images, **_):
        return (variables["params"], images), {"batch_stats": {}}

    def total_loss(outputs, labels, *_):
        params, images = outputs
        return params.sum(), {"images": images, "labels": labels}

    monkeypatch.setattr(gradients, "total_loss", total_loss)
    model = SimpleNamespace(apply=apply, num_classes=19)
    optimizer = optax.sgd(0.1)
    params = jnp.ones(3)
    state = TrainState(jnp.int32(3), params, {}, optimizer.init(params))
    _, metrics = jax.jit(step.make_train_step(model, optimizer, config))(state, batch)
    return np.asarray(metrics["loss_images"]), np.asarray(metrics["loss_labels"])


@pytest.mark.parametrize("shrink", [1, 2])
def test_bfloat16_moves_no_pixel(shrink, batch, monkeypatch):
    augment = AugmentConfig(64, WIDTH, scales=(1.0,), shrink=shrink, flip_probability=0.0)
    config = Config(augment=augment)
    single = seen(config, batch, monkeypatch)
    half = seen(
        dataclasses.replace(config, model=ModelConfig(dtype="bfloat16")), batch, monkeypatch
    )
    for one, other in zip(single, half, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    # Each column is the right one; bfloat16 could not name two thirds of them.
    columns = np.arange(shrink // 2, WIDTH, shrink)
    np.testing.assert_array_equal(half[1], np.tile(columns % 251, (1, 64 // shrink, 1)))
    if shrink == 1:
        mean, std = np.array(config.data.mean), np.array(config.data.std)
        expected = (columns[:, None] % 251 / 255 - mean) / std
        np.testing.assert_allclose(half[0][0, 5], expected, atol=1e-5)
    rounded = np.asarray(jnp.asarray(columns, jnp.bfloat16), np.float32)
    assert (rounded != columns).mean() > 0.6


def test_step_and_seed_decide_the_view(batch, monkeypatch):
    config = Config(augment=AugmentConfig(32, 64))
    first, again = (seen(config, batch, monkeypatch) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    other = seen(dataclasses.replace(config, train=TrainConfig(seed=1)), batch, monkeypatch)
    assert not np.array_equal(first[0], other[0])


def test_what_is_float32_under_bfloat16_activations(tiny_config):
    tiny_config.model.dtype = "bfloat16"
    tiny_config.optimizer.ema_decay, tiny_config.optimizer.clip_norm = 0.9, 1.0
    tiny_config.train.micro_batches, tiny_config.loss.ohem = 2, True
    model = build_model(**dataclasses.asdict(tiny_config.model))
    optimizer = make_optimizer(tiny_config.optimizer, 10)
    train_step = step.make_train_step(model, optimizer, tiny_config)
    state = jax.eval_shape(lambda: create_state(model, optimizer, seed=0, with_ema=True))
    batch = {
        "image": jax.ShapeDtypeStruct((4, 64, 64, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((4, 64, 64), np.uint8),
        "size": jax.ShapeDtypeStruct((4, 2), np.int32),
    }
    after, metrics = jax.eval_shape(train_step, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for name in ("params", "batch_stats", "ema"):
        assert {leaf.dtype for leaf in jax.tree.leaves(getattr(after, name))} == {
            jnp.dtype("float32")
        }
    # Of the optimiser: momentum, and how many steps were made.
    kinds = {leaf.dtype for leaf in jax.tree.leaves(after.opt_state)}
    assert kinds == {jnp.dtype("float32"), jnp.dtype("int32")}
    assert {leaf.dtype for leaf in metrics.values()} == {jnp.dtype("float32")}

    # Activations are bfloat16, logits float32 again.
    images = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
    rngs = {"dropout": jax.random.key(0)}
    outputs, captured = jax.eval_shape(
        lambda variables, images: model.apply(
            variables,
            images,
            is_training=True,
            rngs=rngs,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
        ),
        state.variables,
        images,
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}
    inside = captured["intermediates"]
    for branch in ("detail_branch", "semantic_branch", "aggregation"):
        kinds = {leaf.dtype for leaf in jax.tree.leaves(inside[branch])}
        assert kinds == {jnp.dtype("bfloat16")}
    running = jax.tree.leaves(captured["batch_stats"])
    assert {leaf.dtype for leaf in running} == {jnp.dtype("float32")}


def test_class_weights_must_fit_the_network():
    config = Config(loss=LossConfig(class_weights=(1.0, 2.0)))
    with pytest.raises(ConfigError, match="2 weights for 19 classes"):
        step.make_train_step(build_model(), optax.sgd(0.1), config)
    model = build_model(num_classes=2)
    assert callable(step.make_train_step(model, optax.sgd(0.1), config))


def test_the_size_of_a_frame_is_used(batch, monkeypatch):
    config = Config(augment=AugmentConfig(96, WIDTH + 64, scales=(1.0,)))
    _, labels = seen(config, batch, monkeypatch)
    assert not (labels == 252).any()
    canvas = batch | {"size": np.array([[96, WIDTH + 64]], np.int32)}
    _, labels = seen(config, canvas, monkeypatch)
    assert (labels == 252).any()
