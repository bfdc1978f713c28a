"""A run in which a step takes milliseconds: what soak.py kills and health.py watches.

python train.py --config benchmarks/tiny.py --workdir runs/tiny
"""

from typing import Any

from bisenet_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

# Every part of the network, none wider than it must be.
NARROW: dict[str, Any] = {
    "detail_channels": (8, 8, 16),
    "semantic_late_channels": (8, 16),
    "semantic_repeats": (1, 1, 1),
    "expansion": 2,
    "head_channels": 8,
    "booster_channels": (4, 4, 4, 4),
}


def narrow_model(**fields: Any) -> ModelConfig:
    """The narrow network that benchmarks and tests train, with other fields where given."""
    return ModelConfig(**(NARROW | {"dropout_rate": 0.1} | fields))


def get_config() -> Config:
    return Config(
        model=narrow_model(),
        data=DataConfig(height=64, width=64, train_images=64, val_images=16, threads=1),
        augment=AugmentConfig(crop_height=64, crop_width=64, brightness=0.2),
        optimizer=OptimizerConfig(learning_rate=0.02, warmup_steps=5, ema_decay=0.9),
        train=TrainConfig(
            steps=200,
            batch_size=2,
            log_every=1,
            evaluate_every=6,
            checkpoint_every=4,
            keep_checkpoints=3,
            evaluate_batch_size=2,
        ),
    )
