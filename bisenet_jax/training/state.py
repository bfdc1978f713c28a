"""All that training changes from step to step, as one value."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from bisenet_jax.model.bisenetv2 import STRIDE, BiSeNetV2
from bisenet_jax.model.initialization import initialize

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """A checkpoint holds this and nothing else; random keys follow from seed and step.

    Attributes:
        step: how many steps were made, `int32`.
        params: trained parameters, float32.
        batch_stats: running mean and variance of every batch norm, float32.
        opt_state: of the optimiser.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree

    @property
    def variables(self) -> PyTree:
        """What `BiSeNetV2.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    model: BiSeNetV2, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state at step 0, boosters included; a pure function of the seed."""
    images = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), jnp.float32)
    variables = initialize(model, jax.random.key(seed), images)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
    )
