"""Channels that let nothing through, found before a new picture opens one of them.

Batch norm then divides by the root of a running variance of zero, and what comes out is
hundreds of times too large: docs/training.md tells how a run ended so.
"""

from typing import Any

import jax
import numpy as np

PyTree = Any

# Far below the epsilon of any batch norm, and 0.9 ** 200: shut for some 200 steps.
_NOTHING = 1e-9
_FEW = 0.01  # of the channels; some are shut in good networks, too


def count_shut_channels(batch_stats: PyTree) -> tuple[int, int]:
    """How many channels have a running variance of nothing, and how many there are.

    Args:
        batch_stats: of a network, `mean` and `var` of each batch norm.
    """
    variances = [
        np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch_stats)
        if path[-1].key == "var"
    ]
    shut = sum(int((variance < _NOTHING).sum()) for variance in variances)
    return shut, sum(variance.size for variance in variances)


def complaint(shut: int, channels: int) -> str | None:
    """What to tell where not only a few are shut."""
    if shut <= _FEW * channels:
        return None
    return (
        f"{shut:,} of {channels:,} channels have a running variance of zero: whole images may "
        "come out wrong where crops do not. Lower config.optimizer.learning_rate or raise "
        "config.train.batch_size (docs/training.md)"
    )
