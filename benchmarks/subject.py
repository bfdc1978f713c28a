"""What is timed: one network with drawn numbers, one size and number of images, one dtype."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bisenet_jax.config import Config
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.inference import make_logits_function
from bisenet_jax.model.bisenetv2 import STRIDE, BiSeNetV2, without_boosters
from bisenet_jax.model.initialization import initialize
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization
from bisenet_jax.weights import Weights

INPUTS = 4
_SPREAD_OF_LOGITS = 3.0


@dataclass(frozen=True)
class Subject:
    """`weights.model` computes in float32; `model` in `dtype`, one of numpy's names."""

    weights: Weights
    height: int
    width: int
    batch: int
    dtype: str

    @property
    def model(self) -> BiSeNetV2:
        return self.weights.model.clone(dtype=self.dtype)

    @property
    def padded_size(self) -> tuple[int, int]:
        """What the network sees: both sides grow to the next multiple of its stride."""
        return self.height + -self.height % STRIDE, self.width + -self.width % STRIDE

    def draw_images(self) -> list[np.ndarray]:
        """Several of `[B, H, W, 3] uint8`, the same with every call."""
        generator = np.random.default_rng(0)
        shape = (self.batch, self.height, self.width, 3)
        return [generator.integers(0, 256, shape, np.uint8) for _ in range(INPUTS)]


def model_of(config: Config) -> BiSeNetV2:
    """The network of a config in float32."""
    fields = dataclasses.asdict(config.model) | {"dtype": "float32"}
    return build_model(num_classes=len(find_class_set(config.data.classes)), **fields)


def draw_weights(config: Config) -> Weights:
    """Numbers for a network, drawn so that each of them matters and no class is preferred.

    Speed does not depend on them. But two engines can only be told apart where every batch norm
    does something and labels differ from pixel to pixel; fresh kernels with untrained batch
    norms give one label everywhere.
    """
    model = model_of(config)
    shape = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), np.float32)
    variables = without_boosters(jax.device_get(initialize(model, jax.random.key(0), shape)))
    generator = np.random.default_rng(3)

    def draw(path: tuple, leaf: np.ndarray) -> np.ndarray:
        if path[-1].key == "kernel":
            deviation = np.prod(leaf.shape[:3]) ** -0.5
            return generator.normal(0, deviation, leaf.shape).astype(np.float32)
        low = 0.5 if path[-1].key in ("scale", "var") else -0.5
        return generator.uniform(low, low + 1, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, variables)
    normalization = Normalization(config.data.mean, config.data.std)
    image = generator.integers(0, 256, (1, 2 * STRIDE, 4 * STRIDE, 3), np.uint8)
    logits = np.asarray(
        make_logits_function(model, variables, normalization)(jnp.asarray(image))
    )
    means = logits.mean((0, 1, 2))
    factor = _SPREAD_OF_LOGITS / (logits - means).std()
    classifier = variables["params"]["head"]["classifier"]
    classifier["kernel"] = classifier["kernel"] * factor
    classifier["bias"] = (classifier["bias"] - means) * factor
    classes = find_class_set(config.data.classes)
    return Weights(model, variables, classes, normalization, config.model.preset)
