"""All that training changes from step to step, as one value."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from bisenet_jax.config import Config
from bisenet_jax.model.bisenetv2 import STRIDE, BiSeNetV2
from bisenet_jax.model.initialization import initialize
from bisenet_jax.training.optimizer import make_optimizer

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """A checkpoint holds this and nothing else; random keys follow from seed and step.

    Attributes:
        step: how many steps were made, `int32`.
        params: trained parameters, float32.
        batch_stats: running mean and variance of every batch norm, float32.
        opt_state: of the optimiser.
        ema: exponential moving average of `variables`, float32, or None where it is off.
        skipped: how many steps changed nothing, their numbers being none, `int32`, or None
            where they stop the run.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema: PyTree = None
    skipped: jax.Array | None = None

    @property
    def variables(self) -> PyTree:
        """What `BiSeNetV2.apply` takes, as trained last."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def result(self) -> PyTree:
        """The variables that are scored and exported: the average where there is one."""
        return self.variables if self.ema is None else self.ema

    def with_variables(self, variables: PyTree) -> "TrainState":
        """This state with other variables, from which the average starts anew."""
        ema = None if self.ema is None else _copy(variables)
        return dataclasses.replace(self, **variables, ema=ema)


def create_state(
    model: BiSeNetV2,
    optimizer: optax.GradientTransformation,
    seed: int,
    *,
    with_ema: bool = False,
    counts_skips: bool = False,
) -> TrainState:
    """The state at step 0, boosters included; a pure function of its arguments."""
    images = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), jnp.float32)
    variables = initialize(model, jax.random.key(seed), images)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        ema=_copy(variables) if with_ema else None,
        skipped=jnp.zeros((), jnp.int32) if counts_skips else None,
    )


def start_state(model: BiSeNetV2, options: Config) -> TrainState:
    """The state at step 0 of a run, with all that its configuration has it keep."""
    return create_state(
        model,
        make_optimizer(options.optimizer, options.train.steps),
        options.train.seed,
        with_ema=options.optimizer.ema_decay > 0,
        counts_skips=options.train.max_skipped_steps > 0,
    )


def _copy(tree: PyTree) -> PyTree:
    # Not the same arrays: a step gives back the memory of its whole state, each array once.
    return jax.tree.map(jnp.copy, tree)
