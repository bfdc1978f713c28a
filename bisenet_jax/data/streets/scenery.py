"""The sky, the skyline and the trees of a synthetic street."""

import math

import numpy as np

from bisenet_jax.data.streets.canvas import Camera, Canvas, Panel, paint_box
from bisenet_jax.data.streets.palette import GREENS, PAINTS, Colour, vary
from bisenet_jax.data.streets.textures import texture_window


def draw_sky(canvas: Canvas, camera: Camera, rng: np.random.Generator, colour: Colour) -> None:
    """A gradient with clouds, down to the horizon."""
    height, width = canvas.codes.shape
    bottom = min(max(math.ceil(camera.horizon) + 1, 1), height)
    sky = canvas.mix("sky", colour, grain=1)
    clouds = texture_window(canvas.textures.clouds, rng, height, width)[:bottom].astype(
        np.int16
    )
    clouds += texture_window(canvas.textures.leaves, rng, bottom, width) >> 3
    cover = int(60 * rng.random()) - 30
    np.clip(clouds - cover, 0, 72, out=clouds)
    clouds += np.linspace(-18, 36, bottom).astype(np.int16)[:, None]
    # Grain before the rounding to whole shades: a smooth sky would show bands.
    clouds += texture_window(canvas.textures.grain, rng, bottom, width) >> 4
    clouds >>= 2
    canvas.codes[:bottom] = sky + clouds


def draw_skyline(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    """Far woods and houses on the horizon."""
    height, width = canvas.codes.shape
    bottom = min(math.ceil(camera.horizon) + 2, height)
    outline = texture_window(canvas.textures.clouds, rng, 1, width)[0].astype(np.float32)
    crowns = texture_window(canvas.textures.leaves, rng, 1, width)[0].astype(np.float32)
    woods = canvas.mix("vegetation", vary(rng, GREENS), 110, grain=14)
    houses = canvas.mix("building", vary(rng, PAINTS), 110, grain=5)
    is_house = texture_window(canvas.textures.clouds, rng, 1, width)[0] > 20
    blocks = outline[(np.arange(width) // max(height // 20, 2)) * max(height // 20, 2)]
    tall = np.where(is_house, blocks * 0.0008 + 0.07, outline * 0.0006 + crowns * 0.0002 + 0.05)
    top = bottom - np.maximum(tall, 0.012) * height
    above = max(math.floor(top.min()), 0)
    inside = np.arange(above, bottom)[:, None] >= top[None]
    codes = np.where(is_house, houses, woods).astype(np.uint16)
    np.copyto(canvas.codes[above:bottom], codes[None], where=inside)


def draw_tree(
    canvas: Canvas,
    camera: Camera,
    lateral: float,
    depth: float,
    rng: np.random.Generator,
    trunk: float,
    radius: float,
    tall: float,
) -> None:
    """A crown of `radius` and half height `tall` metres on a trunk; no trunk makes a bush."""
    if not camera.sees(lateral, depth, 1.3 * radius):
        return
    panel = Panel(camera, lateral, depth)
    leaves = canvas.mix("vegetation", vary(rng, GREENS), depth, grain=18)
    if trunk > 0:
        bark = canvas.mix("vegetation", vary(rng, ((0.30, 0.25, 0.20),)), depth, grain=12)
        paint_box(
            canvas, panel, -0.05 * radius - 0.06, 0.05 * radius + 0.06, 0, trunk + tall, bark
        )
    x, y = panel.spot((0, trunk + tall * 0.9))
    half, up = camera.scale(depth) * radius, camera.scale(depth) * tall
    height, width = canvas.codes.shape
    first, last = max(math.floor(x - half * 1.3), 0), min(math.ceil(x + half * 1.3), width)
    above, below = max(math.floor(y - up * 1.3), 0), min(math.ceil(y + up * 1.3), height)
    if trunk <= 0:
        below = min(below, math.ceil(camera.row(depth)))
    if first >= last or above >= below or half < 1:
        return
    across = ((np.arange(first, last, dtype=np.float32) - x) / half)[None]
    down = ((np.arange(above, below, dtype=np.float32) - y) / up)[:, None]
    soft = texture_window(canvas.textures.clouds, rng, below - above, last - first)
    fine = texture_window(canvas.textures.leaves, rng, below - above, last - first)
    ragged = (soft >> 1) + (fine >> 1)  # int8
    inside = across**2 + down**2 < 0.85 + ragged * np.float32(0.009)
    shade = (
        (fine >> 4) + (soft >> 4) - (down * 7).astype(np.int8) - (across * 3).astype(np.int8)
    )
    codes = leaves + shade.astype(np.int16)
    np.copyto(canvas.codes[above:below, first:last], codes.view(np.uint16), where=inside)
