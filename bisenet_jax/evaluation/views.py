"""Label maps of pictures as a protocol has them: views, windows, and their mean."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bisenet_jax.inference import Network, scaled_labels, scaled_logits
from bisenet_jax.normalization import Normalization
from bisenet_jax.protocol import Protocol
from bisenet_jax.resize import resize

PyTree = Any
LogitsFunction = Callable[[jax.Array], jax.Array]


def predict_by_protocol(
    network: Network,
    variables: PyTree,
    images: jax.Array,
    sizes: jax.Array,
    normalization: Normalization,
    protocol: Protocol,
) -> jax.Array:
    """The most likely class of each pixel under a protocol, `uint8 [B, H, W]`.

    Args:
        network, variables: a `BiSeNetV2` or a `FastNetwork`, and what belongs to it.
        images: `[B, H, W, 3] uint8`; beyond its own size a picture is filler.
        sizes: `[B, 2] int32`, height and width of each picture. Only under the plain protocol
            may they be smaller than H and W: the rest is seen as the mean colour, with which
            inference pads to the network's stride anyway.
    """

    height, width = images.shape[1:3]
    rows, columns = jnp.arange(height).reshape(1, -1, 1), jnp.arange(width).reshape(1, 1, -1)
    is_inside = (rows < sizes[:, :1, None]) & (columns < sizes[:, 1:, None])
    inputs = jnp.where(is_inside[..., None], normalization.normalize(images), 0.0)
    if protocol.is_one_view:
        return scaled_labels(network, variables, inputs, protocol.factors[0])
    scores = view_probabilities(partial(scaled_logits, network, variables), inputs, protocol)
    return jnp.argmax(scores, axis=-1).astype(jnp.uint8)


def view_probabilities(
    logits_of: LogitsFunction, inputs: jax.Array, protocol: Protocol
) -> jax.Array:
    """Mean class probabilities over the views, `[B, H, W, 3] -> [B, H, W, N] float32`.

    Of a whole view the logits are enlarged to H x W before the softmax; of a sliding window,
    whose overlapping answers are averaged as probabilities, the average is enlarged.
    """
    height, width = inputs.shape[1:3]
    total = jnp.float32(0)
    for factor in protocol.factors:
        view = resize(inputs, max(round(height * factor), 1), max(round(width * factor), 1))
        for is_mirrored in (False, True) if protocol.flips else (False,):
            seen = view[:, :, ::-1] if is_mirrored else view
            if protocol.crop is None or protocol.stride is None:
                scores = jax.nn.softmax(resize(logits_of(seen), height, width), axis=-1)
            else:
                windows = slide(logits_of, seen, protocol.crop, protocol.stride)
                scores = resize(windows, height, width)
            total += scores[:, :, ::-1] if is_mirrored else scores
    return total / (len(protocol.factors) * (1 + protocol.flips))


def slide(
    logits_of: LogitsFunction, inputs: jax.Array, crop: tuple[int, int], stride: tuple[int, int]
) -> jax.Array:
    """Mean probabilities of a window that slides over `[B, h, w, 3]`: `[B, h, w, N] float32`.

    A picture smaller than the window is padded with zeros, the mean colour, below and to the
    right. The last window of a row or column ends at the edge, so that every pixel is covered.
    """
    batch, height, width = inputs.shape[:3]
    rows, columns = max(height, crop[0]), max(width, crop[1])
    inputs = jnp.pad(inputs, ((0, 0), (0, rows - height), (0, columns - width), (0, 0)))
    corners = jnp.array(
        [
            (top, left)
            for top in window_starts(rows, crop[0], stride[0])
            for left in window_starts(columns, crop[1], stride[1])
        ]
    )
    classes = jax.eval_shape(logits_of, inputs[:, : crop[0], : crop[1]]).shape[-1]

    def add(
        sums: tuple[jax.Array, jax.Array], corner: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        total, count = sums
        start = (0, corner[0], corner[1], 0)
        window = jax.lax.dynamic_slice(inputs, start, (batch, *crop, inputs.shape[-1]))
        answer = jax.nn.softmax(logits_of(window), axis=-1)
        before = jax.lax.dynamic_slice(total, start, answer.shape)
        total = jax.lax.dynamic_update_slice(total, before + answer, start)
        seen = jax.lax.dynamic_slice(count, start, (1, *crop, 1))
        return (total, jax.lax.dynamic_update_slice(count, seen + 1, start)), None

    # One program for all windows: unrolled, each would be compiled by itself.
    nothing = jnp.zeros((batch, rows, columns, classes)), jnp.zeros((1, rows, columns, 1))
    (total, count), _ = jax.lax.scan(add, nothing, corners)
    return (total / count)[:, :height, :width]


def window_starts(size: int, crop: int, stride: int) -> Iterator[int]:
    """Where windows begin along one axis; the last one ends at the edge."""
    yield from range(0, size - crop, stride)
    yield size - crop
