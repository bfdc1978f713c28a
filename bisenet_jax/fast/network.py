"""The network as inference runs it: the same logits as `BiSeNetV2`, in less time.

`fasten` turns a network and its variables into a `FastNetwork` and its parameters, which go
wherever those do in inference. docs/performance.md has what each lowering
gains.
"""

from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from bisenet_jax.fast.description import compute_logits, is_described
from bisenet_jax.fast.folding import Convolution, ScaleShift, fold_batchnorm
from bisenet_jax.fast.winograd import WinogradKernel, transform_kernel, winograd_conv
from bisenet_jax.model.bisenetv2 import BiSeNetV2, Outputs, without_boosters
from bisenet_jax.model.layers import average_pool, depthwise_by_shifts, max_pool
from bisenet_jax.resize import upsample

PyTree = Any

# Of stride 1; the gathers of Gather-and-Expansion layers are, too.
_WINOGRAD_LAYERS = {"detail_branch/s3_2", "detail_branch/s3_3", "aggregation/out", "head/conv"}
# Winograd's products grow with inputs times outputs, the transforms around them with their sum.
# The paper's S4 and S5 (64 inputs, 384 outputs: 55) gain, its S3 (32 and 192: 27) does not.
_WINOGRAD_LEAST_PRODUCT_OVER_SUM = 50


@dataclass(frozen=True)
class Lowerings:
    """How operators are written for XLA; the numbers are the same but for rounding.

    Attributes:
        depthwise: `shifts`, nine multiply-adds that fuse with their neighbours, or `conv`, a
            grouped convolution.
        pointwise: 1x1 convolutions as `conv` or as a matrix product, `dot`.
        pool: the largest of a window by `window`, XLA's own, or by `shifts`.
        uses_winograd: for wide 3x3 convolutions in float32.
    """

    depthwise: str = "shifts"
    pointwise: str = "conv"
    pool: str = "window"
    uses_winograd: bool = False

    @classmethod
    def for_backend(cls, backend: str) -> "Lowerings":
        """What is quickest; on others than `cpu` nothing is measured."""
        if backend == "cpu":
            return cls(pointwise="dot", pool="shifts", uses_winograd=True)
        return cls()


@dataclass(frozen=True)
class FastNetwork:
    """Stands where a `BiSeNetV2` stands in inference; its parameters come from `fasten`.

    A network that the description does not tell, such as one with a backbone, runs as it is.
    """

    model: BiSeNetV2
    lowerings: Lowerings

    @classmethod
    def of(cls, model: BiSeNetV2, lowerings: Lowerings | None = None) -> "FastNetwork":
        """The fast form of a model; lowerings are those of JAX's default backend if None."""
        return cls(model, lowerings or Lowerings.for_backend(jax.default_backend()))

    @property
    def num_classes(self) -> int:
        """As many logits each pixel has."""
        return self.model.num_classes

    def parameters_of(self, variables: PyTree) -> PyTree:
        """What `apply` takes, on the host, made of `params` and `batch_stats` of the model.

        Those of boosters are left behind. A `Folded`, or variables where the network runs as it
        is.
        """
        if not is_described(self.model):
            return jax.device_get(without_boosters(variables))
        parameters = fold_batchnorm(self.model, variables)
        if not self.lowerings.uses_winograd or jnp.dtype(self.model.dtype) != jnp.float32:
            return parameters
        convolutions = dict(parameters.convolutions)
        for name, layer in parameters.convolutions.items():
            if _is_winograd_worthwhile(name, layer.kernel):
                kernel = cast(Any, transform_kernel(layer.kernel))
                convolutions[name] = layer._replace(kernel=kernel)
        return parameters._replace(convolutions=convolutions)

    def apply(
        self, parameters: PyTree, images: jax.Array, *, is_training: bool = False
    ) -> Outputs:
        """Like `BiSeNetV2.apply`: normalised `[B, H, W, 3] -> Outputs`, without boosters."""
        if is_training:
            raise ValueError("a FastNetwork only infers; train the BiSeNetV2 it was made of")
        if not is_described(self.model):
            return cast(Outputs, self.model.apply(parameters, images, is_training=False))
        dtype = jnp.dtype(self.model.dtype)
        operators = _ArrayOperators(self.lowerings)
        logits_8 = compute_logits(operators, self.model, parameters, images.astype(dtype))
        return Outputs(logits_8, boosters=())


def _is_winograd_worthwhile(name: str, kernel: np.ndarray) -> bool:
    size, _, inputs, outputs = kernel.shape
    if size != 3 or not (name in _WINOGRAD_LAYERS or name.endswith("/gather")):
        return False
    return inputs * outputs / (inputs + outputs) >= _WINOGRAD_LEAST_PRODUCT_OVER_SUM


