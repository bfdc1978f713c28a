"""BiSeNet V2 in PyTorch: the twin that ours is measured against.

Written from the published facts of two public graphs, with the parameter names of each, so that
a checkpoint of either loads into it strictly:

- `coincheung`: CoinCheung/BiSeNet `lib/models/bisenetv2.py` @6b4b67a.
- `mmseg`: mmsegmentation `mmseg/models/backbones/bisenetv2.py` @088894b with its FCN heads.

What tells their boxes apart is stated in `torch_boxes.Layout`; docs/deviations.md says what the
paper has.
"""

from torch import Tensor, nn
from torch.nn import functional

from benchmarks.torch_boxes import (
    AGGREGATE_CHANNELS,
    LAYOUTS,
    Aggregation,
    ContextEmbedding,
    ConvBN,
    GatherExpansion,
    Layout,
    Stem,
)

DETAIL_STAGES = ((3, 64, 2), (64, 64, 3), (64, 128, 3))  # channels in, out, layers
SEMANTIC_STAGES = ((16, 32, 2), (32, 64, 2), (64, 128, 4))
BOOSTER_INPUTS = (16, 32, 64, 128)
BOOSTER_CHANNELS = (16, 64, 256, 1024)
HEAD_CHANNELS = 1024


def build_twin(layout: str, num_classes: int = 19, dropout_rate: float = 0.1) -> nn.Module:
    """The network of a layout, `[B, 3, H, W] float32 -> (logits, *boosters)`.

    All logits are `[B, num_classes, H, W]`, enlarged bilinearly as public code does; the four
    boosters are there in training mode only. H and W must be divisible by 32.
    """
    network = {"coincheung": CoinCheungNetwork, "mmseg": MmsegNetwork}[layout]
    return network(num_classes, dropout_rate)


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
