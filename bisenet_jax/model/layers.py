"""The layers that every box of the network is made of: convolution, batch norm, pooling.

All 3x3 layers pad (1, 1) explicitly: 'SAME' pads (0, 1) at stride 2 on even sizes, which
shifts features by a pixel against every public implementation but TensorFlow's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bisenet_jax.errors import ConfigError
from bisenet_jax.model.convolution import convolve
from bisenet_jax.model.initialization import INITIALIZATIONS, kaiming_normal

Dtype = Any

DEPTHWISE_LOWERINGS = ("shifts", "conv")


@dataclass(frozen=True)
class LayerOptions:
    """What all layers of one network share.

    Attributes:
        dtype: of activations; parameters and batch statistics are always float32.
        batch_norm_momentum: decay of the running statistics (PyTorch's momentum 0.1).
        batch_norm_epsilon: added to the variance.
        conv_bias: a bias beside batch norm (PaddleSeg); the paper's own V1 code has none.
        initialization: `fan_out` or `fan_in` of the kaiming-normal kernels.
        depthwise_lowering: how a depth-wise convolution is written for XLA, see
            `DepthwiseConv`; the numbers are the same.
        frozen_batch_norm: normalise by the running statistics in training too, and leave them
            as they are; scales and biases still learn.
    """

    dtype: Dtype = jnp.float32
    batch_norm_momentum: float = 0.9
    batch_norm_epsilon: float = 1e-5
    conv_bias: bool = False
    initialization: str = "fan_in"
    depthwise_lowering: str = "shifts"
    frozen_batch_norm: bool = False

    def __post_init__(self) -> None:
        require_choice("depthwise_lowering", self.depthwise_lowering, DEPTHWISE_LOWERINGS)
        require_choice("initialization", self.initialization, INITIALIZATIONS)

    @property
    def kernel_init(self) -> Callable[..., jax.Array]:
        """Kaiming normal (paper, section 5.1)."""
        return kaiming_normal(self.initialization)


def require_choice(field: str, value: Any, choices: tuple) -> None:
    """Raise a ConfigError that names the field, its value and the legal ones."""
    if value not in choices:
        raise ConfigError(f"{field} {value!r} is not known; choose from {choices}")


def conv(
    features: int,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    use_bias: bool = False,
    options: LayerOptions,
    name: str,
) -> nn.Conv:
    """Dense convolution, `[B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), features]`."""
    return nn.Conv(
        features,
        kernel_size=(kernel_size, kernel_size),
        strides=(stride, stride),
        padding=kernel_size // 2,
        use_bias=use_bias,
        dtype=options.dtype,
        kernel_init=options.kernel_init,
        conv_general_dilated=lambda x, kernel, *_, **__: convolve(x, kernel, stride),
        name=name,
    )


def batch_norm(
    *, is_training: bool, is_zero_initialized: bool = False, options: LayerOptions, name: str
) -> nn.BatchNorm:
    """Batch normalisation over `[B, H, W]`; statistics are those of the global batch.

    Under `jax.jit` with a sharded batch the mean is taken over all devices, so this is
    synchronised batch norm without further ado.
    """
    return nn.BatchNorm(
        use_running_average=options.frozen_batch_norm or not is_training,
        momentum=options.batch_norm_momentum,
        epsilon=options.batch_norm_epsilon,
        dtype=options.dtype,
        scale_init=nn.initializers.zeros if is_zero_initialized else nn.initializers.ones,
        name=name,
    )


class DepthwiseConv(nn.Module):
    """3x3 depth-wise convolution; output channel `c * multiplier + j` reads input channel `c`.

    `[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C * multiplier]`

    The lowering `shifts` spells it as nine shifted multiply-adds, which XLA fuses with their
    neighbours; `conv` as a grouped convolution, which is one library call, or on CPU a slow
    loop (docs/performance.md).
    """

    multiplier: int = 1
    stride: int = 1
    use_bias: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        shape = (3, 3, 1, channels * self.multiplier)
        kernel = self.param("kernel", self.options.kernel_init, shape, jnp.float32)
        x = x.astype(self.options.dtype)
        if self.options.depthwise_lowering == "conv":
            y = jax.lax.conv_general_dilated(
                x,
                kernel.astype(x.dtype),
                window_strides=(self.stride, self.stride),
                padding=((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=channels,
            )
        else:
            y = depthwise_by_shifts(x, kernel, multiplier=self.multiplier, stride=self.stride)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)
            y = y + bias.reshape(1, 1, 1, -1)
        return y.astype(self.options.dtype)


def depthwise_by_shifts(
    x: jax.Array, kernel: jax.Array, *, multiplier: int, stride: int
) -> jax.Array:
    """`DepthwiseConv` as shifted multiply-adds; the result is float32."""
    height, width = x.shape[1:3]
    # In float32 whatever the activations are: the kernel's gradient is a sum over all pixels,
    # which bfloat16 cannot hold (a third of it was lost on a map of 128x256).
    x = x.repeat(multiplier, axis=-1).astype(jnp.float32)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    last_row, last_column = (height - 1) // stride * stride, (width - 1) // stride * stride
    # Row by row, which XLA makes quicker loops of on CPU.
    rows = []
    for i in range(3):
        row = x[:, i : i + last_row + 1 : stride]
        left, middle, right = (
            row[:, :, j : j + last_column + 1 : stride] * kernel[i, j, 0].reshape(1, 1, 1, -1)
            for j in range(3)
        )
        rows.append(left + middle + right)
    return rows[0] + rows[1] + rows[2]


class ConvBatchNorm(nn.Module):
    """Convolution, batch norm and, unless told otherwise, ReLU: the paper's `Conv2d`."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_relu: bool = True
    is_zero_initialized: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        x = conv(
            self.features,
            kernel_size=self.kernel_size,
            stride=self.stride,
            use_bias=self.options.conv_bias,
            options=self.options,
            name="conv",
        )(x)
        x = batch_norm(
            is_training=is_training,
            is_zero_initialized=self.is_zero_initialized,
            options=self.options,
            name="bn",
        )(x)
        return nn.relu(x) if self.use_relu else x


class DepthwiseConvBatchNorm(nn.Module):
    """Depth-wise convolution and batch norm, with ReLU only where asked for."""

    multiplier: int = 1
    stride: int = 1
    use_relu: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        x = DepthwiseConv(
            self.multiplier,
            stride=self.stride,
            use_bias=self.options.conv_bias,
            options=self.options,
            name="conv",
        )(x)
        x = batch_norm(is_training=is_training, options=self.options, name="bn")(x)
        return nn.relu(x) if self.use_relu else x


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum at stride 2 over `[B, H, W, C]`, the border padded with -inf.

    Padding is a step of its own: as an argument of the pool, ONNX converters drop it.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")


def average_pool(x: jax.Array, *, counts_padding: bool) -> jax.Array:
    """3x3 mean at stride 2 over `[B, H, W, C]`.

    Args:
        x: any floating dtype.
        counts_padding: divide by nine everywhere (PyTorch); else by the pixels inside (Paddle).
    """
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    mean = nn.avg_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")
    if counts_padding:
        return mean
    rows, columns = _window_pixels(height), _window_pixels(width)
    inside = (rows[:, None] * columns[None, :]).reshape(1, rows.size, columns.size, 1)
    return mean * jnp.asarray(9.0 / inside, x.dtype)


def _window_pixels(size: int) -> np.ndarray:
    """How many of the three pixels of each stride-2 window lie inside `[0, size)`."""
    start = np.arange(0, size, 2) - 1
    return np.minimum(start + 3, size) - np.maximum(start, 0)
