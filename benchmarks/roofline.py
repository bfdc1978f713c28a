"""The least time that a network's layers can take on a device: its roofline, layer by layer.

`CountingOperators` walk the description that the network is computed from, with shapes in the
place of arrays. Of a network that no description tells, such as one with a backbone, the
convolutions of the traced program stand alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ceilings import Ceilings
from benchmarks.subject import Subject
from bisenet_jax.complexity import abstract_variables, list_convolutions
from bisenet_jax.fast.description import compute_logits, is_described
from bisenet_jax.fast.folding import Convolution, ScaleShift, fold_batchnorm
from bisenet_jax.inference import LOGITS_STRIDE

Shape = tuple[int, int, int, int]
IMAGES, LABELS = "images", "labels"
PROTOCOL = (
    "Roofline: the sum over layers of the longer of FLOP / the product's ceiling and bytes / "
    "the copy's. A convolution reads its input and kernel and writes its output once; "
    "element-wise work is fused, and adds only the reading of a second operand; two FLOP a "
    "MAC, convolutions only; for the labels, the logits are read and the labels written once."
)


class Layer(NamedTuple):
    """The work of one layer; `shape` is its output's, `[B, H, W, C]`."""

    name: str
    macs: int
    bytes: int
    shape: Shape

    @property
    def block(self) -> str:
        return block_of(self.name)

    def floor_seconds(self, ceilings: Ceilings) -> float:
        return max(2 * self.macs / ceilings.flops, self.bytes / ceilings.bytes)


def block_of(name: str) -> str:
    """The paper's box that a layer belongs to: `detail_branch/s1`, `aggregation` and so on."""
    box, _, rest = name.partition("/")
    if box in ("detail_branch", "semantic_branch") and rest:
        inner = rest.partition("/")[0]
        # s3_2 is the second layer of S3.
        return (
            f"{box}/{inner.partition('_')[0] if inner[:1] == 's' and '_' in inner else inner}"
        )
    return box


def floor_seconds(layers: Iterable[Layer], ceilings: Ceilings) -> float:
    """The least time of all layers, one after the other."""
    return sum(layer.floor_seconds(ceilings) for layer in layers)


def count_layers(subject: Subject) -> list[Layer]:
    """Every layer from uint8 images to uint8 labels, in the order of the computation."""
    batch, (height, width) = subject.batch, subject.padded_size
    pixels = batch * subject.height * subject.width
    numbers_of_logits = batch * height * width // LOGITS_STRIDE**2 * subject.model.num_classes
    return [
        # The first convolutions read the images; until then they are bytes.
        Layer(IMAGES, 0, pixels * 3, (batch, height, width, 3)),
        *_count_network(subject),
        Layer(LABELS, 0, 4 * numbers_of_logits + pixels, (batch, height, width, 1)),
    ]


def _count_network(subject: Subject) -> list[Layer]:
    model, itemsize = subject.model, jnp.dtype(subject.dtype).itemsize
    batch, (height, width) = subject.batch, subject.padded_size
    if not is_described(model):
        return [
            Layer(work.name, work.macs, work.numbers * itemsize, cast(Shape, work.shape))
            for work in list_convolutions(model, height, width, batch)
        ]
    zeros = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32), abstract_variables(model)
    )
    operators = CountingOperators(itemsize)
    compute_logits(operators, model, fold_batchnorm(model, zeros), (batch, height, width, 3))
    return operators.layers


@dataclass
class CountingOperators:
    """`Operators` on shapes: each appends what it costs to `layers`.

    Attributes:
        itemsize: bytes of one number of an activation or kernel.
    """

    itemsize: int
    layers: list[Layer] = field(default_factory=list)

    def conv(
        self, x: Shape, name: str, layer: Convolution, *, stride: int = 1, relu: bool = False
    ) -> Shape:
        features = layer.kernel.shape[-1]
        shape = (x[0], -(-x[1] // stride), -(-x[2] // stride), features)
        macs = prod(shape[:3]) * layer.kernel.size
        return self._add(
            name, macs, prod(x) + layer.kernel.size + features + prod(shape), shape
        )

    def scale_shift(self, x: Shape, name: str, layer: ScaleShift) -> Shape:
        return self._add(name, 0, 0, x)

    def relu(self, x: Shape, name: str) -> Shape:
        return self._add(name, 0, 0, x)

    def sigmoid(self, x: Shape, name: str) -> Shape:
        return self._add(name, 0, 0, x)

    def add(self, x: Shape, y: Shape, name: str) -> Shape:
        return self._add(name, 0, prod(y), x)

    def multiply(self, x: Shape, y: Shape, name: str) -> Shape:
        return self._add(name, 0, prod(y), x)

    def concatenate(self, x: Shape, y: Shape, name: str) -> Shape:
        return self._add(name, 0, 0, (*x[:3], x[3] + y[3]))

    def max_pool(self, x: Shape, name: str) -> Shape:
        return self._pool(x, name)

    def average_pool(self, x: Shape, name: str, *, counts_padding: bool) -> Shape:
        return self._pool(x, name)

    def mean(self, x: Shape, name: str) -> Shape:
        return self._add(name, 0, prod(x), (x[0], 1, 1, x[3]))

    def upsample(self, x: Shape, name: str, factor: int, method: str) -> Shape:
        # Fused with what reads it, as by phases it can be.
        return self._add(name, 0, 0, (x[0], x[1] * factor, x[2] * factor, x[3]))

    def _pool(self, x: Shape, name: str) -> Shape:
        shape = (x[0], -(-x[1] // 2), -(-x[2] // 2), x[3])
        return self._add(name, 0, prod(x) + prod(shape), shape)

    def _add(self, name: str, macs: int, numbers: int, shape: Shape) -> Shape:
        self.layers.append(Layer(name, macs, numbers * self.itemsize, shape))
        return shape
