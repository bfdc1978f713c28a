"""ResNet-18 (He et al., arXiv 1512.03385, Table 1) without its classifier."""

from typing import ClassVar

import flax.linen as nn
import jax

from bisenet_jax.model.layers import ConvBatchNorm, LayerOptions, max_pool

WIDTHS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = 2


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, `[B, H, W, C] -> [B, H/stride, W/stride, features]`.

    Where the size changes, the shortcut is a 1x1 convolution.
    """

    features: int
    stride: int = 1
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        y = ConvBatchNorm(
            self.features, stride=self.stride, options=self.options, name="conv_1"
        )(x, is_training=is_training)
        y = ConvBatchNorm(self.features, use_relu=False, options=self.options, name="conv_2")(
            y, is_training=is_training
        )
        if self.stride != 1:
            x = ConvBatchNorm(
                self.features,
                kernel_size=1,
                stride=self.stride,
                use_relu=False,
                options=self.options,
                name="shortcut",
            )(x, is_training=is_training)
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """`[B, H, W, 3]` -> maps at 1/4, 1/8, 1/16 and 1/32 of 64, 128, 256 and 512 channels."""

    # What torchvision's network has beyond ours.
    unused: ClassVar[tuple[str, ...]] = ("fc.",)

    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> tuple[jax.Array, ...]:
        x = ConvBatchNorm(64, kernel_size=7, stride=2, options=self.options, name="stem")(
            x, is_training=is_training
        )
        x = max_pool(x)  # [B, H/4, W/4, 64]
        stages = []
        for stage, features in enumerate(WIDTHS, start=1):
            for block in range(1, BLOCKS_PER_STAGE + 1):
                x = BasicBlock(
                    features,
                    stride=2 if stage > 1 and block == 1 else 1,
                    options=self.options,
                    name=f"layer{stage}_{block}",
                )(x, is_training=is_training)  # [B, H/2^(stage + 1), W/2^(stage + 1), features]
            stages.append(x)
        return tuple(stages)

    @staticmethod
    def torchvision_names() -> dict[str, str]:
        """torchvision's name for each layer of ours; see `bisenet_jax.convert.names.expand`."""
        names = {"stem": "{conv1,bn1}"}
        for stage in range(1, len(WIDTHS) + 1):
            for block in range(1, BLOCKS_PER_STAGE + 1):
                ours, theirs = f"layer{stage}_{block}", f"layer{stage}.{block - 1}"
                names[f"{ours}/conv_1"] = theirs + ".{conv1,bn1}"
                names[f"{ours}/conv_2"] = theirs + ".{conv2,bn2}"
                if stage > 1 and block == 1:
                    names[f"{ours}/shortcut"] = theirs + ".downsample.{0,1}"
        return names
