"""Numbers that are none: found before they are saved, and told with all that helps."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bisenet_jax.errors import TrainingError
from bisenet_jax.training.state import TrainState

PyTree = Any

_CURE = (
    "Lower config.optimizer.learning_rate, lengthen config.optimizer.warmup_steps, set "
    "config.optimizer.clip_norm"
)


def is_finite(values: Mapping[str, float]) -> bool:
    """Whether all of a step's numbers are numbers."""
    return all(map(math.isfinite, values.values()))


def describe(step: int, values: Mapping[str, float], names: list[str]) -> str:
    """What is not finite in a step, what else it was, and on which images."""
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return (
        f"step {step} is no longer finite: {', '.join(broken)} ({parts}) on the images "
        f"{', '.join(names)}"
    )


def require_finite(
    step: int, values: Mapping[str, float], names: list[str], last_good: int | None
) -> None:
    """Raise a TrainingError for a step whose numbers are none."""
    if not is_finite(values):
        raise TrainingError(
            f"{describe(step, values, names)}; {_kept(last_good)}. {_CURE}, let "
            "config.train.max_skipped_steps leave out such steps, or look at these images"
        )


def require_finite_state(step: int, state: TrainState, last_good: int | None) -> None:
    """Raise a TrainingError for a state that must be neither scored nor saved."""
    broken = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, good in jax.tree_util.tree_flatten_with_path(_are_finite(state))[0]
        if not good
    ]
    if broken:
        raise TrainingError(
            f"after step {step} the state is no longer finite: {broken[0]} and "
            f"{len(broken) - 1} more arrays; it is not saved; {_kept(last_good)}. {_CURE}"
        )


def keep_unless_finite(
    old: TrainState, new: TrainState, metrics: Mapping[str, jax.Array]
) -> TrainState:
    """The new state, or, where a metric is not finite, the old one and one more skip.

    Integers, which count steps, are always the new ones: the schedule goes on.
    """
    is_good = jnp.stack([jnp.isfinite(value) for value in metrics.values()]).all()

    def choose(before: jax.Array, after: jax.Array) -> jax.Array:
        if jnp.issubdtype(after.dtype, jnp.integer):
            return after
        return jnp.where(is_good, after, before)

    kept = jax.tree.map(choose, old, new)
    return kept.replace(skipped=jnp.asarray(old.skipped) + jnp.where(is_good, 0, 1))


@jax.jit
def _are_finite(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)


def _kept(last_good: int | None) -> str:
    return (
        "no checkpoint yet" if last_good is None else f"last good checkpoint: step {last_good}"
    )
