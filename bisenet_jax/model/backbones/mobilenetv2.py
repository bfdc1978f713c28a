"""MobileNetV2 (Sandler et al., arXiv 1801.04381, Table 2) up to its last bottleneck."""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax

from bisenet_jax.model.layers import ConvBatchNorm, DepthwiseConvBatchNorm, LayerOptions


class _Row(NamedTuple):
    """A line of the paper's table: t, c, n and s."""

    expansion: int
    features: int
    repeats: int
    stride: int


ROWS = (
    _Row(1, 16, 1, 1),
    _Row(6, 24, 2, 2),
    _Row(6, 32, 3, 2),
    _Row(6, 64, 4, 2),
    _Row(6, 96, 3, 1),
    _Row(6, 160, 3, 2),
    _Row(6, 320, 1, 1),
)


class InvertedBottleneck(nn.Module):
    """Expands, filters depth-wise, projects; a shortcut where size and channels are kept.

    `[B, H, W, C] -> [B, H/stride, W/stride, features]`
    """

    features: int
    expansion: int
    stride: int = 1
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        channels, y = x.shape[-1], x
        if self.expansion != 1:
            y = ConvBatchNorm(
                channels * self.expansion,
                kernel_size=1,
                use_relu=False,
                options=self.options,
                name="expand",
            )(y, is_training=is_training)
            y = nn.relu6(y)
        y = DepthwiseConvBatchNorm(stride=self.stride, options=self.options, name="depthwise")(
            y, is_training=is_training
        )
        y = ConvBatchNorm(
            self.features, kernel_size=1, use_relu=False, options=self.options, name="project"
        )(nn.relu6(y), is_training=is_training)
        return x + y if self.stride == 1 and channels == self.features else y


class MobileNetV2(nn.Module):
    """`[B, H, W, 3]` -> maps at 1/4, 1/8, 1/16 and 1/32 of 24, 32, 96 and 320 channels.

    The widening to 1280 channels belongs to the classifier and is left out with it.
    """

    # What torchvision's network has beyond ours.
    unused: ClassVar[tuple[str, ...]] = ("features.18.", "classifier.")

    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> tuple[jax.Array, ...]:
        x = ConvBatchNorm(32, stride=2, use_relu=False, options=self.options, name="stem")(
            x, is_training=is_training
        )
        x = nn.relu6(x)
        stages = []
        for name, row, stride in _blocks():
            if stride == 2:
                stages.append(x)
            x = InvertedBottleneck(
                row.features, row.expansion, stride, options=self.options, name=name
            )(x, is_training=is_training)
        # The first is the map at 1/2.
        return (*stages[1:], x)

    @staticmethod
    def torchvision_names() -> dict[str, str]:
        """torchvision's name for each layer of ours; see `bisenet_jax.convert.names.expand`."""
        names = {"stem": "features.0.{0,1}"}
        for index, (ours, row, _) in enumerate(_blocks(), start=1):
            place = f"features.{index}.conv"
            # Without the expansion all that follows has a number less.
            shift = 0 if row.expansion == 1 else 1
            if shift:
                names[f"{ours}/expand"] = place + ".0.{0,1}"
            names[f"{ours}/depthwise"] = f"{place}.{shift}." + "{0,1}"
            names[f"{ours}/project"] = f"{place}." + f"{{{shift + 1},{shift + 2}}}"
        return names


def _blocks() -> Iterator[tuple[str, _Row, int]]:
    """Name, row and stride of each bottleneck; the first one of a row has the row's stride."""
    for index, row in enumerate(ROWS, start=1):
        for layer in range(1, row.repeats + 1):
            yield f"row{index}_{layer}", row, row.stride if layer == 1 else 1
