"""How 8-bit pixels become the network's input; the constants travel with the weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Normalization(NamedTuple):
    """Mean and standard deviation of red, green and blue, in units of full brightness.

    The defaults are ImageNet's, as in the authors' V1 code (TorchSeg); for V2 the paper names
    none.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def normalize(self, images: jax.Array) -> jax.Array:
        """`[..., 3]`, any real dtype from 0 to 255 -> float32, zero mean and unit deviation."""
        scale = jnp.asarray([1 / (255 * std) for std in self.std], jnp.float32)
        shift = jnp.asarray(
            [mean / std for mean, std in zip(self.mean, self.std, strict=True)], jnp.float32
        )
        last_axis = (1,) * (images.ndim - 1) + (3,)
        return images.astype(jnp.float32) * scale.reshape(last_axis) - shift.reshape(last_axis)
