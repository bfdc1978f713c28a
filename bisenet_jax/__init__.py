"""BiSeNet V2 in JAX/Flax: model, training, evaluation and speed, measured.

Importing this package loads neither jax nor flax, so that data-loading workers stay light.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bisenet_jax.segmenter import Segmenter

__version__ = "0.1.0"


def load(path: str | os.PathLike[str], *, checkpoint: str | None = None) -> Segmenter:
    """A trained network, ready for pictures.

    Args:
        path: the name of a shipped network, such as `bisenetv2-synthetic`; a weights file
            that export.py wrote; or the workdir of a train.py run.
        checkpoint: of a workdir: `best` (by mIoU), which None means too, `latest`, or a step.

    Raises:
        bisenet_jax.errors.UserError: when nothing that fits is there.
    """
    from bisenet_jax import segmenter

    return segmenter.load(path, checkpoint)
