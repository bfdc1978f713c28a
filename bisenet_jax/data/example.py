"""What every source of data gives, and what the loader makes of it."""

from typing import NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np


class Example(TypedDict):
    """One labelled picture: `image [H, W, 3] uint8`, `label [H, W] uint8`, `name`."""

    image: np.ndarray
    label: np.ndarray
    name: str


class Batch(TypedDict):
    """`image [B, H, W, 3] uint8`, `label [B, H, W] uint8`, `name`: `B` strings.

    `size [B, 2] int32` is each frame's own height and width; it lies at the top left of H x W,
    and beyond it the image is black, the label ignored.
    """

    image: np.ndarray
    label: np.ndarray
    size: np.ndarray
    name: list[str]


class Frame(NamedTuple):
    """What can be said of an example without decoding its pixels."""

    name: str
    height: int
    width: int


class Source(Protocol):
    """Labelled pictures in a fixed order; can be pickled if worker processes read it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@runtime_checkable
class NamedSource(Protocol):
    """A source that knows the names of its examples without reading them."""

    def name(self, index: int) -> str: ...


def name_of(source: Source, index: int) -> str:
    """The name of an example, or its index; nothing is read, as the disk may hang."""
    return source.name(index) if isinstance(source, NamedSource) else f"frame {index}"
