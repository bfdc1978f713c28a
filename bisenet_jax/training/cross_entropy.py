"""Cross-entropy of every pixel, from logits that are never enlarged as a whole.

Enlarged, the logits of each of five heads are `[B, H, W, N] float32`. Pixels of one phase, that
is, at one place between the logits around them, are blended of these by the same weights. So a
few phases at a time are made, compared with their labels and forgotten, and the backward pass
makes them again.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

# A row of phases is made in so many pieces. On CPU one is slower than the plain form, two take
# long to compile, and more than four make more turns of the loop for nothing.
_PIECES = 4


def pixel_losses(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each pixel, `[B, H, W] float32`, 0 if ignored, and where it counts.

    Args:
        logits: `[B, h, w, N]`, enlarged bilinearly to the labels (paper, Figure 7).
        labels: `[B, H, W]`; H and W are the same multiple of h and w. Ids outside `0..N - 1`
            are ignored.
    """
    factor, remainder = divmod(labels.shape[1], logits.shape[1])
    if remainder or labels.shape[2] != logits.shape[2] * factor:
        raise ValueError(
            f"labels of {labels.shape[1:]} must be a whole multiple of logits of "
            f"{logits.shape[1:3]}"
        )
    batch, height, width, num_classes = logits.shape
    logits = logits.astype(jnp.float32)
    pieces = math.gcd(factor, _PIECES)
    columns = factor // pieces
    # How much a phase takes of the neighbours before and after its pixel of the logits.
    offset = (np.arange(factor) + 0.5) / factor - 0.5
    weights = jnp.asarray(np.stack([-offset, offset], axis=1).clip(0), jnp.float32)
    column_weights = weights.reshape(pieces, columns, 2)

    @jax.checkpoint
    def row_losses(labels: jax.Array, weights: jax.Array) -> jax.Array:
        row = _neighbourhood(_blend(_neighbourhood(logits, axis=1), weights), axis=2)

        @jax.checkpoint
        def piece_losses(labels: jax.Array, weights: jax.Array) -> jax.Array:
            losses = [_losses(_blend(row, weights[i]), labels[i]) for i in range(columns)]
            return jnp.stack(losses)

        return jax.lax.map(lambda piece: piece_losses(*piece), (labels, column_weights))

    phases = labels.reshape(batch, height, factor, width, pieces, columns)
    phases = phases.transpose(2, 4, 5, 0, 1, 3)  # [factor, pieces, columns, B, h, w]
    losses = jax.lax.map(lambda row: row_losses(*row), (phases, weights))
    losses = losses.transpose(3, 4, 0, 5, 1, 2).reshape(labels.shape)
    return losses, (labels >= 0) & (labels < num_classes)


def _neighbourhood(x: jax.Array, *, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each pixel the one before, itself and the next; at the border there is only itself."""
    end = x.shape[axis] - 1
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    last = jax.lax.slice_in_dim(x, end, end + 1, axis=axis)
    before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, end, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, end + 1, axis=axis), last], axis)
    return before, x, after


def _blend(
    neighbourhood: tuple[jax.Array, jax.Array, jax.Array], weights: jax.Array
) -> jax.Array:
    before, x, after = neighbourhood
    return before * weights[0] + x * (1 - weights[0] - weights[1]) + after * weights[1]


def _losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`[B, h, w, N] float32` and `[B, h, w]` of equal size: the cross-entropy of each pixel."""
    num_classes = logits.shape[-1]
    # A comparison instead of a gather: its gradient is no scatter and fuses with the rest.
    is_class = labels[..., None] == jnp.arange(num_classes).reshape(1, 1, 1, -1)
    class_logit = jnp.where(is_class, logits, 0.0).sum(axis=-1)
    is_labelled = (labels >= 0) & (labels < num_classes)
    return jnp.where(is_labelled, jax.nn.logsumexp(logits, axis=-1) - class_logit, 0.0)
