"""Your own pictures and label maps: not measured, since they are yours.

    python -m bisenet_jax.data.check --config configs/folder.py --save_dir sheets
    python train.py --config configs/folder.py --workdir runs/mine

ROOT/train and ROOT/val each hold images/NAME.jpg and labels/NAME.png, ROOT/classes.json names
the classes (docs/data.md shows one). Then adapt: crops as large as memory allows and no larger
than most frames, steps for some hundred epochs, mean and std as the check prints them.
"""

from bisenet_jax.config import AugmentConfig, Config, DataConfig, OptimizerConfig, TrainConfig

ROOT = "data/mine"


def get_config() -> Config:
    return Config(
        data=DataConfig(source="folder", root=ROOT, classes=f"{ROOT}/classes.json"),
        augment=AugmentConfig(crop_height=512, crop_width=512),
        optimizer=OptimizerConfig(warmup_steps=200),  # the paper knows none
        train=TrainConfig(steps=10_000, evaluate_every=500, checkpoint_every=500),
    )
