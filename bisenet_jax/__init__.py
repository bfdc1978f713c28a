"""BiSeNet V2 in JAX/Flax: model, training, evaluation and speed, measured.

Importing this package loads neither jax nor flax, so that data-loading workers stay light.
"""

__version__ = "0.1.0"
