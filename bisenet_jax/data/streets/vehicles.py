"""Cars, vans, lorries, buses and trams of the synthetic streets, drawn from simple bodies."""

from dataclasses import dataclass

import numpy as np

from bisenet_jax.data.streets.canvas import (
    Camera,
    Canvas,
    Panel,
    Point,
    cast_shadow,
    paint_area,
    paint_box,
    paint_disc,
    paint_shape,
)
from bisenet_jax.data.streets.palette import PAINTS, vary


@dataclass(frozen=True)
class Body:
    """A vehicle in metres; lengthwise numbers are shares of the length, from tail to nose."""

    class_name: str
    length: float
    width: float
    height: float
    outline: tuple[Point, ...]  # the upper edge seen from the side
    panes: tuple[tuple[Point, ...], ...]  # upper edges of the side windows
    sill: float  # lower edge of the windows, all round
    wheels: tuple[float, ...]
    radius: float
    # Where rear and front window begin and where they meet the roof, in metres from tail and
    # nose: cars only, the others are upright.
    rear: Point = (0.0, 0.0)
    front: Point = (0.0, 0.0)
    roof: float = 1.0  # width of the roof, as a share
    floor: float = 0.2  # lower edge of the body


SALOON = Body(
    *("car", 4.5, 1.8, 1.45),
    outline=(
        *((0, 0.6), (0.02, 0.95), (0.14, 1.0), (0.27, 1.4), (0.42, 1.45), (0.58, 1.42)),
        *((0.74, 0.98), (0.96, 0.82), (1, 0.55)),
    ),
    panes=(
        ((0.2, 1.0), (0.29, 1.33), (0.42, 1.38), (0.43, 1.0)),
        ((0.455, 1.0), (0.46, 1.38), (0.57, 1.35), (0.69, 1.0)),
    ),
    sill=0.95,
    wheels=(0.19, 0.82),
    radius=0.33,
    rear=(0.6, 1.2),
    front=(1.15, 1.9),
    roof=0.84,
)
HATCHBACK = Body(
    *("car", 3.9, 1.7, 1.5),
    outline=(
        *((0, 0.6), (0.02, 1.0), (0.09, 1.4), (0.3, 1.5), (0.55, 1.47), (0.74, 1.0)),
        *((0.96, 0.84), (1, 0.55)),
    ),
    panes=(
        ((0.1, 1.02), (0.15, 1.36), (0.38, 1.42), (0.39, 1.02)),
        ((0.42, 1.02), (0.425, 1.42), (0.53, 1.4), (0.69, 1.02)),
    ),
    sill=0.98,
    wheels=(0.18, 0.82),
    radius=0.33,
    rear=(0.1, 0.38),
    front=(1.0, 1.75),
    roof=0.86,
)
VAN = Body(
    *("car", 4.9, 1.95, 2.0),
    outline=(
        (0, 0.6),
        (0.01, 1.9),
        (0.06, 2.0),
        (0.7, 1.98),
        (0.86, 1.2),
        (0.98, 1.0),
        (1, 0.5),
    ),
    panes=(
        ((0.06, 1.2), (0.07, 1.75), (0.38, 1.77), (0.38, 1.2)),
        ((0.42, 1.2), (0.42, 1.77), (0.68, 1.75), (0.8, 1.2)),
    ),
    sill=1.15,
    wheels=(0.18, 0.82),
    radius=0.36,
    rear=(0.03, 0.25),
    front=(0.7, 1.45),
    roof=0.93,
)
LORRY = Body(
    *("truck", 8.5, 2.5, 3.5),
    outline=(
        *((0, 3.45), (0.72, 3.5), (0.725, 1.0), (0.755, 1.0), (0.76, 2.6), (0.79, 2.85)),
        *((0.985, 2.8), (1, 2.55)),
    ),
    panes=(((0.84, 1.55), (0.84, 2.4), (0.93, 2.4), (0.965, 1.55)),),
    sill=1.5,
    wheels=(0.14, 0.24, 0.86),
    radius=0.5,
    roof=0.95,
    floor=0.6,
)
BUS = Body(
    *("bus", 11.5, 2.5, 3.1),
    outline=((0, 2.85), (0.01, 3.06), (0.2, 3.1), (0.97, 3.1), (0.99, 3.06), (1, 2.85)),
    panes=tuple(
        ((left, 1.3), (left, 2.55), (left + 0.125, 2.55), (left + 0.125, 1.3))
        for left in (0.03, 0.175, 0.32, 0.465, 0.61, 0.755, 0.87)
    ),
    sill=1.25,
    wheels=(0.25, 0.8),
    radius=0.5,
    roof=0.96,
    floor=0.35,
)
TRAM = Body(
    *("train", 24.0, 2.4, 3.5),
    outline=((0, 2.6), (0.02, 3.4), (0.5, 3.45), (0.98, 3.4), (1, 2.6)),
    panes=tuple(
        ((left, 1.4), (left, 2.7), (left + 0.065, 2.7), (left + 0.065, 1.4))
        for left in (0.03, 0.11, 0.19, 0.26, 0.36, 0.44, 0.52, 0.59, 0.69, 0.77, 0.85, 0.91)
    ),
    sill=1.35,
    wheels=(),
    radius=0.4,
    roof=0.8,
    floor=0.12,
)
CARS = (SALOON, HATCHBACK, VAN)


