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
from bisenet_jax.resize import upsample


def check_class_weights(config: LossConfig, num_classes: int) -> None:
    """Raise a ConfigError unless each class has one weight, or none has."""
    count = len(config.class_weights)
    if count not in (0, num_classes):
        raise ConfigError(
            f"config.loss.class_weights holds {count} weights for {num_classes} classes; give "
            "one per class in the order of their ids, or () for none"
        )


def total_loss(
    outputs: Outputs, labels: jax.Array, config: LossConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum over the heads.

    Args:
        outputs: of a training forward pass.
        labels: `[B, H, W]`; ids outside `0..num_classes - 1` are ignored.
        config: weights and mining.

    Returns:
        The loss, and the loss of each head before weighting: `main`, `booster_stem`, ...
    """
    heads = {"main": (outputs.logits, config.main_weight)}
    for name, logits, weight in zip(
        BOOSTER_NAMES, outputs.boosters, config.booster_weights, strict=True
    ):
        heads[name] = (logits, weight)
    parts = {name: head_loss(logits, labels, config) for name, (logits, _) in heads.items()}
    total = sum((parts[name] * weight for name, (_, weight) in heads.items()), jnp.float32(0))
    return jnp.asarray(total), parts


def head_loss(logits: jax.Array, labels: jax.Array, config: LossConfig) -> jax.Array:
    """Mean cross-entropy of one head at the labels' resolution; 0 if every pixel is ignored.

    With class weights it is the weighted mean as PyTorch takes it, divided by the sum of the
    weights of the pixels that count. Hard pixels are chosen by their unweighted losses.

    Args:
        logits: `[B, h, w, N] float32`, enlarged bilinearly to the labels (paper, Figure 7).
        labels: `[B, H, W]`.
    """
    losses, is_labelled = pixel_losses(logits, labels)
    if config.ohem:
        weights = hard_pixel_weights(
            losses, is_labelled, config.ohem_threshold, config.ohem_min_share
        )
    else:
        weights = is_labelled.astype(jnp.float32)
    if config.class_weights:
        class_weights = jnp.asarray(config.class_weights, jnp.float32)
        weights = weights * jnp.take(class_weights, labels, mode="clip")
    total = weights.sum()
    return (losses * weights).sum() / jnp.where(total > 0, total, 1.0)


def pixel_losses(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each pixel, `[B, H, W] float32`, 0 if ignored, and where it counts."""
    factor, remainder = divmod(labels.shape[1], logits.shape[1])
    if remainder or labels.shape[2] != logits.shape[2] * factor:
        raise ValueError(
            f"labels of {labels.shape[1:]} must be a whole multiple of logits of "
            f"{logits.shape[1:3]}"
        )
    num_classes = logits.shape[-1]
    logits = upsample(logits.astype(jnp.float32), factor)
    is_labelled = (labels >= 0) & (labels < num_classes)
    # A comparison instead of a gather: its gradient is no scatter and fuses with the rest.
    is_class = labels[..., None] == jnp.arange(num_classes).reshape(1, 1, 1, -1)
    class_logit = jnp.where(is_class, logits, 0.0).sum(axis=-1)
    losses = jax.nn.logsumexp(logits, axis=-1) - class_logit
    return jnp.where(is_labelled, losses, 0.0), is_labelled


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
