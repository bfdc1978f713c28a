"""What every source of data gives, and what the loader makes of it."""

from typing import Protocol, TypedDict

import numpy as np


class Example(TypedDict):
    """One labelled picture: `image [H, W, 3] uint8`, `label [H, W] uint8`, `name`."""

    image: np.ndarray
    label: np.ndarray
    name: str


class Batch(TypedDict):
    """`image [B, H, W, 3] uint8`, `label [B, H, W] uint8`, `name`: `B` strings.

    `size [B, 2] int32` is the height and width of each frame, which lies at the top left of its
    canvas; beyond it the canvas means nothing.
    """

    image: np.ndarray
    label: np.ndarray
    size: np.ndarray
    name: list[str]


class Source(Protocol):
    """Labelled pictures in a fixed order; can be pickled if worker processes read it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
