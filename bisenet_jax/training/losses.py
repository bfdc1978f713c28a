"""Cross-entropy on main and booster logits, with online hard example mining as an option.

Losses are sums and counts until the last division, in float32, over the pixels of the whole
global batch: neither ignored pixels nor the number of devices change their meaning.
"""

import math

import jax
import jax.numpy as jnp

from bisenet_jax.config import LossConfig
from bisenet_jax.errors import ConfigError
from bisenet_jax.model.bisenetv2 import BOOSTER_NAMES, Outputs
from bisenet_jax.training.cross_entropy import pixel_losses

HEADS = ("main", *BOOSTER_NAMES)


def check_class_weights(config: LossConfig, num_classes: int) -> None:
    """Raise a ConfigError unless each class has one weight, or none has."""
    count = len(config.class_weights)
    if count not in (0, num_classes):
        raise ConfigError(
            f"config.loss.class_weights holds {count} weights for {num_classes} classes; give "
            "one per class in the order of their ids, or () for none"
        )


def total_loss(
    outputs: Outputs,
    labels: jax.Array,
    config: LossConfig,
    divisors: dict[str, jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum over the heads.

    Args:
        outputs: of a training forward pass.
        labels: `[B, H, W]`; ids outside `0..num_classes - 1` are ignored.
        config: weights and mining.
        divisors: for a part of a batch, the `loss_divisors` of the whole: the losses of the
            parts then add up to the loss of the whole.

    Returns:
        The loss, and the loss of each head before weighting: `main`, `booster_stem`, ...; 0 for
        a booster that the network has not, whose weight `config_rules.validate` wants to be 0.
    """
    heads = _by_name(outputs)
    weights = dict(zip(heads, (config.main_weight, *config.booster_weights), strict=True))
    parts = {
        name: jnp.float32(0)
        if logits is None
        else head_loss(logits, labels, config, None if divisors is None else divisors[name])
        for name, logits in heads.items()
    }
    # What weighs nothing is told, but has no backward pass.
    total = sum(
        (parts[name] * weights[name] for name in heads if weights[name]), jnp.float32(0)
    )
    return jnp.asarray(total), parts


def loss_divisors(
    outputs: Outputs, labels: jax.Array, config: LossConfig
) -> dict[str, jax.Array]:
    """What the loss of each head is divided by; that of a batch is the sum over its parts.

    Without mining it is known beforehand: the sum of `pixel_weights`, for every head.
    """
    return {
        name: jnp.float32(0) if logits is None else _head_sums(logits, labels, config)[1]
        for name, logits in _by_name(outputs).items()
    }


def head_loss(
    logits: jax.Array, labels: jax.Array, config: LossConfig, divisor: jax.Array | None = None
) -> jax.Array:
    """Mean cross-entropy of one head at the labels' resolution; 0 if every pixel is ignored.

    With class weights it is the weighted mean as PyTorch takes it, divided by the sum of the
    weights of the pixels that count. Hard pixels are chosen by their unweighted losses.

    Args:
        logits: `[B, h, w, N] float32`, enlarged bilinearly to the labels (paper, Figure 7).
        labels: `[B, H, W]`.
        config: class weights and mining.
        divisor: instead of the sum of the weights.
    """
    total, weight = _head_sums(logits, labels, config)
    divisor = weight if divisor is None else divisor
    return total / jnp.where(divisor > 0, divisor, 1.0)


def _by_name(outputs: Outputs) -> dict[str, jax.Array | None]:
    return dict(zip(HEADS, (outputs.logits, *outputs.boosters), strict=True))


def _head_sums(
    logits: jax.Array, labels: jax.Array, config: LossConfig
) -> tuple[jax.Array, jax.Array]:
    """The weighted sum of the pixels' losses, and the sum of their weights."""
    losses, is_labelled = pixel_losses(logits, labels)
    weights = pixel_weights(labels, logits.shape[-1], config)
    if config.ohem:
        weights = weights * hard_pixel_weights(
            losses, is_labelled, config.ohem_threshold, config.ohem_min_share
        )
    return (losses * weights).sum(), weights.sum()


def pixel_weights(labels: jax.Array, num_classes: int, config: LossConfig) -> jax.Array:
    """How much each pixel counts before any is mined, `[B, H, W] float32`; 0 if ignored."""
    is_labelled = (labels >= 0) & (labels < num_classes)
    if not config.class_weights:
        return is_labelled.astype(jnp.float32)
    class_weights = jnp.asarray(config.class_weights, jnp.float32)
    return jnp.where(is_labelled, jnp.take(class_weights, labels, mode="clip"), 0.0)


def hard_pixel_weights(
    losses: jax.Array, is_labelled: jax.Array, threshold: float, min_share: float
) -> jax.Array:
    """Online hard example mining per image: which pixels count, `[B, H, W] float32`.

    Pixels whose class has a probability below `threshold` count. Where an image has fewer of
    them than `min_share` of its labelled pixels, that many of its largest losses count instead;
    equal losses at the border share what is left. Per image, so that the number of devices and
    the other images of the batch do not matter.
    """
    batch = losses.shape[0]
    labelled_count = is_labelled.reshape(batch, -1).sum(axis=1, dtype=jnp.int32)
    least = jnp.maximum(jnp.floor(labelled_count * min_share).astype(jnp.int32), 1)
    least = jnp.minimum(least, labelled_count)

    is_hard = is_labelled & (losses > -math.log(threshold) if threshold > 0 else False)
    has_enough = is_hard.reshape(batch, -1).sum(axis=1, dtype=jnp.int32) >= least
    # Ignored pixels sort below all others; rounding can make a loss of zero negative.
    ordered = jnp.where(is_labelled, jnp.abs(losses), -1.0).reshape(batch, -1)
    ordered = jax.lax.stop_gradient(ordered)
    # The selection is skipped while every image has enough hard pixels, as early in training.
    kth = jax.lax.cond(
        has_enough.all(),
        lambda: jnp.zeros((batch,), jnp.float32),
        lambda: kth_largest(ordered, jnp.maximum(least, 1)),
    ).reshape(batch, 1)
    is_above, is_equal = ordered > kth, ordered == kth
    left = least.reshape(batch, 1) - is_above.sum(axis=1, keepdims=True, dtype=jnp.int32)
    share = left / jnp.maximum(is_equal.sum(axis=1, keepdims=True, dtype=jnp.int32), 1)
    largest = jnp.where(is_above, 1.0, jnp.where(is_equal, share, 0.0)).reshape(losses.shape)
    return jnp.where(has_enough.reshape(batch, 1, 1), is_hard.astype(jnp.float32), largest)


def kth_largest(values: jax.Array, k: jax.Array) -> jax.Array:
    """The k-th largest of each row, exactly, by bisection on the bits instead of a sort.

    Args:
        values: `[B, P] float32`; of each row at least k are not negative.
        k: `[B] int32`, at least 1.

    Returns:
        `[B] float32`.
    """
    # Non-negative floats order as their bits do: 31 counting passes find the answer's bits.
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)

    def refine(index: jax.Array, prefix: jax.Array) -> jax.Array:
        candidate = prefix | (jnp.int32(1) << (30 - index))
        count = (bits >= candidate[:, None]).sum(axis=1, dtype=jnp.int32)
        return jnp.where(count >= k, candidate, prefix)

    found = jax.lax.fori_loop(0, 31, refine, jnp.zeros(values.shape[:1], jnp.int32))
    return jax.lax.bitcast_convert_type(found, jnp.float32)
