"""One training step as a pure function; it knows nothing of devices."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bisenet_jax.config import Config
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.normalization import Normalization
from bisenet_jax.training.augment import augment
from bisenet_jax.training.finite import keep_unless_finite
from bisenet_jax.training.gradients import make_gradients
from bisenet_jax.training.losses import check_class_weights
from bisenet_jax.training.optimizer import make_schedule, move_ema
from bisenet_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def make_train_step(
    model: BiSeNetV2, optimizer: optax.GradientTransformation, config: Config
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The function `(state, batch) -> (state, metrics)`.

    A batch is `image: [B, H, W, 3] uint8`, `label: [B, H, W] uint8` and `size: [B, 2] int32`,
    whole frames on their canvas; every random choice is a function of (seed, step). Metrics are
    those of `make_update`.
    """
    normalization = Normalization(config.data.mean, config.data.std)
    update = make_update(model, optimizer, config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
        augment_key, dropout_key = jax.random.split(key)
        images, labels = augment(
            augment_key,
            batch["image"],
            batch["label"],
            batch["size"],
            config.augment,
            normalization,
        )
        return update(state, images, labels, dropout_key)

    return train_step


def make_update(
    model: BiSeNetV2, optimizer: optax.GradientTransformation, config: Config
) -> Callable[[TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """A step after augmentation: `(state, images, labels, dropout_key) -> (state, metrics)`.

    Takes normalised crops `[B, H, W, 3] float32` and their labels `[B, H, W]`. Metrics are
    float32 scalars: `loss`, its part of each head, `learning_rate`, `gradient_norm` (before
    clipping), and with `max_skipped_steps` how many `skipped_steps` there were so far.
    """
    check_class_weights(config.loss, model.num_classes)
    schedule = make_schedule(config.optimizer, config.train.steps)
    gradients_of = make_gradients(model, config)

    def update(
        state: TrainState, images: jax.Array, labels: jax.Array, dropout_key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        gradients, batch_stats, losses = gradients_of(
            state.variables, images, labels, dropout_key
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {
            **losses,
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "gradient_norm": optax.tree.norm(gradients),
        }
        old = state
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=state.ema,
            skipped=state.skipped,
        )
        if config.optimizer.ema_decay:
            ema = move_ema(state.ema, state.variables, state.step, config.optimizer.ema_decay)
            state = dataclasses.replace(state, ema=ema)
        if config.train.max_skipped_steps:
            state = keep_unless_finite(old, state, metrics)
            metrics["skipped_steps"] = jnp.asarray(state.skipped, jnp.float32)
        return state, metrics

    return update
