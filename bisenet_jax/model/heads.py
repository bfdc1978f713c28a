"""Segmentation Head (paper, section 4.4, Figure 7) and the other forms that boosters take."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp

from bisenet_jax.model.layers import ConvBatchNorm, LayerOptions, conv
from bisenet_jax.resize import upsample


class SegmentationHead(nn.Module):
    """The paper's head: `[B, h, w, C] -> [B, h, w, num_classes] float32`.

    The figure's last step, enlarging to the image, is left to whoever knows the image's size:
    the loss, or the inference function.

    Attributes:
        channels: C_t, the width that trades accuracy against cost; the paper prints none.
    """

    num_classes: int
    channels: int = 256
    dropout_rate: float = 0.0
    drops_whole_channels: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        x = ConvBatchNorm(self.channels, options=self.options, name="conv")(
            x, is_training=is_training
        )
        x = _dropout(self.dropout_rate, self.drops_whole_channels, x, is_training)
        return _classify(self.num_classes, x, self.options)


class DoubleConvHead(nn.Module):
    """Two convolutions before the classifier: mmsegmentation's booster. Shapes as above."""

    num_classes: int
    channels: int
    dropout_rate: float = 0.0
    drops_whole_channels: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        for layer in ("conv_1", "conv_2"):
            x = ConvBatchNorm(self.channels, options=self.options, name=layer)(
                x, is_training=is_training
            )
        x = _dropout(self.dropout_rate, self.drops_whole_channels, x, is_training)
        return _classify(self.num_classes, x, self.options)


class UpsamplingHead(nn.Module):
    """CoinCheung's booster: `[B, h, w, C] -> [B, 2h, 2w, num_classes] float32`.

    Attributes:
        channels: of the second convolution, after the enlargement by two.
        first_channels: of the first one.
    """

    num_classes: int
    channels: int
    first_channels: int = 128
    dropout_rate: float = 0.0
    drops_whole_channels: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        x = ConvBatchNorm(self.first_channels, options=self.options, name="conv_1")(
            x, is_training=is_training
        )
        x = _dropout(self.dropout_rate, self.drops_whole_channels, x, is_training)
        x = ConvBatchNorm(self.channels, options=self.options, name="conv_2")(
            upsample(x, 2, "nearest"), is_training=is_training
        )  # [B, 2h, 2w, channels]
        return _classify(self.num_classes, x, self.options)


BOOSTER_FORMS = {
    "segmentation_head": SegmentationHead,
    "double_conv": DoubleConvHead,
    "upsampling": UpsamplingHead,
}


def _dropout(
    rate: float, drops_whole_channels: bool, x: jax.Array, is_training: bool
) -> jax.Array:
    shared_axes = (1, 2) if drops_whole_channels else ()
    layer = nn.Dropout(rate, broadcast_dims=shared_axes, name="dropout")
    return layer(x, deterministic=not is_training)


def _classify(num_classes: int, x: jax.Array, options: LayerOptions) -> jax.Array:
    # In float32 throughout: bfloat16 logits tie, and the bias's gradient, a sum over all
    # pixels, drowns in bfloat16.
    options = replace(options, dtype=jnp.float32)
    return conv(num_classes, kernel_size=1, use_bias=True, options=options, name="classifier")(
        x
    )
