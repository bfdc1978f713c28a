"""The ground of a synthetic street: road, kerbs, sidewalks and grass in perspective."""

import math
from dataclasses import dataclass

import numpy as np

from bisenet_jax.data.streets.canvas import MIDDLE, Camera, Canvas
from bisenet_jax.data.streets.light import Light
from bisenet_jax.data.streets.palette import GREENS, GREYS, vary
from bisenet_jax.data.streets.textures import (
    ASPHALT,
    COBBLES,
    EARTH,
    GROUND_TEXELS,
    PAVING,
    ground_textures,
)


@dataclass(frozen=True)
class Verge:
    """One side of the street, from the kerb outwards; widths in metres."""

    strip: float  # grass or earth
    walk: float  # sidewalk
    garden: float  # from the barrier at the walk's outer edge to the buildings


@dataclass(frozen=True)
class Street:
    """A street across: the road reaches `half` metres to either side of its middle."""

    half: float
    left: Verge
    right: Verge

    def barrier(self, side: int) -> float:
        """Where walls and fences stand, on the left (-1) or right (1)."""
        verge = self.left if side < 0 else self.right
        return side * (self.half + 0.3 + verge.strip + verge.walk)

    def front(self, side: int) -> float:
        """Where buildings stand, on the left (-1) or right (1)."""
        verge = self.left if side < 0 else self.right
        return self.barrier(side) + side * verge.garden


def draw_ground(
    canvas: Canvas, camera: Camera, street: Street, light: Light, rng: np.random.Generator
) -> None:
    """Road, kerbs, sidewalks and grass in perspective, with lane marks and shadows."""
    height, width = canvas.codes.shape
    above = max(math.ceil(camera.horizon + 0.5), 0)
    rows = np.arange(above, height, dtype=np.float32) + 0.5
    depth = camera.focal * camera.eye / (rows - camera.horizon)  # [rows]
    middle = camera.vanishing + camera.focal * camera.bend * np.minimum(depth, 90) / 2
    columns = np.arange(width, dtype=np.float32) + 0.5
    lateral = (columns[None] - middle[:, None]) * (depth / camera.focal)[:, None]
    lateral += np.float32(camera.offset)

    region = np.zeros(lateral.shape, np.uint8)
    for edge in _edges(street):
        region += lateral >= np.float32(edge)
    codes, textures = _ground_materials(canvas, street, rng)
    painted = codes.take(region)

    # The textures lie one after another in one line, so that a single look-up serves all.
    place = (lateral * 32).astype(np.int32)
    place &= GROUND_TEXELS - 1
    along = (depth * 32).astype(np.int32) & (GROUND_TEXELS - 1)
    place += (along * GROUND_TEXELS)[:, None]
    place += textures.take(region)
    relief = ground_textures().take(place)
    clear = np.clip(camera.focal / depth / 30, 0.1, 1) * 128
    relief = (relief * clear.astype(np.int16)[:, None]) >> 7
    if light.sun:
        reach = street.half * (0.2 + 1.2 * rng.random())
        edge = reach + street.half * 0.5 * rng.random(16)[(depth / 9).astype(np.int32) & 15]
        edge = edge.astype(np.float32)[:, None]
        relief -= np.where(lateral * np.float32(light.sun) > edge, np.int16(10), np.int16(0))
    marks = _lane_marks(lateral, depth, street, rng)
    painted[marks] = canvas.mix("road", vary(rng, ((0.78, 0.78, 0.76),)), grain=10)
    relief += np.clip((depth / 8).astype(np.int16), 0, 5)[:, None]
    np.clip(relief, -MIDDLE + 8, MIDDLE - 8, out=relief)  # leaves room for lighter kerbs
    canvas.codes[above:] = painted + relief.view(np.uint16)


def _edges(street: Street) -> tuple[float, ...]:
    """Lateral borders of the nine regions of the ground, from left to right."""
    half, kerb = street.half, street.half + 0.3
    left, right = kerb + street.left.strip, kerb + street.right.strip
    outer = street.barrier(-1), street.barrier(1)
    return (outer[0], -left, -kerb, -half, half, kerb, right, outer[1])


def _ground_materials(
    canvas: Canvas, street: Street, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Code and offset of the texture of each region, `[9] uint16` and `[9] int32`."""
    stone = vary(rng, GREYS)
    road = canvas.mix("road", vary(rng, GREYS), grain=5)
    walk = canvas.mix("sidewalk", stone, grain=6)
    kerb = canvas.mix("sidewalk", vary(rng, (stone,)), grain=5) + 5
    grass = canvas.mix("terrain", vary(rng, GREENS), grain=10)
    lawn = canvas.mix("terrain", vary(rng, GREENS), grain=10)
    is_paved = rng.random(2) < 0.3
    floor = PAVING if rng.random() < 0.6 else COBBLES
    yards = [walk if paved else lawn for paved in is_paved]
    yard_floors = [floor if paved else EARTH for paved in is_paved]
    codes = (yards[0], walk, grass, kerb, road, kerb, grass, walk, yards[1])
    textures = (
        *(yard_floors[0], floor, EARTH, ASPHALT, ASPHALT),
        *(ASPHALT, EARTH, floor, yard_floors[1]),
    )
    return np.array(codes, np.uint16), np.array(textures, np.int32)


def _lane_marks(
    lateral: np.ndarray, depth: np.ndarray, street: Street, rng: np.random.Generator
) -> np.ndarray:
    """Where paint lies on the road, `[rows, W] bool`."""
    phase = 12 * rng.random()
    is_dash = (np.mod(depth + phase, 9) < 4.5)[:, None]
    half = np.float32(street.half)
    width = np.float32(0.07 + 0.04 * rng.random())
    away = np.abs(lateral)
    marks = away < width
    if rng.random() < 0.7:
        marks &= is_dash
    if street.half > 5.5:
        marks |= (np.abs(away - half / 2) < width) & is_dash
    if rng.random() < 0.5:
        marks |= np.abs(away - (half - np.float32(0.4))) < width
    if rng.random() < 0.35:
        near = 7 + 16 * rng.random()
        crossing = np.flatnonzero((depth > near) & (depth < near + 3.5))
        if len(crossing):
            rows = slice(crossing[0], crossing[-1] + 1)
            marks[rows] = (np.mod(lateral[rows], 1) < 0.5) & (away[rows] < half - 0.3)
    return marks
