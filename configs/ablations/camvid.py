"""The paper's comparisons on CamVid at 480x360, for smaller machines: not yet measured.

    python train.py --config configs/ablations/camvid.py:no_context --workdir runs/no_context \\
        --config.data.root=CAMVID

Everything is as in configs/camvid.py but for the fields of the row; docs/ablations.md lists the
rows, and so does the message for a wrong one. The paper has its comparisons on Cityscapes.
"""

from bisenet_jax.ablations import ablate
from bisenet_jax.config import Config
from configs import camvid


def get_config(row: str = "") -> Config:
    return ablate(camvid.get_config(), row)
