"""Inference, a function of its own: uint8 images in, uint8 labels out, no booster anywhere.

`predict_labels` and `predict_logits` are pure and run inside any `jax.jit`;
`make_label_function` and `make_logits_function` bind them to one set of weights.
"""

from collections.abc import Callable
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp

from bisenet_jax.model.bisenetv2 import BOOSTER_NAMES, STRIDE, BiSeNetV2, Outputs
from bisenet_jax.normalization import Normalization
from bisenet_jax.resize import resize, upsample

PyTree = Any

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
            wide, and the logits are enlarged again.
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
    model: BiSeNetV2,
    variables: PyTree,
    images: jax.Array,
    normalization: Normalization,
    input_scale: float = 1.0,
) -> jax.Array:
    """The most likely class of each pixel, `uint8 [B, H, W]`."""
    logits = predict_logits(model, variables, images, normalization, input_scale)
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)


def predict_logits(
    model: BiSeNetV2,
    variables: PyTree,
    images: jax.Array,
    normalization: Normalization,
    input_scale: float = 1.0,
) -> jax.Array:
    """Logits at the size of the images, `uint8 [B, H, W, 3] -> float32 [B, H, W, classes]`.

    Images are padded below and to the right to the network's stride, with zeros after
    normalisation, that is with the mean colour; what the padding adds is cut off again.
    """
    chex.assert_rank(images, 4)
    chex.assert_type(images, jnp.uint8)
    return scaled_logits(model, variables, normalization.normalize(images), input_scale)


def scaled_logits(
    model: BiSeNetV2, variables: PyTree, inputs: jax.Array, input_scale: float = 1.0
) -> jax.Array:
    """`predict_logits` of images that are normalised already, `[B, H, W, 3] float32`."""
    if input_scale == 1:
        return input_logits(model, variables, inputs)
    height, width = inputs.shape[1:3]
    scaled = resize(inputs, *scaled_size(height, width, input_scale))
    return resize(input_logits(model, variables, scaled), height, width)


def scaled_size(height: int, width: int, input_scale: float) -> tuple[int, int]:
    """How large the network sees an image."""
    return max(round(height * input_scale), 1), max(round(width * input_scale), 1)


def input_logits(model: BiSeNetV2, variables: PyTree, inputs: jax.Array) -> jax.Array:
    """Logits at the size of normalised inputs, `[B, H, W, 3] -> float32 [B, H, W, classes]`."""
    height, width = inputs.shape[1:3]
    padding = ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE), (0, 0))
    outputs = cast(Outputs, model.apply(variables, jnp.pad(inputs, padding), is_training=False))
    return upsample(outputs.logits, LOGITS_STRIDE)[:, :height, :width]


def without_boosters(variables: PyTree) -> PyTree:
    """The same variables without those of the booster heads."""
    return {
        collection: {name: leaf for name, leaf in tree.items() if name not in BOOSTER_NAMES}
        for collection, tree in variables.items()
    }


def _bind(
    function: Callable[..., jax.Array],
    model: BiSeNetV2,
    variables: PyTree,
    normalization: Normalization,
    input_scale: float,
) -> Callable[[jax.Array], jax.Array]:
    # On the device once, not with every call.
    variables = jax.device_put(without_boosters(variables))
    compiled = jax.jit(
        lambda variables, images: function(model, variables, images, normalization, input_scale)
    )
    return lambda images: compiled(variables, images)
