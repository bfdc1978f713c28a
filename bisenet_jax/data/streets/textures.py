"""Noises that roughen the synthetic streets: one for all seeds, only its place varies."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Textures:
    """Periodic noises for one size of picture, `[2H, 2W] int8`, standard deviation about 40."""

    grain: np.ndarray  # from pixel to pixel, as of plaster and of a sensor
    leaves: np.ndarray
    clouds: np.ndarray


@lru_cache(maxsize=4)
def screen_textures(height: int, width: int) -> Textures:
    """The textures of a picture of that size."""
    rng = np.random.default_rng(19)
    size = min(height, width)
    white = rng.standard_normal((height, width), dtype=np.float32)
    rough = _noise(rng, height, width, [size // 8, size // 3])
    leaves = _noise(rng, height, width, [size // 24, size // 12, size // 6, size // 3])
    clouds = _noise(rng, height, width, [3, 6, 12, 24], fall=0.6)
    return Textures(
        grain=_as_tile(white + 0.5 * rough),
        leaves=_as_tile(leaves + 0.4 * white),
        clouds=_as_tile(clouds),
    )


def texture_window(
    texture: np.ndarray, rng: np.random.Generator, height: int, width: int
) -> np.ndarray:
    """A window `[height, width] int8` at a random place; at most as large as the picture."""
    top = int(rng.random() * (texture.shape[0] // 2))
    left = int(rng.random() * (texture.shape[1] // 2))
    return texture[top : top + height, left : left + width]


GROUND_TEXELS = 512  # to the side of each ground texture
ASPHALT, PAVING, COBBLES, EARTH = (i * GROUND_TEXELS**2 for i in range(4))  # where each begins


@lru_cache(maxsize=1)
def ground_textures() -> np.ndarray:
    """Asphalt, paving, cobbles and earth, 16 m by 16 m each: `[4 * 512 * 512] int16`."""
    rng = np.random.default_rng(512)
    y, x = np.mgrid[0:GROUND_TEXELS, 0:GROUND_TEXELS]

    def stones(texels: int) -> np.ndarray:
        """One tone for each square of that many texels."""
        count = GROUND_TEXELS // texels
        return np.kron(rng.standard_normal((count, count)), np.ones((texels, texels)))

    speckle = rng.standard_normal((GROUND_TEXELS, GROUND_TEXELS))
    smooth = _noise(rng, GROUND_TEXELS, GROUND_TEXELS, [6, 12, 24, 64, 128])
    cracks = np.abs(_noise(rng, GROUND_TEXELS, GROUND_TEXELS, [8, 16, 32])) < 0.02
    asphalt = 1.3 * smooth + 1.2 * speckle - 5 * cracks
    joints = (x % 32 < 2) | (y % 32 < 2)
    paving = 0.8 * speckle + 1.6 * stones(32) + smooth - 7 * joints
    gaps = ((x + 4 * (y // 8 % 2)) % 8 < 1) | (y % 8 < 1)
    cobbles = 0.8 * speckle + 2 * stones(8) + smooth - 5 * gaps
    earth = 2.6 * smooth + 2.2 * stones(2)
    return np.stack([asphalt, paving, cobbles, earth]).astype(np.int16).reshape(-1)


@lru_cache(maxsize=1)
def cell_tones() -> np.ndarray:
    """Random shades, `[256] int16`, -20 to 20."""
    return np.random.default_rng(256).integers(-20, 21, 256).astype(np.int16)


def _as_tile(noise: np.ndarray) -> np.ndarray:
    scaled = np.clip(noise / noise.std() * 40, -127, 127)
    return np.tile(scaled.astype(np.int8), (2, 2))


def _noise(
    rng: np.random.Generator, height: int, width: int, cells: Sequence[int], fall: float = 0.9
) -> np.ndarray:
    """Periodic value noise, `[height, width] float32`; `cells`: of each octave, per height."""
    total = np.zeros((height, width), np.float32)
    weight = 1.0
    for count in cells:
        down, right = max(count, 2), max(round(count * width / height), 2)
        grid = rng.standard_normal((down, right), dtype=np.float32)
        for axis, size in ((0, height), (1, width)):
            place = np.arange(size) * (grid.shape[axis] / size)
            low = place.astype(np.int64)
            share = (place - low).astype(np.float32)
            share = share * share * (3 - 2 * share)
            share = share[:, None] if axis == 0 else share[None]
            high = (low + 1) % grid.shape[axis]
            grid = grid.take(low, axis) * (1 - share) + grid.take(high, axis) * share
        total += weight * grid
        weight *= fall
    return total
