"""Cityscapes, 19 classes, the paper's recipe, from scratch: not yet measured.

    python -m bisenet_jax.data.prepare cityscapes --zips ZIPS --data_dir data
    python train.py --config configs/cityscapes.py --workdir runs/cityscapes

A frame is scaled by 0.75 to 2, a crop of 2048x1024 is taken and halved: the network sees
1024x512, and sees val so, too (protocol half). Steps, batch, learning rate and weight decay
are the paper's and the defaults; its 73.4 mIoU is the goal.

16 whole frames have to be decoded for each step: on a machine with many cores set
--config.data.threads to their number, or repack once by --config.data.cache=jpeg.
--config.data.root may also be the folder that the two zips were extracted into.
"""

from bisenet_jax.config import AugmentConfig, Config, DataConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="cityscapes", root="data"),
        augment=AugmentConfig(crop_height=1024, crop_width=2048, shrink=2),
    )