def fasten(
    model: BiSeNetV2, variables: PyTree, lowerings: Lowerings | None = None
) -> tuple[FastNetwork, PyTree]:
    """`FastNetwork.of` a model, and its parameters."""
    network = FastNetwork.of(model, lowerings)
    return network, network.parameters_of(variables)


class _ArrayOperators:
    """`Operators` on `[B, H, W, C]` arrays, each result in the dtype of its input."""

    def __init__(self, lowerings: Lowerings) -> None:
        self.lowerings = lowerings

    def conv(
        self,
        x: jax.Array,
        name: str,
        layer: Convolution,
        *,
        stride: int = 1,
        relu: bool = False,
    ) -> jax.Array:
        with jax.named_scope(name):
            dtype = x.dtype
            if name == "head/classifier":
                # Logits are float32, as in the model: bfloat16 ones tie.
                x, dtype = x.astype(jnp.float32), jnp.dtype(jnp.float32)
            y = self._convolve(x, layer.kernel, stride) + _by_channel(layer.bias).astype(dtype)
            return (jax.nn.relu(y) if relu else y).astype(dtype)

    def _convolve(self, x: jax.Array, kernel: Any, stride: int) -> jax.Array:
        if isinstance(kernel, WinogradKernel):
            return winograd_conv(x, kernel)
        size, _, group_inputs, features = kernel.shape
        groups = x.shape[-1] // group_inputs
        if groups > 1 and self.lowerings.depthwise == "shifts":
            return depthwise_by_shifts(
                x, kernel, multiplier=features // x.shape[-1], stride=stride
            )
        kernel = kernel.astype(x.dtype)
        if size == 1 and self.lowerings.pointwise == "dot":
            return jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0])
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride, stride),
            padding=((size // 2, size // 2),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def scale_shift(self, x: jax.Array, name: str, layer: ScaleShift) -> jax.Array:
        with jax.named_scope(name):
            y = x * _by_channel(layer.scale) + _by_channel(layer.shift)
            return y.astype(x.dtype)

    def relu(self, x: jax.Array, name: str) -> jax.Array:
        with jax.named_scope(name):
            return jax.nn.relu(x)

    def sigmoid(self, x: jax.Array, name: str) -> jax.Array:
        with jax.named_scope(name):
            return jax.nn.sigmoid(x)

    def add(self, x: jax.Array, y: jax.Array, name: str) -> jax.Array:
        with jax.named_scope(name):
            return x + y

    def multiply(self, x: jax.Array, y: jax.Array, name: str) -> jax.Array:
        with jax.named_scope(name):
            return x * y

    def concatenate(self, x: jax.Array, y: jax.Array, name: str) -> jax.Array:
        with jax.named_scope(name):
            return jnp.concatenate([x, y], axis=-1)

    def max_pool(self, x: jax.Array, name: str) -> jax.Array:
        with jax.named_scope(name):
            return _max_pool_by_shifts(x) if self.lowerings.pool == "shifts" else max_pool(x)

    def average_pool(self, x: jax.Array, name: str, *, counts_padding: bool) -> jax.Array:
        with jax.named_scope(name):
            return average_pool(x, counts_padding=counts_padding)

    def mean(self, x: jax.Array, name: str) -> jax.Array:
        with jax.named_scope(name):
            return x.astype(jnp.float32).mean(axis=(1, 2), keepdims=True).astype(x.dtype)

    def upsample(self, x: jax.Array, name: str, factor: int, method: str) -> jax.Array:
        with jax.named_scope(name):
            return upsample(x, factor, method)


def _by_channel(numbers: Any) -> jax.Array:
    return jnp.asarray(numbers).reshape(1, 1, 1, -1)


def _max_pool_by_shifts(x: jax.Array) -> jax.Array:
    """`model.layers.max_pool` of even sizes: 2x2 blocks, and what lies above and left."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    even, odd = (
        jnp.maximum(jnp.maximum(column[:, :, 0], column[:, :, 1]), _shifted(column[:, :, 1], 1))
        for column in (x[:, :, :, :, 0], x[:, :, :, :, 1])
    )  # of three rows each
    return jnp.maximum(jnp.maximum(even, odd), _shifted(odd, 2))


def _shifted(x: jax.Array, axis: int) -> jax.Array:
    """By one along an axis; what comes in is smaller than all else."""
    padding = [(int(index == axis), 0) for index in range(x.ndim)]
    x = jnp.pad(x, padding, constant_values=-jnp.inf)
    return jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis)
