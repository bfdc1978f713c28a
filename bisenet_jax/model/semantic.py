"""Semantic Branch (paper, section 4.2, Figures 4 and 5): narrow, deep, low resolution."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bisenet_jax.model.layers import (
    ConvBatchNorm,
    DepthwiseConvBatchNorm,
    LayerOptions,
    batch_norm,
    conv,
    max_pool,
)

EXPANSION_PLACES = ("conv", "depthwise")
CONTEXT_LAST_FORMS = ("conv", "conv_bn_relu")
STEM_FUSE_KERNEL_SIZES = (1, 3)
GATHER_KERNEL_SIZES = (1, 3)


class SemanticStages(NamedTuple):
    """Outputs of the stages; the number is the stride. Booster heads read the first four."""

    stem_4: jax.Array
    s3_8: jax.Array
    s4_16: jax.Array
    s5_32: jax.Array
    context_32: jax.Array


class StemBlock(nn.Module):
    """Figure 4a: fast down-sampling by two paths, `[B, H, W, 3] -> [B, H/4, W/4, channels]`.

    Attributes:
        fuse_kernel_size: of the last convolution. Readers of the figure build a 3x3; the
            complexities that the paper prints for its channel-ratio study fit a 1x1 only.
    """

    channels: int = 16
    fuse_kernel_size: int = 1
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        x = ConvBatchNorm(self.channels, stride=2, options=self.options, name="entry")(
            x, is_training=is_training
        )  # [B, H/2, W/2, channels]
        left = ConvBatchNorm(
            self.channels // 2, kernel_size=1, options=self.options, name="left_reduce"
        )(x, is_training=is_training)
        left = ConvBatchNorm(self.channels, stride=2, options=self.options, name="left_down")(
            left, is_training=is_training
        )  # [B, H/4, W/4, channels]
        x = jnp.concatenate([left, max_pool(x)], axis=-1)
        return ConvBatchNorm(
            self.channels, kernel_size=self.fuse_kernel_size, options=self.options, name="fuse"
        )(x, is_training=is_training)


class GatherExpansion(nn.Module):
    """Figure 5b, Gather-and-Expansion layer of stride 1: size and channels are kept.

    Attributes:
        expansion: width inside the layer over the width of its input.
        expansion_place: `conv` widens in the 3x3 convolution, as the paper's text and its
            GFLOPs say; `depthwise` in the depth-wise one, as every public port does.
        gather_kernel_size: of the first convolution; 1 gathers nothing and leaves the inverted
            bottleneck that Figure 5a compares with.
        use_depthwise_relu: ReLU after the depth-wise convolution (ports; not in the figure).
        is_zero_initialized: the last batch norm starts at zero, the layer as an identity.
    """

    expansion: int = 6
    expansion_place: str = "conv"
    gather_kernel_size: int = 3
    use_depthwise_relu: bool = False
    is_zero_initialized: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        channels = x.shape[-1]
        widens_in_conv = self.expansion_place == "conv"
        y = ConvBatchNorm(
            channels * self.expansion if widens_in_conv else channels,
            kernel_size=self.gather_kernel_size,
            options=self.options,
            name="gather",
        )(x, is_training=is_training)
        y = DepthwiseConvBatchNorm(
            1 if widens_in_conv else self.expansion,
            use_relu=self.use_depthwise_relu,
            options=self.options,
            name="depthwise",
        )(y, is_training=is_training)  # [B, H, W, channels * expansion]
        y = ConvBatchNorm(
            channels,
            kernel_size=1,
            use_relu=False,
            is_zero_initialized=self.is_zero_initialized,
            options=self.options,
            name="project",
        )(y, is_training=is_training)  # [B, H, W, channels]
        return nn.relu(x + y)


class GatherExpansionDown(nn.Module):
    """Figure 5c, Gather-and-Expansion layer of stride 2.

    `[B, H, W, C] -> [B, H/2, W/2, features]`

    Two depth-wise convolutions stand for one of 5x5; the shortcut is a separable convolution.

    Attributes:
        expansion, expansion_place, gather_kernel_size, use_depthwise_relu,
            is_zero_initialized: as in `GatherExpansion`; the width inside is relative to the
            input's.
        use_second_depthwise: without it one 3x3 stands where two stood for a 5x5.
    """

    features: int
    expansion: int = 6
    expansion_place: str = "conv"
    gather_kernel_size: int = 3
    use_second_depthwise: bool = True
    use_depthwise_relu: bool = False
    is_zero_initialized: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        channels = x.shape[-1]
        widens_in_conv = self.expansion_place == "conv"
        y = ConvBatchNorm(
            channels * self.expansion if widens_in_conv else channels,
            kernel_size=self.gather_kernel_size,
            options=self.options,
            name="gather",
        )(x, is_training=is_training)
        y = DepthwiseConvBatchNorm(
            1 if widens_in_conv else self.expansion,
            stride=2,
            use_relu=self.use_depthwise_relu and not self.use_second_depthwise,
            options=self.options,
            name="depthwise_down",
        )(y, is_training=is_training)  # [B, H/2, W/2, channels * expansion]
        if self.use_second_depthwise:
            y = DepthwiseConvBatchNorm(
                use_relu=self.use_depthwise_relu, options=self.options, name="depthwise"
            )(y, is_training=is_training)
        y = ConvBatchNorm(
            self.features,
            kernel_size=1,
            use_relu=False,
            is_zero_initialized=self.is_zero_initialized,
            options=self.options,
            name="project",
        )(y, is_training=is_training)  # [B, H/2, W/2, features]
        shortcut = DepthwiseConvBatchNorm(
            stride=2, options=self.options, name="shortcut_depthwise"
        )(x, is_training=is_training)
        shortcut = ConvBatchNorm(
            self.features,
            kernel_size=1,
            use_relu=False,
            options=self.options,
            name="shortcut_project",
        )(shortcut, is_training=is_training)
        return nn.relu(shortcut + y)


class ContextEmbedding(nn.Module):
    """Figure 4b, Context Embedding Block: adds the picture's mean to each of its places.

    Attributes:
        last_form: `conv` is the paper's plain last convolution; `conv_bn_relu` the ports'.
    """

    last_form: str = "conv"
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        channels = x.shape[-1]
        # The mean is taken in float32: bfloat16 keeps 8 bits of a sum over the whole map.
        context = x.astype(jnp.float32).mean(axis=(1, 2), keepdims=True).astype(x.dtype)
        context = batch_norm(is_training=is_training, options=self.options, name="bn")(context)
        context = ConvBatchNorm(channels, kernel_size=1, options=self.options, name="gap")(
            context, is_training=is_training
        )  # [B, 1, 1, C]
        # In float32 too, for the gradient of the broadcast is again a sum over the map.
        x = (x.astype(jnp.float32) + context.astype(jnp.float32)).astype(x.dtype)
        if self.last_form == "conv":
            return conv(
                channels, use_bias=self.options.conv_bias, options=self.options, name="last"
            )(x)
        return ConvBatchNorm(channels, options=self.options, name="last")(
            x, is_training=is_training
        )


class SemanticBranch(nn.Module):
    """Stem, three stages of Gather-and-Expansion layers, Context Embedding.

    `images: [B, H, W, 3]` with H and W divisible by 32.

    Attributes:
        channels: of Stem (stride 4), S3 (8), S4 (16) and S5 (32).
        repeats: Gather-and-Expansion layers in S3, S4, S5, the first of each of stride 2.
        use_context_embedding: without it `context_32` is `s5_32`.
    """

    channels: tuple[int, int, int, int] = (16, 32, 64, 128)
    repeats: tuple[int, ...] = (2, 2, 4)
    expansion: int = 6
    expansion_place: str = "conv"
    gather_kernel_size: int = 3
    use_second_depthwise: bool = True
    use_depthwise_relu: bool = False
    is_zero_initialized: bool = False
    stem_fuse_kernel_size: int = 1
    use_context_embedding: bool = True
    context_last_form: str = "conv"
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, images: jax.Array, *, is_training: bool) -> SemanticStages:
        layer_fields = {
            "expansion": self.expansion,
            "expansion_place": self.expansion_place,
            "gather_kernel_size": self.gather_kernel_size,
            "use_depthwise_relu": self.use_depthwise_relu,
            "is_zero_initialized": self.is_zero_initialized,
            "options": self.options,
        }
        x = StemBlock(
            self.channels[0], self.stem_fuse_kernel_size, options=self.options, name="stem"
        )(images, is_training=is_training)  # [B, H/4, W/4, channels[0]]
        outputs = [x]
        for stage, features, repeats in zip(
            (3, 4, 5), self.channels[1:], self.repeats, strict=True
        ):
            x = GatherExpansionDown(
                features,
                use_second_depthwise=self.use_second_depthwise,
                **layer_fields,
                name=f"s{stage}_1",
            )(x, is_training=is_training)  # [B, H/2^stage, W/2^stage, features]
            for layer in range(2, repeats + 1):
                x = GatherExpansion(**layer_fields, name=f"s{stage}_{layer}")(
                    x, is_training=is_training
                )
            outputs.append(x)
        if self.use_context_embedding:
            x = ContextEmbedding(
                self.context_last_form, options=self.options, name="context_embedding"
            )(x, is_training=is_training)
        return SemanticStages._make([*outputs, x])
