"""Gradients of one batch: at once or in micro-batches, activations kept or made again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bisenet_jax.config import Config
from bisenet_jax.model.bisenetv2 import BiSeNetV2, Outputs
from bisenet_jax.training.losses import HEADS, loss_divisors, pixel_weights, total_loss

PyTree = Any
Losses = dict[str, jax.Array]
# (variables, images [B, H, W, 3], labels [B, H, W], key of dropout)
#   -> (gradients of the parameters, new batch statistics, `loss` and `loss_main`, ...)
Gradients = Callable[[PyTree, jax.Array, jax.Array, jax.Array], tuple[PyTree, PyTree, Losses]]


def make_gradients(model: BiSeNetV2, config: Config) -> Gradients:
    """The function that a training step differentiates with.

    In `config.train.micro_batches` parts it gives the same sums as at once, mining included,
    with two differences: each part is normalised by its own batch statistics, and dropout
    draws other masks. The new running statistics are the mean of what each part would make of
    the old ones.
    """

    forward = make_forward(model, remat=config.train.remat)

    def at_once(
        variables: PyTree,
        images: jax.Array,
        labels: jax.Array,
        key: jax.Array,
        divisors: Losses | None = None,
    ) -> tuple[PyTree, PyTree, Losses]:
        def loss_of(params: PyTree) -> tuple[jax.Array, tuple[PyTree, Losses]]:
            outputs, updates = forward(variables | {"params": params}, images, key)
            loss, parts = total_loss(outputs, labels, config.loss, divisors)
            losses = {"loss": loss, **{f"loss_{name}": part for name, part in parts.items()}}
            return loss, (updates["batch_stats"], losses)

        gradients, (batch_stats, losses) = jax.grad(loss_of, has_aux=True)(variables["params"])
        return gradients, batch_stats, losses

    def in_parts(
        variables: PyTree, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[PyTree, PyTree, Losses]:
        count = config.train.micro_batches
        parts = (_deal(images, count), _deal(labels, count), jax.random.split(key, count))

        def divisors_of(part: tuple[jax.Array, jax.Array, jax.Array]) -> Losses:
            images, labels, key = part
            return loss_divisors(forward(variables, images, key)[0], labels, config.loss)

        if config.loss.ohem:
            # How many pixels are hard is known after a forward pass over the whole batch.
            divisors = jax.tree.map(jnp.sum, jax.lax.map(divisors_of, parts))
        else:
            weight = pixel_weights(labels, model.num_classes, config.loss).sum()
            divisors = dict.fromkeys(HEADS, weight)

        def add(sums: PyTree, part: tuple[jax.Array, jax.Array, jax.Array]) -> tuple:
            gradients, batch_stats, losses = at_once(variables, *part, divisors)
            changes = jax.tree.map(jnp.subtract, batch_stats, variables["batch_stats"])
            return jax.tree.map(jnp.add, sums, (gradients, changes, losses)), None

        nothing = jax.tree.map(jnp.zeros_like, (variables["params"], variables["batch_stats"]))
        no_losses = {name: jnp.float32(0) for name in ("loss", *(f"loss_{h}" for h in HEADS))}
        (gradients, changes, losses), _ = jax.lax.scan(add, (*nothing, no_losses), parts)
        batch_stats = jax.tree.map(
            lambda old, change: old + change / count, variables["batch_stats"], changes
        )
        return gradients, batch_stats, losses

    return at_once if config.train.micro_batches == 1 else in_parts


def make_forward(model: BiSeNetV2, *, remat: bool) -> Callable[..., tuple[Outputs, PyTree]]:
    """The training forward pass `(variables, images, key) -> (outputs, updates)`.

    With `remat`, its backward pass finds the results of the convolutions and computes all that
    lies between them again; without, it finds everything.
    """

    def forward(variables: PyTree, images: jax.Array, key: jax.Array) -> tuple[Outputs, PyTree]:
        rngs = {"dropout": key}
        return model.apply(
            variables, images, is_training=True, mutable=["batch_stats"], rngs=rngs
        )

    return jax.checkpoint(forward, policy=_is_convolution) if remat else forward


def _deal(array: jax.Array, count: int) -> jax.Array:
    """`[B, ...] -> [count, B / count, ...]`, dealt like cards.

    Each device then has its share of every part, with no image moved between devices.
    """
    return array.reshape(-1, count, *array.shape[1:]).swapaxes(0, 1)


def _is_convolution(primitive: Any, *_: Any, **__: Any) -> bool:
    """What is worth keeping: all else is quickly made from it."""
    return primitive.name == "conv_general_dilated"
