"""People, cycles, poles, lights and signs of the synthetic streets."""

import math

import numpy as np

from bisenet_jax.data.streets.canvas import (
    Camera,
    Canvas,
    Panel,
    cast_shadow,
    paint_box,
    paint_disc,
    paint_shape,
    paint_stroke,
)
from bisenet_jax.data.streets.palette import GREYS, HAIR, PAINTS, SIGNS, SKINS, vary


def draw_person(
    canvas: Canvas, camera: Camera, lateral: float, depth: float, rng: np.random.Generator
) -> None:
    """Somebody who stands or walks."""
    if not camera.sees(lateral, depth, 1.0):
        return
    size = 0.72 + 0.3 * math.sqrt(rng.random())
    stretch = (0.75 + 0.35 * rng.random()) * (1 if rng.random() < 0.5 else -1) * size
    panel = Panel(camera, lateral, depth, stretch=stretch)
    coat, trousers, skin, hair = _clothes(canvas, "person", depth, rng)
    cast_shadow(canvas, camera, lateral, depth - 0.25, 0.8, 0.6)
    gait = 0.05 + 0.24 * rng.random()
    hip, neck, top = 0.88 * size, 1.45 * size, 1.74 * size
    is_near = camera.scale(depth) > 9
    if is_near:
        paint_stroke(canvas, panel, (-0.07, hip), (-gait, 0.04), 0.17 * size, trousers - 4)
        paint_stroke(canvas, panel, (0.07, hip), (gait, 0.0), 0.17 * size, trousers)
        for foot in (-gait, gait):
            paint_box(canvas, panel, foot - 0.1, foot + 0.16, 0, 0.08, hair)
    else:
        paint_box(canvas, panel, -0.16, 0.16, 0, hip, trousers)
    if rng.random() < 0.25:  # a skirt or a long coat
        skirt = ((-0.18, hip + 0.1), (0.18, hip + 0.1))
        paint_shape(canvas, panel, skirt, ((-0.26, 0.45 * size), (0.26, 0.45 * size)), coat - 3)
    if is_near and rng.random() < 0.35:
        paint_box(canvas, panel, -0.34, -0.12, 1.0 * size, 1.42 * size, hair + 6)  # a rucksack
    chest = (
        (-0.25, neck - 0.12),
        (-0.17, neck + 0.02),
        (0.17, neck + 0.02),
        (0.25, neck - 0.12),
    )
    waist = ((-0.24, hip - 0.03), (-0.17, hip - 0.06), (0.17, hip - 0.06), (0.24, hip - 0.03))
    paint_shape(canvas, panel, chest, waist, coat)
    if is_near:
        swing = gait * 0.9
        paint_stroke(canvas, panel, (-0.22, neck - 0.08), (-swing - 0.14, hip), 0.11, coat - 6)
        paint_stroke(canvas, panel, (0.22, neck - 0.08), (swing + 0.14, hip), 0.11, coat + 3)
        paint_disc(canvas, panel, (swing + 0.14, hip - 0.04), 0.06, skin)
    _draw_head(canvas, panel, 0.0, top - 0.13, skin, hair)


def draw_cycle(
    canvas: Canvas,
    camera: Camera,
    lateral: float,
    depth: float,
    rng: np.random.Generator,
    class_name: str,
    has_rider: bool,
    stretch: float,
) -> None:
    """A bicycle or a motorcycle from the side, narrowed by `stretch`, perhaps with a rider."""
    if not camera.sees(lateral, depth, 1.2):
        return
    panel = Panel(camera, lateral, depth, stretch=stretch)
    width = max(abs(stretch) * 1.9, 0.5)
    cast_shadow(canvas, camera, lateral, depth - 0.3, width, 0.7)
    frame = canvas.mix(class_name, vary(rng, PAINTS), depth, grain=3)
    tyre = canvas.mix(class_name, (0.14, 0.14, 0.15), depth, grain=3)
    if class_name == "bicycle":
        _draw_bicycle(canvas, panel, frame, tyre)
    else:
        _draw_motorcycle(canvas, panel, frame, tyre)
    if has_rider:
        _draw_rider(canvas, panel, rng, class_name)


