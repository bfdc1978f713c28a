"""The paper's optimiser: SGD with momentum, polynomial schedule, decay of kernels only."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bisenet_jax.config import OptimizerConfig

PyTree = Any


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Decay joins the gradient before the momentum, as in PyTorch's SGD."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=decays),
        optax.sgd(make_schedule(config, total_steps), momentum=config.momentum),
    )


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Linear warm-up, then `learning_rate * (1 - progress) ** poly_power` down to zero."""
    decay_steps = max(total_steps - config.warmup_steps, 1)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        climb = (1 - config.warmup_start) * step / max(config.warmup_steps, 1)
        # Counted down in integers: 1 - progress can round below zero, whose power is nan.
        left = jnp.clip(total_steps - step, 0, decay_steps) / decay_steps
        factor = jnp.where(
            step < config.warmup_steps, config.warmup_start + climb, left**config.poly_power
        )
        return config.learning_rate * factor

    return schedule


def decays(params: PyTree) -> PyTree:
    """Whether weight decay acts on each leaf: on convolution kernels, not on biases, norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == "kernel", params
    )
