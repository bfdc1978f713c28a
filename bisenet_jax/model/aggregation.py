"""Bilateral Guided Aggregation (paper, section 4.3, Figure 6) and what the paper compares with.

Each branch gates the other; the plainer forms add or concatenate them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bisenet_jax.model.layers import (
    ConvBatchNorm,
    DepthwiseConvBatchNorm,
    LayerOptions,
    average_pool,
    conv,
)
from bisenet_jax.resize import upsample


class BilateralGuidedAggregation(nn.Module):
    """`detail_8: [B, H/8, W/8, C]`, `semantic_32: [B, H/32, W/32, C]` -> `[B, H/8, W/8, C]`.

    Attributes:
        upsampling: how both semantic arms grow by four (`resize.METHODS`).
        pointwise_bias: bias of the two point-wise convolutions (mmsegmentation, PaddleSeg).
        use_relu: ReLU after the last convolution (most ports; the figure has none).
        pool_counts_padding: see `layers.average_pool`.
    """

    upsampling: str = "bilinear"
    pointwise_bias: bool = False
    use_relu: bool = False
    pool_counts_padding: bool = True
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(
        self, detail_8: jax.Array, semantic_32: jax.Array, *, is_training: bool
    ) -> jax.Array:
        channels = detail_8.shape[-1]
        bias = self.pointwise_bias
        detail_keep_8 = DepthwiseConvBatchNorm(
            options=self.options, name="detail_keep_depthwise"
        )(detail_8, is_training=is_training)
        detail_keep_8 = conv(
            channels,
            kernel_size=1,
            use_bias=bias,
            options=self.options,
            name="detail_keep_pointwise",
        )(detail_keep_8)
        detail_down_16 = ConvBatchNorm(
            channels, stride=2, use_relu=False, options=self.options, name="detail_down"
        )(detail_8, is_training=is_training)
        detail_down_32 = average_pool(detail_down_16, counts_padding=self.pool_counts_padding)

        semantic_up_32 = ConvBatchNorm(
            channels, use_relu=False, options=self.options, name="semantic_up"
        )(semantic_32, is_training=is_training)
        # Grown first and squashed after, as the figure draws it: the order changes the gate.
        detail_gate_8 = nn.sigmoid(upsample(semantic_up_32, 4, self.upsampling))
        semantic_keep_32 = DepthwiseConvBatchNorm(
            options=self.options, name="semantic_keep_depthwise"
        )(semantic_32, is_training=is_training)
        semantic_keep_32 = conv(
            channels,
            kernel_size=1,
            use_bias=bias,
            options=self.options,
            name="semantic_keep_pointwise",
        )(semantic_keep_32)
        semantic_gate_32 = nn.sigmoid(semantic_keep_32)

        guided_8 = detail_keep_8 * detail_gate_8
        guided_32 = detail_down_32 * semantic_gate_32
        return ConvBatchNorm(
            channels, use_relu=self.use_relu, options=self.options, name="out"
        )(guided_8 + upsample(guided_32, 4, self.upsampling), is_training=is_training)


class PlainFusion(nn.Module):
    """The branches added or side by side, and a convolution. Shapes as above.

    Attributes:
        form: `sum` or `concat`; the paper's complexities of the two differ by what a 3x3
            convolution over twice the channels costs more.
        upsampling: how the semantic arm grows by four (`resize.METHODS`).
        use_relu: ReLU after the convolution.
    """

    form: str
    upsampling: str = "bilinear"
    use_relu: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(
        self, detail_8: jax.Array, semantic_32: jax.Array, *, is_training: bool
    ) -> jax.Array:
        semantic_8 = upsample(semantic_32, 4, self.upsampling)
        if self.form == "sum":
            fused_8 = detail_8 + semantic_8
        else:
            fused_8 = jnp.concatenate([detail_8, semantic_8], axis=-1)
        return ConvBatchNorm(
            detail_8.shape[-1], use_relu=self.use_relu, options=self.options, name="out"
        )(fused_8, is_training=is_training)
