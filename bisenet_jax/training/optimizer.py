"""The paper's optimiser: SGD with momentum, polynomial schedule, decay of kernels only.

As options, Muon in its place, clipping of the gradient and a moving average of the network.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from bisenet_jax.config import OptimizerConfig

PyTree = Any

# Of Muon's learning rate, for scales and biases. With the whole of it, hundreds of channels are
# shut for good by their biases; the first value that opens one again, where a picture is new,
# is divided by a variance of zero and floods the layers behind.
NORM_SHARE = 0.1


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Decay joins SGD's gradient before the momentum, as in PyTorch, and Muon's step after it.

    What is clipped is the gradient of the loss alone, as by PyTorch's `clip_grad_norm_`.
    """
    schedule = make_schedule(config, total_steps)
    clipping = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if config.method == "muon":
        return optax.chain(*clipping, _make_muon(config, schedule))
    return optax.chain(
        *clipping,
        optax.add_decayed_weights(config.weight_decay, mask=decays),
        optax.sgd(schedule, momentum=config.momentum),
    )


def _make_muon(
    config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for the matrices inside the network, Adam for the rest.

    Updates of both have the root mean square that Adam's have (arXiv 2502.16982), so that one
    learning rate serves both; a fifth to a tenth of SGD's is about right. Only Muon's kernels
    decay, by `learning_rate * weight_decay` of themselves a step: 5e-4 is next to nothing.
    """
    updates = muon(
        schedule,
        beta=config.momentum,
        weight_decay=config.weight_decay,
        adam_b1=config.momentum,
        adam_b2=0.99,  # runs are short
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=0.2,
    )
    return optax.chain(updates, optax.masked(optax.scale(NORM_SHARE), _are_norms))


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Linear warm-up, then `learning_rate * (1 - progress) ** poly_power` down to zero.

    A run that is shorter than its warm-up, such as a first try, only climbs.
    """
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


def move_ema(ema: PyTree, variables: PyTree, step: jax.Array, decay: float) -> PyTree:
    """The exponential moving average after a step, numbered from 1, in float32.

    Batch statistics are averaged like parameters: they describe the activations of the
    parameters that they were taken with, and an average of networks has not the newest ones.
    It moves faster at first, by a decay of `(1 + step) / (10 + step)`, so that the random start
    is soon forgotten.
    """
    share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: old + (new - old) * share, ema, variables)


def decays(params: PyTree) -> PyTree:
    """Whether weight decay acts on each leaf: on convolution kernels, not on biases, norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == "kernel", params
    )


def _matrices(params: PyTree) -> PyTree:
    """How Muon reads a kernel as a matrix from taps and channels to outputs; None: not at all.

    A depth-wise kernel is no matrix. Heads are left to Adam, as is the custom for last layers;
    orthogonalising the widest booster, too, would cost four times all the rest.
    """

    def matrix(path: tuple[Any, ...], param: jax.Array) -> MuonDimensionNumbers | None:
        top = jax.tree_util.keystr(path[:1], simple=True)
        if param.ndim < 4 or param.shape[2] == 1 or top.startswith(("head", "booster")):
            return None
        return MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)

    return jax.tree_util.tree_map_with_path(matrix, params)


def _are_norms(params: PyTree) -> PyTree:
    """Whether each leaf is a scale or a bias."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key in ("scale", "bias"), params
    )
