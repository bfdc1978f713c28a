"""Detail Branch (paper, section 4.1 and Table 1): wide, shallow, high resolution."""

import flax.linen as nn
import jax

from bisenet_jax.model.layers import ConvBatchNorm, LayerOptions


class DetailBranch(nn.Module):
    """Eight plain convolutions, no shortcuts: `[B, H, W, 3] -> [B, H/8, W/8, channels[2]]`."""

    channels: tuple[int, int, int] = (64, 64, 128)
    repeats: tuple[int, int, int] = (2, 3, 3)
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        for stage, (channels, repeats) in enumerate(
            zip(self.channels, self.repeats, strict=True), start=1
        ):
            for layer in range(1, repeats + 1):
                x = ConvBatchNorm(
                    channels,
                    stride=2 if layer == 1 else 1,
                    options=self.options,
                    name=f"s{stage}_{layer}",
                )(x, is_training=is_training)  # [B, H/2^stage, W/2^stage, channels]
        return x
