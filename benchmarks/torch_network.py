"""The folded network in PyTorch, from the one description that ours is made from.

It has what ours has: batch norm folded, uint8 in and uint8 out, logits in float32. So what is
measured beside it is the engine, not the graph.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bisenet_jax.fast.description import compute_logits
from bisenet_jax.fast.folding import Convolution, Folded, ScaleShift, fold_batchnorm
from bisenet_jax.inference import LOGITS_STRIDE
from bisenet_jax.model.bisenetv2 import STRIDE
from bisenet_jax.weights import Weights

# The conventions of bisenet_jax.resize in the words of `interpolate`.
_INTERPOLATE: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "align_corners": {"mode": "bilinear", "align_corners": True},
    "nearest": {"mode": "nearest"},
}
_POOL = {"kernel_size": 3, "stride": 2, "padding": 1}


class TorchOperators:
    """`Operators` on `[B, C, H, W]` tensors; kernels are `[outputs, inputs / groups, h, w]`."""

    def conv(
        self, x: Tensor, name: str, layer: Any, *, stride: int = 1, relu: bool = False
    ) -> Tensor:
        if name == "head/classifier":
            # As ours: logits are float32.
            x = x.float()
        size, groups = layer.kernel.shape[-1], x.shape[1] // layer.kernel.shape[1]
        y = functional.conv2d(
            x, layer.kernel, layer.bias, stride=stride, padding=size // 2, groups=groups
        )
        return functional.relu(y) if relu else y

    def scale_shift(self, x: Tensor, name: str, layer: Any) -> Tensor:
        return x * layer.scale[:, None, None] + layer.shift[:, None, None]

    def relu(self, x: Tensor, name: str) -> Tensor:
        return functional.relu(x)

    def sigmoid(self, x: Tensor, name: str) -> Tensor:
        return torch.sigmoid(x)

    def add(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        return x + y

    def multiply(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        return x * y

    def concatenate(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        return torch.cat([x, y], dim=1)

    def max_pool(self, x: Tensor, name: str) -> Tensor:
        return functional.max_pool2d(x, **_POOL)

    def average_pool(self, x: Tensor, name: str, *, counts_padding: bool) -> Tensor:
        return functional.avg_pool2d(x, **_POOL, count_include_pad=counts_padding)

    def mean(self, x: Tensor, name: str) -> Tensor:
        return x.mean(dim=(2, 3), keepdim=True)

    def upsample(self, x: Tensor, name: str, factor: int, method: str) -> Tensor:
        return functional.interpolate(x, scale_factor=factor, **_INTERPOLATE[method])


class TorchNetwork(nn.Module):
    """`[B, H, W, 3] uint8 -> [B, H, W] uint8`, what `inference.predict_labels` does.

    Args:
        weights: the network and its numbers.
        size: height and width of the images.
        dtype: of the activations and kernels.
        memory_format: of both.
    """

    def __init__(
        self,
        weights: Weights,
        size: tuple[int, int],
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        super().__init__()
        self.size, self.dtype, self.memory_format = size, dtype, memory_format
        self.architecture = weights.model
        folded = fold_batchnorm(weights.model, weights.variables)
        self.names = [self._hold(name, layer) for name, layer in folded.convolutions.items()]
        self.scale_shift_names = [
            self._hold(name, layer) for name, layer in folded.scale_shifts.items()
        ]
        mean, deviation = (torch.tensor(numbers) for numbers in weights.normalization)
        self.register_buffer("image_scale", (1 / (255 * deviation)).reshape(3, 1, 1))
        self.register_buffer("image_shift", (mean / deviation).reshape(3, 1, 1))

    def _hold(self, name: str, layer: Convolution | ScaleShift) -> str:
        dtype = torch.float32 if name == "head/classifier" else self.dtype
        for key, array in layer._asdict().items():
            tensor = torch.from_numpy(array)
            if key == "kernel":
                tensor = tensor.permute(3, 2, 0, 1).contiguous(memory_format=self.memory_format)
            self.register_buffer(_buffer_name(name, key), tensor.to(dtype))
        return name

    def _layer(self, kind: Any, name: str) -> Any:
        return kind(*(getattr(self, _buffer_name(name, key)) for key in kind._fields))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.compute_logits(images)
        return logits.argmax(dim=1).to(torch.uint8)

    def compute_logits(self, images: Tensor) -> Tensor:
        """Logits at the images' size, `[B, classes, H, W] float32`."""
        height, width = self.size
        # Images with their channels last are in memory what channels-last tensors are.
        x = images.permute(0, 3, 1, 2).contiguous(memory_format=self.memory_format)
        x = x.float() * self.image_scale - self.image_shift
        x = functional.pad(x, (0, -width % STRIDE, 0, -height % STRIDE)).to(self.dtype)
        folded = Folded(
            {name: self._layer(Convolution, name) for name in self.names},
            {name: self._layer(ScaleShift, name) for name in self.scale_shift_names},
        )
        logits_8 = compute_logits(TorchOperators(), self.architecture, folded, x)
        logits = functional.interpolate(
            logits_8, scale_factor=LOGITS_STRIDE, **_INTERPOLATE["bilinear"]
        )
        return logits[:, :, :height, :width]


def trace(network: TorchNetwork) -> nn.Module:
    """The same as a plain list of PyTorch calls, without the description's Python."""
    return torch.fx.symbolic_trace(network)


def _buffer_name(layer: str, key: str) -> str:
    return f"{layer.replace('/', '__')}__{key}"
