"""The drawing board of the synthetic streets: camera, upright panels, shapes.

Shapes write one number per pixel, the code of a material and a shade of it. Colours and labels
are looked up once, when the finished board is developed: so light, haze and gamma cost nothing
per pixel, and a picture and its labels cannot disagree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bisenet_jax.data.classes import CITYSCAPES, IGNORE
from bisenet_jax.data.streets.palette import Colour
from bisenet_jax.data.streets.textures import Textures, screen_textures

SHADES = 64  # of each material, from black through its own colour to nearly white
MIDDLE = SHADES // 2  # the shade that is the material's own colour

CLASS_IDS = {name: i for i, name in enumerate(CITYSCAPES.names)} | {"void": IGNORE}

Point = tuple[float, float]  # metres on a panel: along it, above the ground


@dataclass(frozen=True)
class Camera:
    """A camera over the road; metres in the world, pixels in the picture."""

    height: int
    width: int
    focal: float
    horizon: float  # row
    vanishing: float  # column
    eye: float  # metres above the road
    offset: float  # metres right of the middle of the road
    bend: float  # curvature of the road, per metre; above 0 it turns right

    def scale(self, depth: float) -> float:
        """Pixels per metre."""
        return self.focal / depth

    def row(self, depth: float) -> float:
        """Row of the ground at that depth."""
        return self.horizon + self.focal * self.eye / depth

    def column(self, lateral: float, depth: float) -> float:
        """Column of a point `lateral` metres right of the middle of the road."""
        turn = self.bend * min(depth, 90.0) / 2
        return self.vanishing + self.focal * ((lateral - self.offset) / depth + turn)

    def sees(self, lateral: float, depth: float, reach: float) -> bool:
        """Whether anything within `reach` metres to either side can be in the picture."""
        column, margin = self.column(lateral, depth), self.scale(depth) * reach
        return -margin < column < self.width + margin


@dataclass(frozen=True)
class Panel:
    """An upright plane that stands on the ground, to draw on in metres.

    It faces the camera, or runs along the road away from it. `stretch` below 1 turns a facing
    panel about its foot (what is on it gets narrower); below 0 it shows the mirror image.
    """

    camera: Camera
    lateral: float
    depth: float
    along: bool = False
    stretch: float = 1.0

    @cached_property
    def scale(self) -> float:
        """Pixels per metre at its near end."""
        return self.camera.scale(self.depth)

    @cached_property
    def foot(self) -> Point:
        """Column and row of its origin, on the ground."""
        camera = self.camera
        return camera.column(self.lateral, self.depth), camera.row(self.depth)

    def spot(self, point: Point) -> Point:
        """Column and row of a point."""
        reach, height = point
        if self.along:
            depth = max(self.depth + reach, 0.5)
            row = self.camera.row(depth) - self.camera.scale(depth) * height
            return self.camera.column(self.lateral, depth), row
        column, row = self.foot
        return column + self.scale * self.stretch * reach, row - self.scale * height


@dataclass
class Canvas:
    """The board, `codes: [H, W] uint16`, and the materials used so far.

    Painting changes it in place: a street is some hundred small strokes on one board.
    """

    codes: np.ndarray
    textures: Textures
    classes: list[int] = field(default_factory=list)
    colours: list[Colour] = field(default_factory=list)
    depths: list[float] = field(default_factory=list)
    grains: list[int] = field(default_factory=list)

    def mix(self, class_name: str, colour: Colour, depth: float = 0.0, grain: int = 8) -> int:
        """A new material; returns the code of its middle shade."""
        self.classes.append(CLASS_IDS[class_name])
        self.colours.append(colour)
        self.depths.append(depth)
        self.grains.append(grain)
        return (len(self.classes) - 1) * SHADES + MIDDLE


def new_canvas(height: int, width: int) -> Canvas:
    """An empty board."""
    codes = np.zeros((height, width), np.uint16)
    return Canvas(codes=codes, textures=screen_textures(height, width))


def paint_box(
    canvas: Canvas,
    panel: Panel,
    left: float,
    right: float,
    bottom: float,
    top: float,
    code: int,
) -> None:
    """A rectangle of the panel; never thinner than a pixel."""
    if panel.along:
        paint_shape(canvas, panel, ((left, top), (right, top)), bottom, code)
        return
    x0, y0 = panel.spot((left, top))
    x1, y1 = panel.spot((right, bottom))
    if x1 < x0:
        x0, x1 = x1, x0
    first, above = math.floor(x0 + 0.5), math.floor(y0 + 0.5)
    last, below = max(math.floor(x1 + 0.5), first + 1), max(math.floor(y1 + 0.5), above + 1)
    canvas.codes[max(above, 0) : max(below, 0), max(first, 0) : max(last, 0)] = code


def paint_shape(
    canvas: Canvas,
    panel: Panel,
    upper: Sequence[Point],
    lower: Sequence[Point] | float,
    code: int,
) -> None:
    """The area between two lines that run from left to right; a number is a level line."""
    if isinstance(lower, (int, float)):
        lower = ((upper[0][0], lower), (upper[-1][0], lower))
    over = [panel.spot(point) for point in upper]
    under = [panel.spot(point) for point in lower]
    if over[-1][0] < over[0][0]:
        over.reverse()
        under.reverse()
    paint_area(canvas, over, under, code)


def paint_area(
    canvas: Canvas, over: Sequence[Point], under: Sequence[Point], code: int
) -> None:
    """The area between two lines of spots (column, row) that run from left to right."""
    height, width = canvas.codes.shape
    first, last = max(math.ceil(over[0][0] - 0.5), 0), min(math.ceil(over[-1][0] - 0.5), width)
    above = max(math.floor(min([y for _, y in over])), 0)
    below = min(math.ceil(max([y for _, y in under])), height)
    if first >= last or above >= below:
        return
    columns = np.arange(first + 0.5, last)
    rows = np.arange(above + 0.5, below)[:, None]
    top = np.interp(columns, [x for x, _ in over], [y for _, y in over])
    bottom = np.interp(columns, [x for x, _ in under], [y for _, y in under])
    inside = (rows >= top[None]) & (rows < bottom[None])
    np.copyto(canvas.codes[above:below, first:last], np.uint16(code), where=inside)


def paint_disc(
    canvas: Canvas, panel: Panel, centre: Point, radius: float, code: int, tall: float = 0.0
) -> None:
    """A disc, or an ellipse with the vertical radius `tall`."""
    x, y = panel.spot(centre)
    x0, _ = panel.spot((centre[0] - radius, centre[1]))
    x1, y1 = panel.spot((centre[0] + radius, centre[1] + (tall or radius)))
    if panel.along:
        y1 = y - (tall or radius) * panel.camera.scale(panel.depth + centre[0])
    half, up = max(abs(x1 - x0) / 2, 0.6), max(abs(y - y1), 0.6)
    height, width = canvas.codes.shape
    first, last = max(math.floor(x - half), 0), min(math.ceil(x + half), width)
    above, below = max(math.floor(y - up), 0), min(math.ceil(y + up), height)
    if first >= last or above >= below:
        return
    across = ((np.arange(first, last, dtype=np.float32) + (0.5 - x)) / half) ** 2
    down = ((np.arange(above, below, dtype=np.float32) + (0.5 - y)) / up) ** 2
    inside = across[None] + down[:, None] < 1
    np.copyto(canvas.codes[above:below, first:last], np.uint16(code), where=inside)


def paint_stroke(
    canvas: Canvas, panel: Panel, start: Point, end: Point, thickness: float, code: int
) -> None:
    """A straight bar with square ends; never thinner than a pixel."""
    (x0, y0), (x1, y1) = panel.spot(start), panel.spot(end)
    codes = canvas.codes
    if abs(x1 - x0) > abs(y1 - y0):  # flat bars are steep ones of the transposed picture
        x0, y0, x1, y1, codes = y0, x0, y1, x1, codes.T
    if y1 < y0:
        x0, y0, x1, y1 = x1, y1, x0, y0
    thick = max(thickness * panel.scale, 1.0)
    thick *= math.hypot(x1 - x0, y1 - y0) / max(y1 - y0, 1e-6)
    above, below = max(math.floor(y0), 0), min(math.ceil(y1), codes.shape[0])
    first = max(math.floor(min(x0, x1) - thick / 2), 0)
    last = min(math.ceil(max(x0, x1) + thick / 2), codes.shape[1])
    if first >= last or above >= below:
        return
    rows = np.arange(above, below) + 0.5
    left = x0 + (rows - y0) * ((x1 - x0) / max(y1 - y0, 1e-6)) - thick / 2
    columns = np.arange(first, last)[None] + 0.5
    inside = (columns >= left[:, None]) & (columns < left[:, None] + thick)
    np.copyto(codes[above:below, first:last], np.uint16(code), where=inside)


def cast_shadow(
    canvas: Canvas, camera: Camera, lateral: float, depth: float, width: float, length: float
) -> None:
    """Darkens a rounded patch of the ground, from `depth` on `length` metres away from us."""
    near, far = camera.scale(depth) * width / 2, camera.scale(depth + length) * width / 2
    top, bottom = camera.row(depth + length), camera.row(depth)
    if near < 1.5:
        return
    near_column = camera.column(lateral, depth)
    far_column = camera.column(lateral, depth + length)
    first = max(math.floor(min(near_column - near, far_column - far)), 0)
    last = min(math.ceil(max(near_column + near, far_column + far)), camera.width)
    above, below = max(math.floor(top), 0), min(math.ceil(bottom), camera.height)
    if first >= last or above >= below:
        return
    share = (np.arange(above + 0.5, below, dtype=np.float32)[:, None] - top) / (bottom - top)
    middle = far_column + share * (near_column - far_column)
    across = np.arange(first + 0.5, last, dtype=np.float32)[None] - middle
    across /= far + share * (near - far)
    across *= across  # squared twice: a power of 4 is many times slower
    across *= across
    down = (2 * share - 1) ** 2
    inside = across + down * down < 1
    codes = canvas.codes[above:below, first:last]
    shade = codes & (SHADES - 1)
    shade *= inside
    codes -= shade * 3 >> 3