def draw_pole(
    canvas: Canvas,
    camera: Camera,
    lateral: float,
    depth: float,
    rng: np.random.Generator,
    kind: str,
) -> None:
    """A pole that carries a `lamp`, `lights`, a `sign` or a direction `board`."""
    if not camera.sees(lateral, depth, 4.0):
        return
    panel = Panel(camera, lateral, depth, stretch=-1.0 if lateral > 0 else 1.0)
    pole = canvas.mix("pole", vary(rng, GREYS), depth, grain=3) - int(12 * rng.random())
    cast_shadow(canvas, camera, lateral, depth - 0.2, 0.6, 0.4)
    if kind == "lamp":
        tall = 5.5 + 3 * rng.random()
        paint_box(canvas, panel, -0.1, 0.1, 0, tall, pole)
        paint_box(canvas, panel, -0.15, 0.15, 0, 0.9, pole - 3)
        paint_stroke(canvas, panel, (0, tall), (1.5, tall + 0.35), 0.14, pole)
        paint_box(canvas, panel, 1.3, 2.0, tall + 0.22, tall + 0.42, pole + 8)
    elif kind == "lights":
        _draw_lights(canvas, panel, rng, pole)
    elif kind == "board":
        for reach in (-0.9, 0.9):
            paint_box(canvas, panel, reach - 0.07, reach + 0.07, 0, 2.3, pole)
        face = canvas.mix("traffic sign", vary(rng, PAINTS), depth, grain=2)
        ink = canvas.mix("traffic sign", (0.9, 0.9, 0.88), depth, grain=2)
        paint_box(canvas, panel, -1.25, 1.25, 1.9, 3.3, ink)
        paint_box(canvas, panel, -1.17, 1.17, 1.98, 3.22, face)
        for row in (2.2, 2.55, 2.9):
            paint_box(canvas, panel, -0.9, 0.2 + 0.6 * rng.random(), row, row + 0.14, ink)
    else:
        tall = 2.3 + 0.6 * rng.random()
        paint_box(canvas, panel, -0.06, 0.06, 0, tall + 0.3, pole)
        _draw_sign(canvas, panel, rng, tall)
        if rng.random() < 0.35:
            _draw_sign(canvas, panel, rng, tall - 0.75)


def draw_thing(
    canvas: Canvas, camera: Camera, lateral: float, depth: float, rng: np.random.Generator
) -> None:
    """A bin, a box or a cabinet on the sidewalk: nothing that has a class."""
    panel = Panel(camera, lateral, depth)
    code = canvas.mix("void", vary(rng, PAINTS), depth, grain=4)
    half, tall = 0.25 + 0.3 * rng.random(), 0.7 + 0.6 * rng.random()
    cast_shadow(canvas, camera, lateral, depth - 0.3, half * 2.6, 0.8)
    paint_box(canvas, panel, -half, half, 0, tall, code)
    paint_box(canvas, panel, -half - 0.05, half + 0.05, tall, tall + 0.1, code - 8)


def draw_bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """The bonnet of our own car at the lower edge, which carries no class."""
    height, width = canvas.codes.shape
    code = canvas.mix("void", vary(rng, PAINTS), grain=2)
    rise = height * (0.03 + 0.05 * rng.random())
    across = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(0.9)
    top = height - rise * (1 - across**4)
    above = max(math.floor(top.min()), 0)
    rows = np.arange(above, height, dtype=np.float32)[:, None]
    inside = rows >= top[None]
    shade = np.clip((rows - above) / rise * 12, 0, 14).astype(np.int16) - 6
    codes = (code - shade).astype(np.uint16)
    np.copyto(canvas.codes[above:], np.broadcast_to(codes, inside.shape), where=inside)


