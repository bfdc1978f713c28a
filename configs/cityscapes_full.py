"""Cityscapes, 19 classes, full resolution, from scratch: not yet measured.

    python -m bisenet_jax.data.prepare cityscapes --zips ZIPS --data_dir data
    python train.py --config configs/cityscapes_full.py --workdir runs/cityscapes_full

What public repositories train instead of the paper's halved crops; from scratch they report 73
to 75 mIoU on val, whole frames at full size. Where each value comes from:

- CoinCheung/BiSeNet, lib/models and configs: the network (preset coincheung), crops of
  1024x512 at any scale from 0.25 to 2, jitter of 0.4, mean and deviation of the data set, OHEM
  that keeps pixels below a probability of 0.7 and at least a sixteenth of them, weight decay
  of 5e-4 on kernels only, 150 k steps of 16 frames.
- Both that repository and mmsegmentation warm up for 1000 steps from a tenth; ours is linear
  as in mmsegmentation.
- The learning rate of 0.05 is that of both without a pretrained backbone. CoinCheung's heads
  learn ten times as fast as the rest; here all learn alike, as in mmsegmentation.
"""

from bisenet_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(preset="coincheung"),
        data=DataConfig(
            source="cityscapes",
            root="data",
            mean=(0.3257, 0.3690, 0.3223),
            std=(0.2112, 0.2148, 0.2115),
        ),
        augment=AugmentConfig(
            crop_height=512,
            crop_width=1024,
            scale_range=(0.25, 2.0),
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
        ),
        loss=LossConfig(ohem=True, ohem_threshold=0.7, ohem_min_share=1 / 16),
        optimizer=OptimizerConfig(learning_rate=5e-2, warmup_steps=1000, warmup_start=0.1),
    )
