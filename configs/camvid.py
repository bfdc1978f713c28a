"""CamVid, 11 classes, 480x360 frames, from scratch: not yet measured.

    python train.py --config configs/camvid.py --workdir runs/camvid --config.data.root=CAMVID

CAMVID holds train/ and val/, each with images/NAME.jpg and labels/NAME.png (grey, 0 to 10 and
255), or the frames in any other layout that bisenet_jax/data/camvid.py shows: the 367 / 101
frames of the SegNet split.
"""

from bisenet_jax.config import AugmentConfig, Config, DataConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="camvid", root="data/camvid", classes="camvid"),
        augment=AugmentConfig(crop_height=352, crop_width=480),
        # The paper knows no warm-up, and has frames of 960x720: configs/camvid_960x720.py.
        optimizer=OptimizerConfig(warmup_steps=200),
        train=TrainConfig(steps=10_000, evaluate_every=500, checkpoint_every=500),
    )
