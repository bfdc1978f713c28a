"""Two CPU devices, no silent rank promotion: every test runs under the strictest rules."""

import atexit
import os
import shutil
import tempfile

# Tests compile much and run little, so that XLA need not optimise; scripts inherit this.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax  # noqa: E402
import pytest  # noqa: E402

from bisenet_jax.config import (  # noqa: E402
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

jax.config.update("jax_num_cpu_devices", 2)
# Many tests build the same program anew: compiled once, it is read back from here. Scripts that
# a test starts as processes find the folder in their environment.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="bisenet_jax_test_")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def tiny_config() -> Config:
    """A whole run of six steps in seconds: every part of the real one, only narrower."""
    return Config(
        model=ModelConfig(
            detail_channels=(8, 8, 16),
            semantic_late_channels=(8, 16),
            semantic_repeats=(1, 1, 2),
            expansion=2,
            head_channels=8,
            booster_channels=(4, 4, 4, 4),
            dropout_rate=0.1,
        ),
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
