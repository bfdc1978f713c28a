"""COCO-Stuff as in the paper, 171 classes, crops of 640x640, from scratch: not yet measured.

    python train.py --config configs/coco_stuff.py --workdir runs/coco_stuff \\
        --config.data.root=COCO_STUFF

COCO_STUFF holds COCO-Stuff 10k (9,000 / 1,000 pictures), which the paper uses, or 164k (118,287
/ 5,000), in a layout that bisenet_jax/data/coco_stuff.py shows. Scores on the two cannot be
compared. No picture is larger than the canvas of 640x640.
"""

from bisenet_jax.config import AugmentConfig, Config, DataConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            source="coco_stuff",
            root="data/coco_stuff",
            classes="coco_stuff",
            canvas_height=640,
            canvas_width=640,
        ),
        augment=AugmentConfig(crop_height=640, crop_width=640),
        optimizer=OptimizerConfig(weight_decay=1e-4),
        train=TrainConfig(steps=20_000, evaluate_every=2000, checkpoint_every=1000),
    )
