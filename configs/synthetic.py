"""The built-in streets, on any machine: not yet measured.

python train.py --config configs/synthetic.py --workdir runs/synthetic
"""

from bisenet_jax.config import AugmentConfig, Config, DataConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="synthetic", height=256, width=512, val_images=50),
        augment=AugmentConfig(crop_height=128, crop_width=256, scales=(0.75, 1.0, 1.25)),
        optimizer=OptimizerConfig(warmup_steps=20),
        train=TrainConfig(steps=300, batch_size=8, evaluate_every=150, checkpoint_every=150),
    )
