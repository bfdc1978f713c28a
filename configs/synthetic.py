"""The built-in streets, 19 classes, on any machine: what `make demo` trains.

    python train.py --config configs/synthetic.py --workdir runs/synthetic

Whole frames of 320x160, so that three minutes on two CPU cores suffice to see it learn.
Measured results: docs/results.md.
"""

from bisenet_jax.config import AugmentConfig, Config, DataConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="synthetic", height=160, width=320, val_images=50),
        augment=AugmentConfig(crop_height=160, crop_width=320, scales=(1.0, 1.25)),
        optimizer=OptimizerConfig(warmup_steps=30),
        train=TrainConfig(steps=360, batch_size=4, evaluate_every=120, checkpoint_every=120),
    )
