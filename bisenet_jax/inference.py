"""Inference, a function of its own: uint8 images in, uint8 labels out, no booster anywhere.

`predict_labels` and `predict_logits` are pure and run inside any `jax.jit`, for a `BiSeNetV2`
and its variables as well as for the `FastNetwork` made of them. `make_label_function` and
`make_logits_function` bind the fast one to one set of weights.
"""

from collections.abc import Callable
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp

from bisenet_jax.fast.network import FastNetwork, fasten
from bisenet_jax.model.bisenetv2 import STRIDE, BiSeNetV2, Outputs
from bisenet_jax.normalization import Normalization
from bisenet_jax.resize import resize, upsample, upsampled_argmax

PyTree = Any
Network = BiSeNetV2 | FastNetwork

LOGITS_STRIDE = 8


def make_label_function(
    model: BiSeNetV2,
    variables: PyTree,
    normalization: Normalization,
    input_scale: float = 1.0,
) -> Callable[[jax.Array], jax.Array]:
    """The compiled `uint8 [B, H, W, 3] -> uint8 [B, H, W]` function of one set of weights.

    Any size of image works; each new size compiles once.

    Args:
        model: the network that the variables belong to.
        variables: `params` and `batch_stats`; those of boosters are left behind.
        normalization: the one the weights were trained with.
        input_scale: how large the network sees an image, likewise; 0.5 is half as high and
            wide. Logits are as large as the image again.
    """
    return _bind(predict_labels, model, variables, normalization, input_scale)


def make_logits_function(
    model: BiSeNetV2,
    variables: PyTree,
    normalization: Normalization,
    input_scale: float = 1.0,
) -> Callable[[jax.Array], jax.Array]:
    """The same for logits, `uint8 [B, H, W, 3] -> float32 [B, H, W, classes]`."""
    return _bind(predict_logits, model, variables, normalization, input_scale)


def predict_labels(
    network: Network,
    variables: PyTree,
    images: jax.Array,
    normalization: Normalization,
    input_scale: float = 1.0,
) -> jax.Array:
    """The most likely class of each pixel, `uint8 [B, H, W]`.

    The same as the largest of `predict_logits`, which at the images' size are never stored.
    """
    _check_images(images)
    return scaled_labels(network, variables, normalization.normalize(images), input_scale)


def predict_logits(
    network: Network,
    variables: PyTree,
    images: jax.Array,
    normalization: Normalization,
    input_scale: float = 1.0,
) -> jax.Array:
    """Logits at the size of the images, `uint8 [B, H, W, 3] -> float32 [B, H, W, classes]`.

    Images are padded below and to the right to the network's stride, with zeros after
    normalisation, that is with the mean colour; what the padding adds is cut off again.
    """
    _check_images(images)
    return scaled_logits(network, variables, normalization.normalize(images), input_scale)


def scaled_logits(
    network: Network, variables: PyTree, inputs: jax.Array, input_scale: float = 1.0
) -> jax.Array:
    """`predict_logits` of images that are normalised already, `[B, H, W, 3] float32`."""
    height, width = inputs.shape[1:3]
    scaled = resize(inputs, *scaled_size(height, width, input_scale))
    stride = logits_stride(input_scale)
    if stride is None:
        return resize(scaled_logits(network, variables, scaled), height, width)
    logits = _padded_logits(network, variables, scaled)
    return upsample(logits, stride)[:, :height, :width]


def scaled_labels(
    network: Network, variables: PyTree, inputs: jax.Array, input_scale: float = 1.0
) -> jax.Array:
    """The largest of `scaled_logits`, `[B, H, W, 3] -> uint8 [B, H, W]`."""
    height, width = inputs.shape[1:3]
    stride = logits_stride(input_scale)
    if stride is None:
        logits = scaled_logits(network, variables, inputs, input_scale)
        return jnp.argmax(logits, axis=-1).astype(jnp.uint8)
    scaled = resize(inputs, *scaled_size(height, width, input_scale))
    logits = _padded_logits(network, variables, scaled)
    return upsampled_argmax(logits, stride)[:, :height, :width]


def scaled_size(height: int, width: int, input_scale: float) -> tuple[int, int]:
    """How large the network sees an image."""
    if input_scale == 1:
        return height, width  # which an export may leave open
    return max(round(height * input_scale), 1), max(round(width * input_scale), 1)


def logits_stride(input_scale: float) -> int | None:
    """Pixels of an image from one of the network's logits to the next, 8 or, enlarged, 4.

    None where logits go to the image's size in two steps, by way of what the network saw: from
    a smaller picture, as in the paper, and where the stride is no whole number.
    """
    stride = LOGITS_STRIDE / input_scale
    return int(stride) if input_scale >= 1 and stride.is_integer() else None


def _padded_logits(network: Network, variables: PyTree, inputs: jax.Array) -> jax.Array:
    height, width = inputs.shape[1:3]
    padding = ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE), (0, 0))
    outputs = cast(
        Outputs, network.apply(variables, jnp.pad(inputs, padding), is_training=False)
    )
    return outputs.logits


def _check_images(images: jax.Array) -> None:
    chex.assert_rank(images, 4)
    chex.assert_type(images, jnp.uint8)


def _bind(
    function: Callable[..., jax.Array],
    model: BiSeNetV2,
    variables: PyTree,
    normalization: Normalization,
    input_scale: float,
) -> Callable[[jax.Array], jax.Array]:
    network, parameters = fasten(model, variables)
    # On the device once, not with every call.
    parameters = jax.device_put(parameters)
    compiled = jax.jit(
        lambda parameters, images: function(
            network, parameters, images, normalization, input_scale
        )
    )
    return lambda images: compiled(parameters, images)
