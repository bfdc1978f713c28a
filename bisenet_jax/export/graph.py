"""A graph of ONNX operators as plain values, built node by node; no library is needed for it.

`Graph` has what `bisenet_jax.fast.operators` asks for, and what images need before the
network and logits after it. Tensors are `[B, C, H, W]`, as ONNX's convolutions want them. All
shapes are known while the graph is built, which is what keeps shape arithmetic, loops and
conditions out of the file.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from bisenet_jax.fast.folding import Convolution, ScaleShift

# The three conventions of bisenet_jax.resize in the words of ONNX's Resize.
_RESIZE = {
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    "align_corners": {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    "nearest": {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    },
}


class Tensor(NamedTuple):
    """A result inside a graph; `dtype` is numpy's name for it."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class Node(NamedTuple):
    """One operator; its name is that of its only output."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


@dataclass
class Graph:
    """Nodes in the order of computation, and the constants they read.

    Each method gives the output of the last node that it adds, which is called `name`; most add
    no other.
    """

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def conv(
        self, x: Tensor, name: str, layer: Convolution, *, stride: int = 1, relu: bool = False
    ) -> Tensor:
        """Padded by half the kernel, as all of the network; ReLU is a node of its own."""
        size, _, group_inputs, features = layer.kernel.shape
        kernel = self._constant(f"{name}/kernel", layer.kernel.transpose(3, 2, 0, 1))
        bias = self._constant(f"{name}/bias", layer.bias)
        attributes = {
            "kernel_shape": [size, size],
            "strides": [stride, stride],
            "pads": [size // 2] * 4,
            "group": x.shape[1] // group_inputs,
        }
        shape = (x.shape[0], features, *(-(-length // stride) for length in x.shape[2:]))
        node = f"{name}/conv"
        y = self._add("Conv", (x.name, kernel, bias), node, Tensor(node, shape), **attributes)
        return self.relu(y, f"{name}/relu") if relu else y

    def scale_shift(self, x: Tensor, name: str, layer: ScaleShift) -> Tensor:
        """Two nodes: `x * scale + shift` by channel."""
        scale = self._constant(f"{name}/scale", layer.scale.reshape(1, -1, 1, 1))
        shift = self._constant(f"{name}/shift", layer.shift.reshape(1, -1, 1, 1))
        scaled = x._replace(name=f"{name}/mul")
        self._add("Mul", (x.name, scale), scaled.name, scaled)
        shifted = x._replace(name=f"{name}/add")
        return self._add("Add", (scaled.name, shift), shifted.name, shifted)

    def relu(self, x: Tensor, name: str) -> Tensor:
        return self._add("Relu", (x.name,), name, x._replace(name=name))

    def sigmoid(self, x: Tensor, name: str) -> Tensor:
        return self._add("Sigmoid", (x.name,), name, x._replace(name=name))

    def add(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        """`y` may be one pixel for all of `x`."""
        return self._add("Add", (x.name, y.name), name, x._replace(name=name))

    def multiply(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        return self._add("Mul", (x.name, y.name), name, x._replace(name=name))

    def concatenate(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        """Along the channels."""
        shape = (x.shape[0], x.shape[1] + y.shape[1], *x.shape[2:])
        return self._add("Concat", (x.name, y.name), name, Tensor(name, shape), axis=1)

    def max_pool(self, x: Tensor, name: str) -> Tensor:
        """3x3 at stride 2."""
        return self._pool("MaxPool", x, name)

    def average_pool(self, x: Tensor, name: str, *, counts_padding: bool) -> Tensor:
        """3x3 at stride 2."""
        return self._pool("AveragePool", x, name, count_include_pad=int(counts_padding))

    def mean(self, x: Tensor, name: str) -> Tensor:
        """Over the whole map, `[B, C, 1, 1]`."""
        output = Tensor(name, (*x.shape[:2], 1, 1))
        return self._add("GlobalAveragePool", (x.name,), name, output)

    def upsample(self, x: Tensor, name: str, factor: int, method: str) -> Tensor:
        """By one of `bisenet_jax.resize.METHODS`."""
        return self.resize(x, name, x.shape[2] * factor, x.shape[3] * factor, method)

    def resize(self, x: Tensor, name: str, height: int, width: int, method: str) -> Tensor:
        """By one of `bisenet_jax.resize.METHODS`; no node where the size is right."""
        shape = (*x.shape[:2], height, width)
        if shape == x.shape:
            return x
        sizes = self._constant(f"{name}/sizes", np.asarray(shape, np.int64))
        inputs = (x.name, "", "", sizes)
        return self._add("Resize", inputs, name, Tensor(name, shape), **_RESIZE[method])

    def pad(self, x: Tensor, name: str, height: int, width: int) -> Tensor:
        """With zeros below and to the right; no node where the size is right."""
        shape = (*x.shape[:2], height, width)
        if shape == x.shape:
            return x
        rest = [0, 0, height - x.shape[2], width - x.shape[3]]
        pads = self._constant(f"{name}/pads", np.asarray([0] * 4 + rest, np.int64))
        return self._add("Pad", (x.name, pads), name, Tensor(name, shape), mode="constant")

    def cut(
        self, x: Tensor, name: str, height: int, width: int, *, margin: int = 0, axis: int = 2
    ) -> Tensor:
        """What surrounds a picture, `margin` above and to the left; no node where nothing does.

        `axis` is that of the height, the next one that of the width.
        """
        shape = (*x.shape[:axis], height, width, *x.shape[axis + 2 :])
        if shape == x.shape:
            return x
        corners = (
            ("starts", [margin, margin]),
            ("ends", [margin + height, margin + width]),
            ("axes", [axis, axis + 1]),
        )
        inputs = (
            self._constant(f"{name}/{key}", np.asarray(numbers, np.int64))
            for key, numbers in corners
        )
        return self._add("Slice", (x.name, *inputs), name, Tensor(name, shape, x.dtype))

    def enlarge(self, x: Tensor, name: str, factor: int) -> Tensor:
        """Bilinear with channels last: `[B, C, H, W]` to `[B, F * (H + 1), F * (W + 1), C]`.

        One matrix product by axis makes, of each two neighbours, the `factor` pixels between
        their centres. Beyond the border a pixel is its own neighbour, so that half of `factor`
        is to be cut from each side.

        This is for `argmax`, which is quick where the channels are neighbours in memory. Resize
        is not used: onnxruntime's CUDA provider has it read the last two axes as a picture's.
        """
        batch, channels, height, width = x.shape
        rows, columns = height + 1, width + 1
        x = self._transpose(x, f"{name}/channels_last", (0, 2, 3, 1))
        x = self._neighbours(x, f"{name}/rows", 1)
        x = self._neighbours(x, f"{name}/columns", 3)
        right = (np.arange(factor, dtype=np.float32) + 0.5) / factor
        weights = np.stack([1 - right, right])
        x = self._reshape(x, f"{name}/two_rows", (batch, rows, 2, columns * 2 * channels))
        matrix = self._constant(f"{name}/grow_rows/matrix", weights.T)
        grown = Tensor(f"{name}/grow_rows", (batch, rows, factor, x.shape[3]))
        x = self._add("MatMul", (matrix, x.name), grown.name, grown)
        x = self._reshape(
            x, f"{name}/two_columns", (batch, rows * factor, columns, 2 * channels)
        )
        # Of one pixel a time, each channel by itself.
        by_channel = np.kron(weights, np.eye(channels, dtype=np.float32))
        matrix = self._constant(f"{name}/grow_columns/matrix", by_channel)
        grown = Tensor(f"{name}/grow_columns", (*x.shape[:3], factor * channels))
        x = self._add("MatMul", (x.name, matrix), grown.name, grown)
        return self._reshape(x, name, (*x.shape[:2], columns * factor, channels))

    def argmax(self, x: Tensor, name: str, axis: int) -> Tensor:
        """int64, without `axis`; of equals the first."""
        output = Tensor(name, (*x.shape[:axis], *x.shape[axis + 1 :]), "int64")
        return self._add("ArgMax", (x.name,), name, output, axis=axis, keepdims=0)

    def cast(self, x: Tensor, name: str, dtype: str) -> Tensor:
        """The writer knows ONNX's number of the dtype."""
        output = Tensor(name, x.shape, dtype)
        return self._add("Cast", (x.name,), name, output, to=np.dtype(dtype))

    def channels_first(self, x: Tensor, name: str) -> Tensor:
        """`[B, H, W, C]` to `[B, C, H, W]`."""
        return self._transpose(x, name, (0, 3, 1, 2))

    def rename(self, x: Tensor, name: str) -> Tensor:
        """The last node's output by another name, as those of the whole graph have."""
        self.nodes.append(self.nodes.pop()._replace(output=name))
        return x._replace(name=name)

    def _pool(self, operator: str, x: Tensor, name: str, **attributes: Any) -> Tensor:
        window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
        shape = (*x.shape[:2], *(-(-length // 2) for length in x.shape[2:]))
        return self._add(operator, (x.name,), name, Tensor(name, shape), **window, **attributes)

    def _transpose(self, x: Tensor, name: str, axes: tuple[int, ...]) -> Tensor:
        output = Tensor(name, tuple(x.shape[axis] for axis in axes), x.dtype)
        return self._add("Transpose", (x.name,), name, output, perm=list(axes))

    def _reshape(self, x: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
        sizes = self._constant(f"{name}/sizes", np.asarray(shape, np.int64))
        output = Tensor(name, shape, x.dtype)
        return self._add("Reshape", (x.name, sizes), name, output)

    def _neighbours(self, x: Tensor, name: str, axis: int) -> Tensor:
        """`[..., N, ...]` to `[..., N + 1, 2, ...]`, the first and the last with themselves."""
        size = x.shape[axis]
        pairs = np.stack([np.arange(-1, size), np.arange(size + 1)], axis=1)
        indices = self._constant(f"{name}/indices", pairs.clip(0, size - 1).astype(np.int64))
        shape = (*x.shape[:axis], size + 1, 2, *x.shape[axis + 1 :])
        output = Tensor(name, shape, x.dtype)
        return self._add("Gather", (x.name, indices), name, output, axis=axis)

    def _constant(self, name: str, array: np.ndarray) -> str:
        self._require_new(name)
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def _add(
        self,
        operator: str,
        inputs: tuple[str, ...],
        name: str,
        output: Tensor,
        **attributes: Any,
    ) -> Tensor:
        self._require_new(name)
        self.nodes.append(Node(operator, inputs, name, attributes))
        return output

    def _require_new(self, name: str) -> None:
        if name in self.constants or any(name == node.output for node in self.nodes):
            raise ValueError(f"the graph has a {name!r} already; names must differ")
