"""One training step as a pure function; it knows nothing of devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bisenet_jax.config import Config
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.normalization import Normalization
from bisenet_jax.training.augment import augment
from bisenet_jax.training.losses import check_class_weights, total_loss
from bisenet_jax.training.optimizer import make_schedule
from bisenet_jax.training.state import TrainState

PyTree = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def make_train_step(
    model: BiSeNetV2, optimizer: optax.GradientTransformation, config: Config
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The function `(state, batch) -> (state, metrics)`.

    A batch is `image: [B, H, W, 3] uint8`, `label: [B, H, W] uint8` and `size: [B, 2] int32`,
    whole frames on their canvas; every random choice is a function of (seed, step). Metrics are
    float32 scalars: `loss`, its part of each head, `learning_rate`, `gradient_norm`.
    """
    check_class_weights(config.loss, model.num_classes)
    schedule = make_schedule(config.optimizer, config.train.steps)
    normalization = Normalization(config.data.mean, config.data.std)

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

        def loss_of(params: PyTree) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
            outputs, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                is_training=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            loss, parts = total_loss(outputs, labels, config.loss)
            return loss, (updates["batch_stats"], parts)

        (loss, (batch_stats, parts)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            **{f"loss_{name}": part for name, part in parts.items()},
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "gradient_norm": optax.tree.norm(gradients),
        }
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return train_step
