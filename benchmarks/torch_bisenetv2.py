"""BiSeNet V2 in PyTorch: the twin that ours is measured against.

Written from the published facts of two public graphs, with the parameter names of each, so that
a checkpoint of either loads into it strictly:

- `coincheung`: CoinCheung/BiSeNet `lib/models/bisenetv2.py` @6b4b67a.
- `mmseg`: mmsegmentation `mmseg/models/backbones/bisenetv2.py` @088894b with its FCN heads.

Where they differ is stated once, in `Layout`; docs/deviations.md says what the paper has.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

DETAIL_STAGES = ((3, 64, 2), (64, 64, 3), (64, 128, 3))  # channels in, out, layers
SEMANTIC_STAGES = ((16, 32, 2), (32, 64, 2), (64, 128, 4))
BOOSTER_INPUTS = (16, 32, 64, 128)
BOOSTER_CHANNELS = (16, 64, 256, 1024)
AGGREGATE_CHANNELS = 128
HEAD_CHANNELS = 1024
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


def build_twin(layout: str, num_classes: int = 19, dropout_rate: float = 0.1) -> nn.Module:
    """The network of a layout, `[B, 3, H, W] float32 -> (logits, *boosters)`.

    All logits are `[B, num_classes, H, W]`, enlarged bilinearly as public code does; the four
    boosters are there in training mode only. H and W must be divisible by 32.
    """
    network = {"coincheung": CoinCheungNetwork, "mmseg": MmsegNetwork}[layout]
    return network(num_classes, dropout_rate)


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


class CoinCheungSemantic(nn.Module):
    """Stages under the paper's names."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.S1S2 = Stem(layout)
        self.S3, self.S4, self.S5_4 = _stages(layout)
        self.S5_5 = ContextEmbedding(layout, AGGREGATE_CHANNELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        return _outputs(x, self.S1S2, self.S3, self.S4, self.S5_4, self.S5_5)


class CoinCheungHead(nn.Module):
    """The main head, or with `booster_channels` the form with a second convolution."""

    def __init__(
        self, inputs: int, num_classes: int, dropout_rate: float, booster_channels: int | None
    ) -> None:
        super().__init__()
        middle = HEAD_CHANNELS if booster_channels is None else 2 * 64
        self.conv = ConvBN(inputs, middle)
        self.drop = nn.Dropout(dropout_rate)
        before: nn.Module = nn.Identity()
        if booster_channels is not None:
            enlarge = nn.Upsample(scale_factor=2, mode="nearest")
            before = nn.Sequential(enlarge, ConvBN(middle, booster_channels))
        classifier = nn.Conv2d(booster_channels or middle, num_classes, 1)
        self.conv_out = nn.Sequential(before, classifier)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.drop(self.conv(x)))


class CoinCheungNetwork(nn.Module):
    def __init__(self, num_classes: int, dropout_rate: float) -> None:
        super().__init__()
        layout = LAYOUTS["coincheung"]
        self.detail = nn.Sequential()
        for stage, layers in enumerate(_detail_stages(), start=1):
            self.detail.add_module(f"S{stage}", layers)
        self.segment = CoinCheungSemantic(layout)
        self.bga = Aggregation(layout)
        self.head = CoinCheungHead(AGGREGATE_CHANNELS, num_classes, dropout_rate, None)
        self.aux2, self.aux3, self.aux4, self.aux5_4 = (
            CoinCheungHead(inputs, num_classes, dropout_rate, channels)
            for inputs, channels in zip(BOOSTER_INPUTS, BOOSTER_CHANNELS, strict=True)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        *stages, context = self.segment(images)
        logits = [self.head(self.bga(self.detail(images), context))]
        if self.training:
            boosters = (self.aux2, self.aux3, self.aux4, self.aux5_4)
            logits += [head(stage) for head, stage in zip(boosters, stages, strict=True)]
        return _enlarge_all(logits, images)


class MmsegHead(nn.Module):
    """Convolutions and a classifier: one in the main head, two in the boosters."""

    def __init__(
        self, inputs: int, channels: int, layers: int, num_classes: int, dropout_rate: float
    ) -> None:
        super().__init__()
        widths = [inputs] + [channels] * layers
        self.convs = nn.Sequential(*(map(ConvBN, widths[:-1], widths[1:])))
        self.dropout = nn.Dropout2d(dropout_rate)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_seg(self.dropout(self.convs(x)))


class MmsegDetail(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.detail_branch = nn.Sequential(*_detail_stages())

    def forward(self, x: Tensor) -> Tensor:
        return self.detail_branch(x)


class MmsegSemantic(nn.Module):
    """Stages by number; the Context Embedding Block is no part of `stage4`."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.stage1 = Stem(layout)
        self.stage2, self.stage3, self.stage4 = _stages(layout)
        self.stage4_CEBlock = ContextEmbedding(layout, AGGREGATE_CHANNELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        stages = (self.stage1, self.stage2, self.stage3, self.stage4)
        return _outputs(x, *stages, self.stage4_CEBlock)


class MmsegBackbone(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.detail = MmsegDetail()
        self.semantic = MmsegSemantic(layout)
        self.bga = Aggregation(layout)

    def forward(self, images: Tensor) -> list[Tensor]:
        *stages, context = self.semantic(images)
        return [self.bga(self.detail(images), context), *stages]


class MmsegNetwork(nn.Module):
    def __init__(self, num_classes: int, dropout_rate: float) -> None:
        super().__init__()
        self.backbone = MmsegBackbone(LAYOUTS["mmseg"])
        self.decode_head = MmsegHead(
            AGGREGATE_CHANNELS, HEAD_CHANNELS, 1, num_classes, dropout_rate
        )
        self.auxiliary_head = nn.ModuleList(
            MmsegHead(inputs, channels, 2, num_classes, dropout_rate)
            for inputs, channels in zip(BOOSTER_INPUTS, BOOSTER_CHANNELS, strict=True)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        aggregate, *stages = self.backbone(images)
        logits = [self.decode_head(aggregate)]
        if self.training:
            pairs = zip(self.auxiliary_head, stages, strict=True)
            logits += [head(stage) for head, stage in pairs]
        return _enlarge_all(logits, images)


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


def _detail_stages() -> list[nn.Sequential]:
    return [
        nn.Sequential(
            ConvBN(inputs, outputs, stride=2),
            *(ConvBN(outputs, outputs) for _ in range(layers - 1)),
        )
        for inputs, outputs, layers in DETAIL_STAGES
    ]


def _stages(layout: Layout) -> list[nn.Sequential]:
    return [
        nn.Sequential(
            GatherExpansion(layout, inputs, outputs, stride=2),
            *(GatherExpansion(layout, outputs, outputs, stride=1) for _ in range(layers - 1)),
        )
        for inputs, outputs, layers in SEMANTIC_STAGES
    ]


def _outputs(x: Tensor, *stages: nn.Module) -> list[Tensor]:
    outputs = []
    for stage in stages:
        x = stage(x)
        outputs.append(x)
    return outputs


def _enlarge_all(logits: list[Tensor], images: Tensor) -> tuple[Tensor, ...]:
    size = (images.shape[2], images.shape[3])
    return tuple(
        functional.interpolate(entry, size=size, mode="bilinear", align_corners=False)
        for entry in logits
    )
