"""The paper's comparisons on Cityscapes, a row each, from scratch: not yet measured.

    python train.py --config configs/ablations/cityscapes.py:lambda_1_8 \\
        --workdir runs/lambda_1_8

Everything is as in configs/cityscapes.py but for the fields of the row; docs/ablations.md lists
the rows, and so does the message for a wrong one. A backbone starts from ImageNet with

    --config.init.part=backbone --config.init.weights=resnet18.pth
"""

from bisenet_jax.ablations import ablate
from bisenet_jax.config import Config
from configs import cityscapes


def get_config(row: str = "") -> Config:
    return ablate(cityscapes.get_config(), row)
