"""CamVid at 480x360 from scratch in about two hours on two CPU cores, in two stages.

    python train.py --config configs/camvid_two_cores.py:small --workdir runs/small \\
        --config.data.root=CAMVID
    python export.py --workdir runs/small --checkpoint latest --boosters \\
        --output small.safetensors
    python train.py --config configs/camvid_two_cores.py:full --workdir runs/full \\
        --config.data.root=CAMVID --config.init.weights=small.safetensors

The network is the public reading of the paper (docs/deviations.md), whose weights are smaller,
with the paper's heads. Both stages train by Muon (docs/training.md), not by the paper's SGD.
`small` shows frames at about half their size, where a cheap crop holds nearly all of one;
`full` goes on at their own. With a GPU take configs/camvid.py.
"""

from bisenet_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from bisenet_jax.errors import ConfigError

# Roots of what bisenet_jax.data.check suggests, of mean 1: rare classes count more, but not
# thirteen times as much.
CLASS_WEIGHTS = (0.56, 0.49, 1.37, 0.43, 0.93, 0.70, 1.33, 1.34, 0.85, 1.46, 1.56)


def get_config(stage: str = "full") -> Config:
    if stage == "small":
        crop, scales, jitter = (192, 256), (0.4, 0.8), (0.4, 0.3, 0.3)
        optimizer = OptimizerConfig("muon", learning_rate=0.01, warmup_steps=50)
        train = TrainConfig(steps=1200, batch_size=8, evaluate_every=600, checkpoint_every=200)
    elif stage == "full":
        crop, scales, jitter = (256, 352), (0.5, 1.75), (0.5, 0.4, 0.4)
        optimizer = OptimizerConfig(
            "muon", learning_rate=0.005, weight_decay=0.1, warmup_steps=50, ema_decay=0.999
        )
        train = TrainConfig(steps=9000, batch_size=4, evaluate_every=1000, checkpoint_every=500)
    else:
        raise ConfigError(f"stage {stage!r} of camvid_two_cores.py is none of: small, full")
    return Config(
        model=ModelConfig(
            preset="coincheung", head_channels=256, booster_form="segmentation_head"
        ),
        data=DataConfig(source="camvid", root="data/camvid", classes="camvid"),
        augment=AugmentConfig(
            crop_height=crop[0],
            crop_width=crop[1],
            scale_range=scales,
            # The frames of val are darker than those of train.
            brightness=jitter[0],
            contrast=jitter[1],
            saturation=jitter[2],
        ),
        loss=LossConfig(class_weights=CLASS_WEIGHTS),
        optimizer=optimizer,
        train=train,
    )