def draw_vehicle(
    canvas: Canvas,
    camera: Camera,
    lateral: float,
    depth: float,
    rng: np.random.Generator,
    body: Body,
    is_oncoming: bool = False,
    across: int = 0,
) -> None:
    """A vehicle along the road, or across it, to the left (`across` -1) or right (1)."""
    reach = body.length if across else body.width
    ends = (depth, depth + body.length)
    if not any(camera.sees(lateral, end, reach) for end in ends):
        return
    paint = canvas.mix(body.class_name, vary(rng, PAINTS), depth, grain=3)
    second = canvas.mix(body.class_name, vary(rng, PAINTS), depth, grain=3)
    trim = canvas.mix(body.class_name, (0.2, 0.21, 0.23), depth, grain=3)
    load = second if rng.random() < 0.7 else paint
    if across:
        cast_shadow(canvas, camera, lateral, depth - 0.3, body.length * 1.05, body.width + 0.6)
        start = lateral - across * body.length / 2
        side = Panel(camera, start, depth, stretch=float(across))
        _draw_side(canvas, side, body, False, paint, load, trim)
        return
    cast_shadow(canvas, camera, lateral, depth - 0.15, body.width * 1.05, body.length + 0.3)
    for edge in (lateral - body.width / 2, lateral + body.width / 2):
        near, far = camera.column(edge, depth), camera.column(edge, depth + body.length)
        if (far - near) * (edge - lateral) > 0:
            side = Panel(camera, edge, depth, along=True)
            shaded = 5 if edge < lateral else 2
            _draw_side(canvas, side, body, is_oncoming, paint - shaded, load - shaded, trim)
    _draw_end(canvas, camera, lateral, depth, body, is_oncoming, paint, load, trim)


def _draw_side(
    canvas: Canvas, panel: Panel, body: Body, is_turned: bool, paint: int, load: int, trim: int
) -> None:
    """The long face; `is_turned` puts the nose where the panel begins."""

    def place(points: tuple[Point, ...]) -> list[Point]:
        if is_turned:
            return [((1 - share) * body.length, up) for share, up in reversed(points)]
        return [(share * body.length, up) for share, up in points]

    size = panel.scale * body.height
    paint_shape(canvas, panel, place(body.outline), body.floor, paint)
    lower = place(((0.0, body.sill * 0.52), (1.0, body.sill * 0.52)))
    paint_shape(canvas, panel, lower, body.floor, paint - 5)
    if body.class_name == "truck":
        paint_shape(canvas, panel, place(((0.0, 3.45), (0.72, 3.5))), 1.1, load)
        paint_shape(canvas, panel, place(((0.02, 1.0), (0.74, 1.0))), 0.6, trim - 4)
    elif body.class_name in ("bus", "train"):
        paint_shape(canvas, panel, place(((0.0, 1.15), (1.0, 1.15))), 0.8, load)
        if body.class_name == "train":
            paint_shape(canvas, panel, place(((0.01, 0.5), (0.99, 0.5))), body.floor, trim)
    for pane in body.panes if size > 7 else ():
        paint_shape(canvas, panel, place(pane), body.sill + 0.04, trim + 3)
    if body.class_name == "train":
        for joint in (0.335, 0.665):
            paint_shape(
                canvas, panel, place(((joint, 3.3), (joint + 0.015, 3.3))), 0.2, trim - 8
            )
        foot = place(((0.45, 3.45), (0.5, 4.3), (0.55, 3.45)))
        if size > 20 and not panel.along:
            for first, last in zip(foot, foot[1:], strict=False):
                _draw_thin(canvas, panel, first, last, trim - 6)
    for wheel in body.wheels:
        ((reach, _),) = place(((wheel, 0.0),))
        paint_disc(canvas, panel, (reach, body.radius * 1.05), body.radius * 1.15, trim - 14)
        if size > 24:
            paint_disc(canvas, panel, (reach, body.radius), body.radius * 0.55, trim + 14)
    if size > 40 and body.class_name == "car":
        paint_shape(canvas, panel, place(((0.44, 0.92), (0.447, 0.92))), 0.4, paint - 9)


def _draw_thin(canvas: Canvas, panel: Panel, start: Point, end: Point, code: int) -> None:
    ends = (start, end) if start[0] < end[0] else (end, start)
    paint_shape(canvas, panel, ends, tuple((reach, up - 0.1) for reach, up in ends), code)


