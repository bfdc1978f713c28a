"""What a network in inference is made of; ONNX graphs and JAX arrays have it their own way."""

from typing import Protocol, TypeVar

from bisenet_jax.fast.folding import Convolution, ScaleShift

T = TypeVar("T")


class Operators(Protocol[T]):
    """One way to compute, on feature maps of the type T.

    Each operator is told the name of its result, which no other result has.
    """

    def conv(
        self, x: T, name: str, layer: Convolution, *, stride: int = 1, relu: bool = False
    ) -> T:
        """Padded by half its kernel; depth-wise where the kernel is."""
        ...

    def scale_shift(self, x: T, name: str, layer: ScaleShift) -> T:
        """`x * scale + shift` by channel."""
        ...

    def relu(self, x: T, name: str) -> T:
        """The larger of 0 and x."""
        ...

    def sigmoid(self, x: T, name: str) -> T:
        """`1 / (1 + exp(-x))`."""
        ...

    def add(self, x: T, y: T, name: str) -> T:
        """`y` may be one pixel for all of `x`."""
        ...

    def multiply(self, x: T, y: T, name: str) -> T:
        """Pixel by pixel."""
        ...

    def concatenate(self, x: T, y: T, name: str) -> T:
        """Along the channels."""
        ...

    def max_pool(self, x: T, name: str) -> T:
        """3x3 at stride 2."""
        ...

    def average_pool(self, x: T, name: str, *, counts_padding: bool) -> T:
        """3x3 at stride 2."""
        ...

    def mean(self, x: T, name: str) -> T:
        """Over the whole map; one pixel is left."""
        ...

    def upsample(self, x: T, name: str, factor: int, method: str) -> T:
        """By one of `bisenet_jax.resize.METHODS`."""
        ...
