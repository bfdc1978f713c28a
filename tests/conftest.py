"""Two CPU devices, no silent rank promotion: every test runs under the strictest rules."""

import atexit
import dataclasses
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

# Tests compile much and run little, so that XLA need not optimise; scripts inherit this.
_QUICK = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):
    # A training step compiles in a third of the time; later versions end at this flag.
    _QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _QUICK)
# Many tests build the same program anew: compiled once, it is read back from here by all of
# pytest's workers, which are started with this environment, and by the scripts that they start.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="bisenet_jax_test_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from benchmarks.tiny import NARROW, narrow_model  # noqa: E402
from bisenet_jax.config import (  # noqa: E402
    AugmentConfig,
    Config,
    DataConfig,
    OptimizerConfig,
    TrainConfig,
)
from bisenet_jax.data.classes import CAMVID  # noqa: E402
from bisenet_jax.data.synthetic import draw_street  # noqa: E402
from bisenet_jax.inference import make_logits_function  # noqa: E402
from bisenet_jax.model.presets import build_model  # noqa: E402
from bisenet_jax.normalization import Normalization  # noqa: E402
from bisenet_jax.weights import Score, Weights  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def tiny_config(make_tiny_config) -> Config:
    """A whole run of six steps in seconds: every part of the real one, only narrower."""
    return make_tiny_config()


@pytest.fixture(scope="session")
def make_tiny_config() -> Callable[[], Config]:
    return _make_tiny_config


def _make_tiny_config() -> Config:
    return Config(
        model=narrow_model(semantic_repeats=(1, 1, 2)),
        data=DataConfig(height=64, width=128, train_images=8, val_images=3),
        augment=AugmentConfig(crop_height=64, crop_width=64, brightness=0.2),
        optimizer=OptimizerConfig(learning_rate=0.02, warmup_steps=1),
        train=TrainConfig(
            steps=6,
            batch_size=4,
            log_every=1,
            evaluate_every=3,
            checkpoint_every=2,
            evaluate_batch_size=2,
        ),
    )


@pytest.fixture(scope="session")
def random_weights() -> Callable[..., Weights]:
    """Makes narrow networks of CamVid's classes, boosters included, their numbers drawn.

    Takes a preset and fields of the model. The classifier is set so that no class is preferred:
    pictures get many labels.
    """
    return _random_weights


@pytest.fixture(scope="session")
def tiny_weights() -> Weights:
    """One of them, with all that is known of a trained one."""
    return dataclasses.replace(
        _random_weights("coincheung"),
        training={"train": {"steps": 6}},
        score=Score(0.5, "val", "whole images"),
        step=6,
    )


@functools.cache
def _random_weights(preset: str, **fields: Any) -> Weights:
    model = build_model(preset, num_classes=len(CAMVID), **(NARROW | fields))
    random = np.random.default_rng(3)
    shapes = jax.eval_shape(
        lambda: model.init(
            {"params": jax.random.key(0), "dropout": jax.random.key(0)},
            np.zeros((1, 32, 32, 3), np.float32),
            is_training=True,
        )
    )

    def draw(path, leaf) -> np.ndarray:
        if path[-1].key == "kernel":
            return random.normal(0, np.prod(leaf.shape[:3]) ** -0.5, leaf.shape).astype("f4")
        low = 0.5 if path[-1].key in ("scale", "var") else -0.5
        return random.uniform(low, low + 1, leaf.shape).astype("f4")

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    normalization = Normalization(mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
    image, _ = draw_street(1, 0, 64, 96)
    logits = make_logits_function(model, variables, normalization)(image[None])
    classifier, scale = variables["params"]["head"]["classifier"], 3 / np.std(logits)
    classifier["kernel"] *= scale
    classifier["bias"] = scale * (classifier["bias"] - np.mean(logits, (0, 1, 2)))
    return Weights(
        model=model,
        variables=variables,
        class_set=CAMVID,
        normalization=normalization,
        preset=preset,
    )
