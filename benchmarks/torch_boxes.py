"""The boxes of BiSeNet V2 in PyTorch, in either of two public graphs.

`torch_bisenetv2` builds both networks of them. Where the graphs differ is stated once, in
`Layout`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

AGGREGATE_CHANNELS = 128
EXPANSION = 6


class Layout(NamedTuple):
    """What tells the public graphs apart.

    Attributes:
        nests_conv: a convolution and its batch norm are one module with the children `conv` and
            `bn` everywhere; else many lie side by side in an `nn.Sequential`.
        upsampling: of both arms of the aggregation, by four.
        pointwise_bias: of the aggregation's two point-wise convolutions.
    """

    nests_conv: bool
    upsampling: str
    pointwise_bias: bool


LAYOUTS = {
    "coincheung": Layout(nests_conv=False, upsampling="nearest", pointwise_bias=False),
    "mmseg": Layout(nests_conv=True, upsampling="bilinear", pointwise_bias=True),
}


class ConvBN(nn.Module):
    """Convolution, batch norm, ReLU; `conv` and `bn` by name."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = _conv(inputs, outputs, kernel_size, stride, groups)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return functional.relu(x) if self.relu else x


class BareConv(nn.Module):
    """A convolution under the name `conv`, as mmseg wraps those that have no norm."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Separable(nn.Module):
    """mmseg's depth-wise, then point-wise pair; without ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, pointwise: nn.Module) -> None:
        super().__init__()
        self.depthwise_conv = ConvBN(inputs, inputs, stride=stride, groups=inputs, relu=False)
        self.pointwise_conv = pointwise

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class Stem(nn.Module):
    """Stride 4 by two paths, left first."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        entry = ConvBN(3, 16, stride=2)
        left = nn.Sequential(ConvBN(16, 8, 1), ConvBN(8, 16, stride=2))
        fuse = ConvBN(32, 16)
        if layout.nests_conv:
            self.conv_first, self.convs, self.fuse_last = entry, left, fuse
        else:
            self.conv, self.left, self.fuse = entry, left, fuse
        self.nests_conv = layout.nests_conv

    def forward(self, x: Tensor) -> Tensor:
        if self.nests_conv:
            entry, left, fuse = self.conv_first, self.convs, self.fuse_last
        else:
            entry, left, fuse = self.conv, self.left, self.fuse
        x = entry(x)
        right = functional.max_pool2d(x, 3, stride=2, padding=1)
        return fuse(torch.cat([left(x), right], dim=1))


class GatherExpansion(nn.Module):
    """One layer of stride 1, or of stride 2 with its separable shortcut."""

    def __init__(self, layout: Layout, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = inputs * EXPANSION
        self.conv1 = ConvBN(inputs, inputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 1:
            self.dwconv = _conv_bn(layout, inputs, middle, groups=inputs, relu=True)
        elif layout.nests_conv:
            down = ConvBN(inputs, middle, stride=2, groups=inputs, relu=False)
            self.dwconv = nn.Sequential(down, ConvBN(middle, middle, groups=middle))
            pointwise = ConvBN(inputs, outputs, 1, relu=False)
            self.shortcut = nn.Sequential(Separable(inputs, outputs, 2, pointwise))
        else:
            self.dwconv1 = _conv_bn(layout, inputs, middle, stride=2, groups=inputs)
            self.dwconv2 = _conv_bn(layout, middle, middle, groups=middle, relu=True)
            self.shortcut = nn.Sequential(
                *_conv_bn(layout, inputs, inputs, stride=2, groups=inputs),
                *_conv_bn(layout, inputs, outputs, 1),
            )
        self.conv2 = _conv_bn(layout, middle, outputs, 1)
        self.is_split = stride == 2 and not layout.nests_conv

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        y = self.dwconv2(self.dwconv1(y)) if self.is_split else self.dwconv(y)
        return functional.relu(self.conv2(y) + self.shortcut(x))


class ContextEmbedding(nn.Module):
    """Adds the picture's mean to each of its places."""

    def __init__(self, layout: Layout, channels: int) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(channels)
        if layout.nests_conv:
            self.gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), norm)
        else:
            self.bn = norm
        self.conv_gap = ConvBN(channels, channels, 1)
        self.conv_last = ConvBN(channels, channels)
        self.nests_conv = layout.nests_conv

    def forward(self, x: Tensor) -> Tensor:
        mean = self.gap(x) if self.nests_conv else self.bn(x.mean(dim=(2, 3), keepdim=True))
        return self.conv_last(x + self.conv_gap(mean))


class Aggregation(nn.Module):
    """Bilateral Guided Aggregation; grown first, squashed after."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        width = AGGREGATE_CHANNELS
        detail_keep, semantic_keep = (_depthwise_pointwise(layout, width) for _ in range(2))
        detail_down = _conv_bn(layout, width, width, stride=2)
        detail_down.append(nn.AvgPool2d(3, stride=2, padding=1))
        semantic_up = _conv_bn(layout, width, width)
        if layout.nests_conv:
            self.detail_dwconv, self.semantic_dwconv = detail_keep, semantic_keep
            self.detail_down, self.semantic_conv = detail_down, semantic_up
            self.conv: nn.Module = ConvBN(width, width)
        else:
            self.left1, self.right2 = detail_keep, semantic_keep
            self.left2, self.right1 = detail_down, semantic_up
            self.conv = _conv_bn(layout, width, width, relu=True)
        self.layout = layout

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        if self.layout.nests_conv:
            detail_keep, semantic_keep = self.detail_dwconv, self.semantic_dwconv
            detail_down, semantic_up = self.detail_down, self.semantic_conv
        else:
            detail_keep, semantic_keep = self.left1, self.right2
            detail_down, semantic_up = self.left2, self.right1
        guided = detail_keep(detail) * torch.sigmoid(self.enlarge(semantic_up(semantic)))
        guided_small = detail_down(detail) * torch.sigmoid(semantic_keep(semantic))
        return self.conv(guided + self.enlarge(guided_small))

    def enlarge(self, x: Tensor) -> Tensor:
        if self.layout.upsampling == "nearest":
            return functional.interpolate(x, scale_factor=4, mode="nearest")
        return functional.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)


def _conv(inputs: int, outputs: int, kernel_size: int, stride: int, groups: int) -> nn.Conv2d:
    padding = kernel_size // 2
    return nn.Conv2d(inputs, outputs, kernel_size, stride, padding, groups=groups, bias=False)


def _conv_bn(
    layout: Layout,
    inputs: int,
    outputs: int,
    kernel_size: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    relu: bool = False,
) -> nn.Sequential:
    """Convolution and batch norm, in one module or side by side."""
    if layout.nests_conv:
        return nn.Sequential(
            ConvBN(inputs, outputs, kernel_size, stride=stride, groups=groups, relu=relu)
        )
    layers = [_conv(inputs, outputs, kernel_size, stride, groups), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


def _depthwise_pointwise(layout: Layout, width: int) -> nn.Sequential:
    if layout.nests_conv:
        pointwise = BareConv(width, width, bias=layout.pointwise_bias)
        return nn.Sequential(Separable(width, width, 1, pointwise))
    depthwise = _conv_bn(layout, width, width, groups=width)
    return depthwise.append(nn.Conv2d(width, width, 1, bias=layout.pointwise_bias))
