"""The paper's optimiser: SGD with momentum, polynomial schedule, decay of kernels only."""

from typing import Any

import jax
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
    decay = optax.polynomial_schedule(
        init_value=config.learning_rate,
        end_value=0.0,
        power=config.poly_power,
        transition_steps=max(total_steps - config.warmup_steps, 1),
    )
    if config.warmup_steps == 0:
        return decay
    warmup = optax.linear_schedule(
        config.learning_rate * config.warmup_start, config.learning_rate, config.warmup_steps
    )
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def decays(params: PyTree) -> PyTree:
    """Whether weight decay acts on each leaf: on convolution kernels, not on biases, norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == "kernel", params
    )
