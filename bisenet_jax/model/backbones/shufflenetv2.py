"""ShuffleNetV2 1.5x (Ma et al., arXiv 1807.11164, Table 5) up to its last unit."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from bisenet_jax.model.layers import (
    ConvBatchNorm,
    DepthwiseConvBatchNorm,
    LayerOptions,
    max_pool,
)

STEM_WIDTH = 24
# Channels and units of the paper's stages 2, 3 and 4.
STAGES = {2: (176, 4), 3: (352, 8), 4: (704, 4)}


class ShuffleUnit(nn.Module):
    """Figure 3c, or at stride 2 Figure 3d: `[B, H, W, C] -> [B, H/s, W/s, features]`.

    Half of the channels go through three convolutions; the other half is kept, or at stride 2
    made of all channels by two.
    """

    features: int
    stride: int = 1
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        half = self.features // 2
        if self.stride == 1:
            left, right = jnp.split(x, 2, axis=-1)
        else:
            right = x
            left = DepthwiseConvBatchNorm(
                stride=self.stride, options=self.options, name="left_depthwise"
            )(x, is_training=is_training)
            left = ConvBatchNorm(
                half, kernel_size=1, options=self.options, name="left_project"
            )(left, is_training=is_training)
        right = ConvBatchNorm(half, kernel_size=1, options=self.options, name="reduce")(
            right, is_training=is_training
        )
        right = DepthwiseConvBatchNorm(
            stride=self.stride, options=self.options, name="depthwise"
        )(right, is_training=is_training)
        right = ConvBatchNorm(half, kernel_size=1, options=self.options, name="project")(
            right, is_training=is_training
        )
        return _shuffle(jnp.concatenate([left, right], axis=-1))


class ShuffleNetV2(nn.Module):
    """`[B, H, W, 3]` -> maps at 1/4, 1/8, 1/16 and 1/32 of 24, 176, 352 and 704 channels.

    The widening to 1024 channels belongs to the classifier and is left out with it.
    """

    # What torchvision's network has beyond ours.
    unused: ClassVar[tuple[str, ...]] = ("conv5.", "fc.")

    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> tuple[jax.Array, ...]:
        x = ConvBatchNorm(STEM_WIDTH, stride=2, options=self.options, name="stem")(
            x, is_training=is_training
        )
        x = max_pool(x)  # [B, H/4, W/4, 24]
        outputs = [x]
        for stage, (features, units) in STAGES.items():
            for unit in range(1, units + 1):
                x = ShuffleUnit(
                    features,
                    stride=2 if unit == 1 else 1,
                    options=self.options,
                    name=f"stage{stage}_{unit}",
                )(x, is_training=is_training)  # [B, H/2^(stage + 1), W/2^(stage + 1), features]
            outputs.append(x)
        return tuple(outputs)

    @staticmethod
    def torchvision_names() -> dict[str, str]:
        """torchvision's name for each layer of ours; see `bisenet_jax.convert.names.expand`."""
        names = {"stem": "conv1.{0,1}"}
        for stage, (_, units) in STAGES.items():
            for unit in range(1, units + 1):
                ours, theirs = f"stage{stage}_{unit}", f"stage{stage}.{unit - 1}"
                if unit == 1:
                    names[f"{ours}/left_depthwise"] = theirs + ".branch1.{0,1}"
                    names[f"{ours}/left_project"] = theirs + ".branch1.{2,3}"
                names[f"{ours}/reduce"] = theirs + ".branch2.{0,1}"
                names[f"{ours}/depthwise"] = theirs + ".branch2.{3,4}"
                names[f"{ours}/project"] = theirs + ".branch2.{5,6}"
        return names


def _shuffle(x: jax.Array) -> jax.Array:
    """Channels of the two halves by turns."""
    pairs = x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2)
    return pairs.swapaxes(-1, -2).reshape(x.shape)
