"""The three backbones in PyTorch: the twins that ours are measured against.

Written from the papers, with the parameter names of torchvision, so that its ImageNet weights
load into them strictly; classifiers are there for their names alone. Each takes
`[B, 3, H, W] float32` and gives the maps at 1/4, 1/8, 1/16 and 1/32 of it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 1000  # of ImageNet


def build_twin(backbone: str) -> nn.Module:
    """The twin of a name of `bisenet_jax.model.backbones.branch.BACKBONES`."""
    return {"resnet18": ResNet18, "mobilenetv2": MobileNetV2, "shufflenetv2": ShuffleNetV2}[
        backbone
    ]()


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(
                _conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, outputs in enumerate((64, 128, 256, 512), start=1):
            blocks = [BasicBlock(inputs, outputs, 1 if stage == 1 else 2)]
            blocks.append(BasicBlock(outputs, outputs, 1))
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            inputs = outputs
        self.fc = nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        maps = []
        for stage in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_conv_relu6(inputs, inside, 1))
        layers.append(_conv_relu6(inside, inside, 3, stride, groups=inside))
        layers += [_conv(inside, outputs, 1), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    # Of each bottleneck its expansion, channels out and stride.
    BLOCKS = (
        (1, 16, 1),
        *((6, 24, 2), (6, 24, 1)),
        *((6, 32, 2), (6, 32, 1), (6, 32, 1)),
        *((6, 64, 2), (6, 64, 1), (6, 64, 1), (6, 64, 1)),
        *((6, 96, 1), (6, 96, 1), (6, 96, 1)),
        *((6, 160, 2), (6, 160, 1), (6, 160, 1)),
        (6, 320, 1),
    )
    LAST_OF_STAGE = (3, 6, 13, 17)

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = [_conv_relu6(3, 32, 3, 2)]
        inputs = 32
        for expansion, outputs, stride in self.BLOCKS:
            features.append(InvertedResidual(inputs, outputs, stride, expansion))
            inputs = outputs
        features.append(_conv_relu6(320, 1280, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, CLASSES))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.LAST_OF_STAGE:
                maps.append(x)
        return maps


class ShuffleUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.is_down = stride == 2
        self.branch1 = nn.Sequential()
        if self.is_down:
            self.branch1 = nn.Sequential(
                _conv(inputs, inputs, 3, stride, groups=inputs),
                nn.BatchNorm2d(inputs),
                _conv(inputs, half, 1),
                nn.BatchNorm2d(half),
                nn.ReLU(),
            )
        self.branch2 = nn.Sequential(
            _conv(inputs if self.is_down else half, half, 1),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            _conv(half, half, 3, stride, groups=half),
            nn.BatchNorm2d(half),
            _conv(half, half, 1),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.is_down:
            halves = self.branch1(x), self.branch2(x)
        else:
            left, right = x.chunk(2, dim=1)
            halves = left, self.branch2(right)
        # Interleaved: one of the left, one of the right.
        return torch.stack(halves, dim=2).flatten(1, 2)


class ShuffleNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(_conv(3, 24, 3, 2), nn.BatchNorm2d(24), nn.ReLU())
        inputs = 24
        for stage, outputs, units in ((2, 176, 4), (3, 352, 8), (4, 704, 4)):
            rest = [ShuffleUnit(outputs, outputs, 1) for _ in range(units - 1)]
            layers = nn.Sequential(ShuffleUnit(inputs, outputs, 2), *rest)
            setattr(self, f"stage{stage}", layers)
            inputs = outputs
        self.conv5 = nn.Sequential(_conv(704, 1024, 1), nn.BatchNorm2d(1024), nn.ReLU())
        self.fc = nn.Linear(1024, CLASSES)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.max_pool2d(self.conv1(x), 3, 2, 1)
        maps = [x]
        for stage in (2, 3, 4):
            x = self.get_submodule(f"stage{stage}")(x)
            maps.append(x)
        return maps


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


def _conv_relu6(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = _conv(inputs, outputs, size, stride, groups)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())
