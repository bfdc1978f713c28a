"""The sides of a synthetic street: houses, walls, fences and hedges along it."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from bisenet_jax.data.streets.canvas import Camera, Canvas, Panel, paint_box
from bisenet_jax.data.streets.palette import FACADES, GLASS, GREENS, GREYS, PAINTS, vary
from bisenet_jax.data.streets.textures import cell_tones


@dataclass(frozen=True)
class Lot:
    """A stretch of one side of the street: a house, a wall, a fence, a hedge or nothing.

    Its face is a grid of bays and storeys; each cell shows a pane in the part between `low`
    and `high` of both: windows of a house, stones of a wall, the gaps of a fence.
    """

    start: float
    end: float
    height: float = 0.0
    face: int = 0  # codes of materials
    pane: int = 0
    roof: int = 0
    storey: float = 3.0
    bay: float = 3.0
    low: float = 0.25
    high: float = 0.8
    eaves: float = math.inf
    shop: float = 0.0  # height of a ground floor that is mostly panes
    variety: int = 0  # of the panes' shades


def plan_houses(canvas: Canvas, rng: np.random.Generator, tone: int) -> list[Lot]:
    """Houses with gaps between them; `tone` is how much lighter the sun makes them."""
    lots: list[Lot] = []
    start = -10 * rng.random()
    share = 0.4 + 0.55 * rng.random()  # of built-up ground
    tall = 6 + 11 * rng.random()
    while start < 130:
        end = start + 7 + 12 * rng.random()
        middle = max((start + end) / 2, 2.0)
        if rng.random() > share:
            lots.append(Lot(start, end))
        else:
            face = canvas.mix("building", vary(rng, FACADES), middle, grain=5)
            pane = canvas.mix("building", vary(rng, GLASS), middle, grain=3)
            roof = canvas.mix("building", vary(rng, PAINTS[4:]), middle, grain=6)
            storey = 2.8 + 0.8 * rng.random()
            eaves = max(round((tall + 7 * rng.random()) / storey), 1) * storey + 0.4
            lots.append(
                Lot(
                    start,
                    end,
                    height=eaves + (3.0 * rng.random() if rng.random() < 0.5 else 0.0),
                    face=face + tone,
                    pane=pane + tone - 6,
                    roof=roof + tone,
                    storey=storey,
                    bay=1.6 + 2.2 * rng.random(),
                    low=0.12 + 0.2 * rng.random(),
                    high=0.7 + 0.18 * rng.random(),
                    eaves=eaves,
                    shop=2.6 if rng.random() < 0.35 else 0.0,
                    variety=20,
                )
            )
        start = end
    return lots


def plan_barriers(canvas: Canvas, rng: np.random.Generator) -> list[Lot]:
    """Walls, fences and hedges, in front of the houses or where there are none."""
    lots: list[Lot] = []
    start = -6 * rng.random()
    share = 0.15 + 0.6 * rng.random()
    while start < 100:
        end = start + 4 + 12 * rng.random()
        if rng.random() > share:
            lots.append(Lot(start, end))
        else:
            lots.append(
                replace(_choose_barrier(canvas, rng, max(start, 4.0)), start=start, end=end)
            )
        start = end
    return lots


def draw_frontage(
    canvas: Canvas,
    camera: Camera,
    laterals: tuple[float, float],
    lots: tuple[list[Lot], list[Lot]],
) -> np.ndarray:
    """Both sides of the street as planes along it; returns their depth, `[W] float32`.

    Lots of one side follow each other without gaps; depth is infinite where nothing stands.
    """
    height, width = canvas.codes.shape
    sides = [_side_depths(camera, lateral) for lateral in laterals]
    is_left = sides[0] <= sides[1]
    depth = np.where(is_left, sides[0], sides[1])
    starts = [np.array([lot.start for lot in side]) for side in lots]
    index = np.where(
        is_left,
        np.searchsorted(starts[0], depth, "right") - 1,
        np.searchsorted(starts[1], depth, "right") - 1 + len(lots[0]),
    )
    columns = _lot_columns(lots[0] + lots[1], index)
    stands = (depth < columns["end"]) & (columns["height"] > 0)
    depth = np.where(stands, depth, np.float32(np.inf))
    if not stands.any():
        return depth
    scale = camera.focal / depth  # 0 where nothing stands
    bottom = np.float32(camera.horizon) + camera.eye * scale
    top = bottom - columns["height"] * scale
    above, below = max(math.floor(top.min()), 0), min(math.ceil(bottom.max()), height)
    rows = np.arange(above, below, dtype=np.float32) + 0.5
    metre = np.where(stands, scale, np.inf).astype(np.float32)
    level = (bottom[None] - rows[:, None]) / metre[None]  # metres above the ground
    along = np.where(stands, depth, 0)
    inside = (level >= 0) & (level < (columns["height"] * stands)[None])
    codes = _cell_codes(columns, level, along, index.astype(np.int16))
    np.copyto(canvas.codes[above:below], codes, where=inside)
    return depth


def draw_gables(
    canvas: Canvas,
    camera: Camera,
    laterals: tuple[float, float],
    lots: tuple[list[Lot], list[Lot]],
) -> None:
    """The faces that houses turn to us where the lot before them is lower, far ones first."""
    for lateral, row in zip(laterals, lots, strict=True):
        side = 1 if lateral > 0 else -1
        for before, lot in reversed(list(zip(row, row[1:], strict=False))):
            if before.height < lot.height and lot.start > 2:
                _draw_gable(canvas, Panel(camera, lateral, lot.start), side, lot)


def _draw_gable(canvas: Canvas, panel: Panel, side: int, lot: Lot) -> None:
    paint_box(canvas, panel, 0, side * 12.0, 0, min(lot.height, lot.eaves), lot.face - 5)
    for storey in range(1, int(lot.eaves / lot.storey)):
        bottom = lot.storey * (storey + 0.3)
        for reach in (2.5, 6.0, 9.5):
            left, right = side * reach, side * (reach + 1.2)
            paint_box(canvas, panel, left, right, bottom, bottom + 1.5, lot.pane - 3)


def _choose_barrier(canvas: Canvas, rng: np.random.Generator, depth: float) -> Lot:
    kind = rng.random()
    tall = 1.0 + 1.6 * rng.random()
    if kind < 0.42:
        face = canvas.mix("wall", vary(rng, PAINTS + GREYS), depth, grain=6)
        stone = 0.25 + 0.35 * rng.random()
        lot = Lot(0, 0, tall, face - 7, face, face + 7, stone, stone * 2, 0.1, 0.92, variety=7)
        return replace(lot, eaves=tall - 0.18)
    if kind < 0.84:
        face = canvas.mix("fence", vary(rng, PAINTS + GREYS), depth, grain=3)
        gap = canvas.mix("fence", vary(rng, GREENS + GREYS), depth, grain=10)
        bay = 0.16 + 0.3 * rng.random()
        return Lot(0, 0, tall, face, gap - 9, face, tall * 0.52, bay, 0.15, 0.85)
    leaves = canvas.mix("vegetation", vary(rng, GREENS), depth, grain=20)
    return Lot(0, 0, tall, leaves, leaves, leaves, 0.7, 0.7, variety=8)


def _lot_columns(lots: list[Lot], index: np.ndarray) -> dict[str, np.ndarray]:
    """Each field of the lot that stands in each column, `[W] float32`."""
    names = [field.name for field in fields(Lot)]
    table = np.array([[getattr(lot, name) for lot in lots] for name in names], np.float32)
    return dict(zip(names, table.take(index, axis=1), strict=True))


def _cell_codes(
    columns: dict[str, np.ndarray], level: np.ndarray, along: np.ndarray, index: np.ndarray
) -> np.ndarray:
    """Panes, faces and roofs, `[rows, W] uint16`.

    Args:
        columns: the fields of the lots, `[W]` each.
        level: `[rows, W] float32`, metres above the ground.
        along: `[W] float32`, metres along the street.
        index: `[W] int16`, number of the lot: it decides how panes differ.
    """
    face, pane, roof = (columns[name].astype(np.uint16) for name in ("face", "pane", "roof"))
    low, high, shop = columns["low"], columns["high"], columns["shop"]
    floors = level * (1 / columns["storey"])[None]
    floor = floors.astype(np.int16)
    floors -= floor
    bays = along / columns["bay"]
    bay = bays.astype(np.int16)
    bays -= bay
    is_pane = (
        (floors > low[None]) & (floors < high[None]) & ((bays > low) & (bays < high))[None]
    )
    is_pane |= (level < shop[None]) & (level > 0.5) & ((bays > 0.08) & (bays < 0.92))[None]
    codes = np.where(is_pane, pane[None], face[None])

    floor *= 7
    floor += (bay * 13 + index)[None]
    floor &= 255
    tone = cell_tones().take(floor) * columns["variety"].astype(np.int16)[None] >> 5
    tone *= is_pane
    tone -= (floors < 0.07).astype(np.int16) << 2  # a ledge at each floor
    codes += tone.view(np.uint16)
    awning = np.where(shop > 0, shop, -1)[None]
    np.copyto(codes, roof[None], where=np.abs(level - awning) < 0.3)
    np.copyto(codes, roof[None], where=level > columns["eaves"][None])
    return codes


def _side_depths(camera: Camera, lateral: float) -> np.ndarray:
    """Depth at which each column meets the plane at `lateral`, `[W] float32`; inf: nowhere."""
    depths = np.geomspace(1.5, 160, 120)
    turn = camera.bend * np.minimum(depths, 90) / 2
    columns = camera.vanishing + camera.focal * ((lateral - camera.offset) / depths + turn)
    pixels = np.arange(camera.width) + 0.5
    # Behind a bend the plane turns back and is hidden by its own nearer part.
    if lateral < camera.offset:
        seen = np.maximum.accumulate(columns)
        found = np.interp(pixels, seen, depths, right=np.inf)
    else:
        seen = np.minimum.accumulate(columns)
        found = np.interp(pixels, seen[::-1], depths[::-1], left=np.inf)
    return found.astype(np.float32)