def _draw_end(
    canvas: Canvas,
    camera: Camera,
    lateral: float,
    depth: float,
    body: Body,
    is_oncoming: bool,
    paint: int,
    load: int,
    trim: int,
) -> None:
    """The tail of a vehicle ahead, or the nose of one that comes."""
    near = Panel(camera, lateral, depth)
    half = body.width / 2
    roof = half * body.roof
    size = camera.scale(depth) * body.height
    lamp = canvas.mix(
        body.class_name, (0.95, 0.92, 0.8) if is_oncoming else (0.75, 0.1, 0.08), depth, grain=0
    )
    for reach in (-half * 0.98, half * 0.98 - 0.25):
        paint_box(canvas, near, reach, reach + 0.25, 0, body.radius + 0.1, trim - 16)
    if body.class_name != "car":
        _draw_tall_end(canvas, near, body, is_oncoming, paint, load, trim)
    else:
        begin, end = body.front if is_oncoming else body.rear
        low = Panel(camera, lateral, depth + begin)
        high = Panel(camera, lateral, depth + end)

        def window(inset: float, top: float, bottom: float, code: int) -> None:
            over = [low.spot((-half * inset, body.sill)), high.spot((-roof * inset, top))]
            over += [high.spot((roof * inset, top)), low.spot((half * inset, body.sill))]
            under = [low.spot((side * half * inset, bottom)) for side in (-1, 1)]
            paint_area(canvas, over, under, code)

        window(1.0, body.height, body.sill * 0.7, paint - 2)
        window(0.9, body.height - 0.1, body.sill + 0.02, trim + (4 if is_oncoming else 0))
        bonnet = body.sill * (0.86 if is_oncoming else 0.97)
        shape = ((-half, bonnet - 0.12), (-half * 0.88, bonnet), (half * 0.88, bonnet))
        paint_shape(canvas, near, (*shape, (half, bonnet - 0.12)), body.floor, paint + 2)
    if size < 7:
        return
    level = 1.0 if body.class_name != "car" else body.sill * 0.64
    for reach in (-half * 0.94, half * 0.94 - half * 0.3):
        paint_box(canvas, near, reach, reach + half * 0.3, level, level + 0.16, lamp)
    if body.class_name == "car":
        paint_box(canvas, near, -half, half, body.floor, body.floor + 0.2, trim)
        if size > 16:
            plate = canvas.mix(body.class_name, (0.88, 0.87, 0.78), depth, grain=0)
            paint_box(canvas, near, -0.26, 0.26, 0.5, 0.61, plate)
        if is_oncoming and size > 16:
            paint_box(canvas, near, -half * 0.5, half * 0.5, level, level + 0.12, trim - 8)


def _draw_tall_end(
    canvas: Canvas,
    near: Panel,
    body: Body,
    is_oncoming: bool,
    paint: int,
    load: int,
    trim: int,
) -> None:
    """Tail or nose of a lorry, bus or tram: as high as the whole body."""
    half, roof = body.width / 2, body.width / 2 * body.roof
    is_lorry, is_tram = body.class_name == "truck", body.class_name == "train"
    top = 2.8 if is_lorry and is_oncoming else body.height
    front = load if is_lorry and not is_oncoming else paint
    if is_lorry and is_oncoming:
        paint_box(canvas, near, -half, half, 1.0, body.height, load)
    edge = top - (0.9 if is_tram else 0.25)
    shape = ((-half, edge), (-roof, top), (roof, top), (half, edge))
    paint_shape(canvas, near, shape, body.floor, front + 1)
    if is_lorry and not is_oncoming:
        paint_box(canvas, near, -0.04, 0.04, 1.0, top - 0.1, load - 10)
        paint_box(canvas, near, -half, half, top - 0.15, top, load - 6)
        paint_box(canvas, near, -half, half, body.floor, 0.95, trim)
        paint_box(canvas, near, -half * 0.8, half * 0.8, 0.45, 0.58, trim + 16)
        return
    bottom = body.sill + (0.0 if is_oncoming else 0.45)
    up = 0.42 if not is_lorry else 0.25
    glass = ((-half * 0.92, edge - up * 0.4), (-roof * 0.9, top - up), (roof * 0.9, top - up))
    paint_shape(canvas, near, (*glass, (half * 0.92, edge - up * 0.4)), bottom, trim + 2)
    if not is_lorry:
        paint_box(canvas, near, -half * 0.55, half * 0.55, top - 0.36, top - 0.12, trim - 10)
        paint_box(canvas, near, -half * 0.45, half * 0.2, top - 0.3, top - 0.18, trim + 26)
        paint_box(canvas, near, -half, half, 0.82, 1.12, load)
    if is_tram:
        paint_box(canvas, near, -half * 0.9, half * 0.9, body.floor, 0.5, trim - 4)
        paint_box(canvas, near, -half * 0.5, half * 0.5, top, top + 0.12, trim)
        for reach in (-0.5, 0.5):
            _draw_thin(canvas, near, (reach, top + 0.9), (0.0, top + 0.1), trim - 6)
    else:
        paint_box(canvas, near, -half, half, body.floor, body.floor + 0.3, trim)
