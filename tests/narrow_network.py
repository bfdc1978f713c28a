"""A small network and variables to test it with, at little cost."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bisenet_jax.model.bisenetv2 import BiSeNetV2

# Small where the property does not depend on width.
NARROW = {
    "num_classes": 5,
    "detail_channels": (8, 8, 16),
    "semantic_ratio": 0.5,
    "semantic_late_channels": (8, 16),
    "semantic_repeats": (2, 1, 1),
    "expansion": 2,
    "head_channels": 8,
    "booster_channels": (4, 4, 4, 4),
}
# Compiling is most of what these tests cost; the program runs once.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def abstract_variables(module, *inputs, is_training=True):
    """Shapes and dtypes of the variables; computes nothing."""
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    init = partial(module.init, is_training=is_training)
    return jax.eval_shape(init, keys, *inputs)


def random_variables(module, *inputs, seed=0, is_training=True):
    """Variables without a zero among them, statistics included."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[:3])
            values = rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in)
        elif path[-1].key in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) * 0.3
        return jnp.asarray(values, leaf.dtype)

    variables = abstract_variables(module, *inputs, is_training=is_training)
    return jax.tree_util.tree_map_with_path(draw, variables)


def random_images(*shape):
    return jnp.asarray(np.random.default_rng(7).normal(size=shape), jnp.float32)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


IMAGES = random_images(2, 64, 64, 3)
NARROW_MODEL = BiSeNetV2(**NARROW)