def _clothes(
    canvas: Canvas, class_name: str, depth: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Materials of coat, trousers, skin and hair."""
    return (
        canvas.mix(class_name, vary(rng, PAINTS), depth, grain=5),
        canvas.mix(class_name, vary(rng, PAINTS[2:11]), depth, grain=4) - 8,
        canvas.mix(class_name, vary(rng, SKINS), depth, grain=2),
        canvas.mix(class_name, vary(rng, HAIR), depth, grain=4),
    )


def _draw_head(
    canvas: Canvas, panel: Panel, reach: float, middle: float, skin: int, hair: int
) -> None:
    paint_disc(canvas, panel, (reach, middle + 0.03), 0.13, hair, tall=0.14)
    if panel.scale > 14:
        paint_disc(canvas, panel, (reach + 0.03, middle - 0.03), 0.1, skin, tall=0.11)


def _draw_bicycle(canvas: Canvas, panel: Panel, frame: int, tyre: int) -> None:
    wheels = (-0.52, 0.52)
    for reach in wheels:
        paint_disc(canvas, panel, (reach, 0.34), 0.35, tyre)
        if panel.scale > 12:  # the label covers the wheel, spokes and all
            paint_disc(canvas, panel, (reach, 0.34), 0.27, tyre + 17)
            paint_disc(canvas, panel, (reach, 0.34), 0.06, tyre)
    for start, end in (
        *(((-0.52, 0.34), (-0.05, 0.32)), ((-0.05, 0.32), (-0.18, 0.86))),
        *(
            ((-0.16, 0.78), (0.38, 0.8)),
            ((-0.05, 0.32), (0.38, 0.76)),
            ((-0.52, 0.34), (-0.17, 0.8)),
        ),
        ((0.36, 0.98), (0.52, 0.34)),
    ):
        paint_stroke(canvas, panel, start, end, 0.065, frame)
    paint_box(canvas, panel, -0.32, -0.05, 0.86, 0.93, tyre)
    paint_stroke(canvas, panel, (0.22, 1.02), (0.42, 1.0), 0.06, tyre)


def _draw_motorcycle(canvas: Canvas, panel: Panel, frame: int, tyre: int) -> None:
    for reach in (-0.68, 0.7):
        paint_disc(canvas, panel, (reach, 0.32), 0.33, tyre - 4)
        paint_disc(canvas, panel, (reach, 0.32), 0.16, tyre + 18)
    engine = ((-0.62, 0.6), (-0.3, 0.66), (0.35, 0.66), (0.45, 0.5))
    lower = ((-0.62, 0.4), (-0.3, 0.2), (0.3, 0.2), (0.45, 0.4))
    paint_shape(canvas, panel, engine, lower, tyre + 6)
    fairing = (
        *((-0.95, 0.9), (-0.5, 0.84), (-0.05, 0.8), (0.1, 1.0), (0.4, 0.98), (0.5, 1.2)),
        *((0.62, 0.95), (0.68, 0.8)),
    )
    under = ((-0.95, 0.82), (-0.3, 0.58), (0.4, 0.45), (0.68, 0.7))
    paint_shape(canvas, panel, fairing, under, frame)
    paint_box(canvas, panel, -0.72, -0.02, 0.8, 0.9, tyre - 4)
    paint_stroke(canvas, panel, (0.45, 0.95), (0.7, 0.32), 0.09, tyre + 12)
    paint_stroke(canvas, panel, (0.28, 1.14), (0.5, 1.04), 0.07, tyre)


def _draw_rider(
    canvas: Canvas, panel: Panel, rng: np.random.Generator, class_name: str
) -> None:
    """Leans from the saddle to the handlebars."""
    coat, trousers, skin, hair = _clothes(canvas, "rider", panel.depth, rng)
    lean = 0.08 + 0.2 * rng.random()
    saddle, neck = (-0.2, 0.95), (-0.05 + lean, 1.5)
    knee, foot = (0.16, 0.68), (0.0, 0.2)
    paint_stroke(canvas, panel, saddle, knee, 0.19, trousers)
    paint_stroke(canvas, panel, knee, foot, 0.15, trousers - 3)
    paint_box(canvas, panel, -0.06, 0.16, 0.12, 0.22, hair)
    chest = ((neck[0] - 0.2, 1.42), (neck[0] - 0.1, 1.54), (neck[0] + 0.12, 1.54))
    hips = ((saddle[0] - 0.17, 0.88), (saddle[0] + 0.05, 0.88), (saddle[0] + 0.22, 0.92))
    paint_shape(canvas, panel, chest, hips, coat)
    paint_stroke(canvas, panel, neck, saddle, 0.34, coat)
    paint_stroke(canvas, panel, (neck[0], 1.42), (0.34, 1.05), 0.12, coat - 5)
    is_helmet = class_name == "motorcycle" or rng.random() < 0.4
    cap = coat + 6 if is_helmet else hair
    _draw_head(canvas, panel, neck[0] + 0.05, 1.68, skin, cap)
    if class_name == "motorcycle":
        paint_disc(canvas, panel, (neck[0] + 0.05, 1.7), 0.15, cap, tall=0.16)
        paint_box(canvas, panel, neck[0] + 0.05, neck[0] + 0.19, 1.64, 1.72, hair - 6)


def _draw_lights(canvas: Canvas, panel: Panel, rng: np.random.Generator, pole: int) -> None:
    tall = 3.4 + 0.8 * rng.random()
    box = canvas.mix("traffic light", (0.14, 0.15, 0.15), panel.depth, grain=3)
    lamps = ((0.9, 0.2, 0.15), (0.9, 0.7, 0.2), (0.25, 0.85, 0.55))
    lit = int(3 * rng.random())
    glow = canvas.mix("traffic light", lamps[lit], panel.depth, grain=0) + 6
    heads = [(0.0, 2.5)]
    paint_box(canvas, panel, -0.09, 0.09, 0, tall, pole)
    if rng.random() < 0.5:  # an arm over the road
        tall += 1.4
        reach = 2.0 + 1.5 * rng.random()
        paint_box(canvas, panel, -0.1, 0.1, 0, tall, pole)
        paint_box(canvas, panel, 0, reach, tall - 0.16, tall, pole)
        heads.append((reach, tall - 1.15))
    for reach, bottom in heads:
        paint_box(canvas, panel, reach - 0.26, reach + 0.26, bottom, bottom + 1.25, box)
        for i in range(3):
            middle = (reach, bottom + 1.04 - 0.4 * i)
            paint_disc(canvas, panel, middle, 0.16, glow if i == lit else box + 6)


def _draw_sign(canvas: Canvas, panel: Panel, rng: np.random.Generator, middle: float) -> None:
    """One plate: round, three-cornered, square or seen from its back."""
    depth = panel.depth
    rim = canvas.mix("traffic sign", vary(rng, SIGNS), depth, 2)
    face = canvas.mix("traffic sign", vary(rng, ((0.9, 0.9, 0.88), *PAINTS[7:17])), depth, 2)
    kind = int(4 * rng.random())
    if kind == 0:
        paint_disc(canvas, panel, (0, middle), 0.42, rim)
        paint_disc(canvas, panel, (0, middle), 0.3, face)
        paint_box(canvas, panel, -0.18, 0.18, middle - 0.06, middle + 0.06, rim - 6)
    elif kind == 1:
        for size, code in ((0.48, rim), (0.3, face)):
            tip = (
                (-size, middle - 0.6 * size),
                (0, middle + size),
                (size, middle - 0.6 * size),
            )
            paint_shape(canvas, panel, tip, middle - 0.62 * size, code)
    elif kind == 2:
        paint_box(canvas, panel, -0.4, 0.4, middle - 0.4, middle + 0.4, face)
        paint_box(canvas, panel, -0.33, 0.33, middle - 0.33, middle + 0.33, rim)
        paint_box(canvas, panel, -0.1, 0.1, middle - 0.2, middle + 0.2, face)
    else:
        back = canvas.mix("traffic sign", vary(rng, GREYS), depth, grain=3)
        paint_disc(canvas, panel, (0, middle), 0.42, back)
