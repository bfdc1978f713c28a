"""CamVid as in the paper, 11 classes, 960x720 frames, from scratch: not yet measured.

    python train.py --config configs/camvid_960x720.py --workdir runs/camvid_960x720 \\
        --config.data.root=CAMVID

CAMVID holds the original pictures, such as 701_StillsRaw_full/ and LabeledApproved_full/. Not
known of the paper: whether it groups the 32 colours (`camvid`, here) or takes 11 of them
(--config.data.classes=camvid_exact), and whether the tested network has seen val as well
(--config.data.train_split=trainval; its scores on val then say nothing, and the network to test
is the last one: evaluate.py --checkpoint latest --split test).

720 is no multiple of 32. The crop has 736 rows: strided convolutions make 23 rows of 720 or of
736, and inference pads to the same 736. At scale 1 the 16 rows beyond the frame hold the mean
colour and are ignored; 704 rows would never show the network a whole frame.
"""

from bisenet_jax.config import AugmentConfig, Config, DataConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="camvid", root="data/camvid_960x720", classes="camvid"),
        augment=AugmentConfig(crop_height=736, crop_width=960),
        train=TrainConfig(steps=10_000, evaluate_every=500, checkpoint_every=500),
    )
