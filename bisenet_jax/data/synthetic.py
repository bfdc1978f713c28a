"""Synthetic streets: a data set for tests, the demo and a first run, drawn as it is read."""

import math
from collections.abc import Iterable

import numpy as np

from bisenet_jax.data.example import Example
from bisenet_jax.data.streets.canvas import Camera, Canvas, new_canvas
from bisenet_jax.data.streets.cast import Item, furniture, gardens, people, traffic, woods
from bisenet_jax.data.streets.figures import draw_bonnet
from bisenet_jax.data.streets.frontage import (
    draw_frontage,
    draw_gables,
    plan_barriers,
    plan_houses,
)
from bisenet_jax.data.streets.ground import Street, Verge, draw_ground
from bisenet_jax.data.streets.light import Light, develop
from bisenet_jax.data.streets.palette import SKIES, Colour, vary
from bisenet_jax.data.streets.scenery import draw_sky, draw_skyline
from bisenet_jax.errors import ConfigError

DRAWING = 1  # raised whenever the same seed draws another street
SMALLEST = 64  # pixels: below this, most things are less than a pixel


class SyntheticStreets:
    """Street scenes drawn from (seed, index): all 19 classes of Cityscapes, nothing on disk.

    `streets[i]` is `{"image": [H, W, 3] uint8 RGB, "label": [H, W] uint8, "name": str}`; labels
    are train ids 0 to 18, or 255 for void.
    """

    def __init__(
        self, *, images: int, height: int = 256, width: int = 512, seed: int = 0
    ) -> None:
        if images < 1:
            raise ConfigError(f"images is {images} but must be at least 1; ask for more images")
        for name, size in (("height", height), ("width", width)):
            if size < SMALLEST:
                raise ConfigError(
                    f"{name} is {size} but must be at least {SMALLEST} pixels; "
                    f"set {name} to {SMALLEST} or more"
                )
        if seed < 0:
            raise ConfigError(f"seed is {seed} but must not be negative; set it to 0 or more")
        self.images = images
        self.height = height
        self.width = width
        self.seed = seed

    def __len__(self) -> int:
        return self.images

    def name(self, index: int) -> str:
        """Of street `index`."""
        return f"street_{index:06d}"

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.images:
            raise IndexError(f"index {index} is outside of 0 to {self.images - 1}")
        image, label = draw_street(self.seed, index, self.height, self.width)
        return {"image": image, "label": label, "name": self.name(index)}

    def fingerprint(self) -> str:
        """Equal for equal streets."""
        return f"streets {DRAWING} {self.images} {self.height} {self.width} {self.seed}"


def draw_street(
    seed: int, index: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """One scene: `image [H, W, 3] uint8` (RGB) and `label [H, W] uint8`."""
    rng = np.random.default_rng((seed, index))
    street = _choose_street(rng)
    camera = _choose_camera(rng, street, height, width)
    sky = vary(rng, SKIES)
    light = _choose_light(rng, sky)

    canvas = new_canvas(height, width)
    draw_sky(canvas, camera, rng, sky)
    draw_skyline(canvas, camera, rng)
    draw_ground(canvas, camera, street, light, rng)
    nearest = _draw_sides(canvas, camera, street, light, rng)
    items = [*traffic(street, rng), *furniture(street, rng), *people(street, rng)]
    _draw_items(canvas, camera, rng, items, nearest)
    if rng.random() < 0.3:
        draw_bonnet(canvas, rng)
    return develop(canvas, light, rng)


def _choose_street(rng: np.random.Generator) -> Street:
    def verge() -> Verge:
        strip = 0.0 if rng.random() < 0.5 else 0.8 + 3 * rng.random()
        walk = 1.8 + 3.4 * rng.random()
        garden = 0.3 if rng.random() < 0.4 else 1.5 + 5 * rng.random()
        return Verge(strip, walk, garden)

    return Street(half=3.4 + 4.2 * rng.random(), left=verge(), right=verge())


def _choose_camera(rng: np.random.Generator, street: Street, height: int, width: int) -> Camera:
    return Camera(
        height=height,
        width=width,
        focal=height * (1.15 + 0.65 * rng.random()),
        horizon=height * (0.36 + 0.14 * rng.random()),
        vanishing=width * (0.5 + 0.12 * (2 * rng.random() - 1)),
        eye=1.2 + 0.8 * rng.random() ** 2,
        offset=street.half * (0.15 + 0.45 * rng.random()),
        bend=0.0 if rng.random() < 0.4 else 0.012 * (2 * rng.random() - 1),
    )


def _choose_light(rng: np.random.Generator, sky: Colour) -> Light:
    warmth = 0.09 * (2 * rng.random() - 1)
    veil = 0.6 + 0.4 * rng.random()
    return Light(
        exposure=0.86 + 0.4 * rng.random(),
        tint=(1 + warmth, 1.0, 1 - warmth),
        gamma=0.7 + 0.3 * rng.random(),
        haze=(sky[0] * veil, sky[1] * veil, sky[2] * veil),
        density=0.001 + 0.009 * rng.random() ** 2,
        sun=int(rng.random() * 3) - 1,
        noise=int(rng.random() * 3),
    )


def _draw_sides(
    canvas: Canvas, camera: Camera, street: Street, light: Light, rng: np.random.Generator
) -> np.ndarray:
    """Houses, gardens, walls and fences; returns the depth of the nearest, `[W] float32`."""
    nowhere = np.full(camera.width, np.inf, np.float32)
    _draw_items(canvas, camera, rng, woods(street, rng), nowhere)
    tones = {0: (0, 0), 1: (3, -7), -1: (-7, 3)}[light.sun]
    houses = plan_houses(canvas, rng, tones[0]), plan_houses(canvas, rng, tones[1])
    fronts = street.front(-1), street.front(1)
    draw_gables(canvas, camera, fronts, houses)
    depth = draw_frontage(canvas, camera, fronts, houses)
    _draw_items(canvas, camera, rng, gardens(street, rng), depth)
    barriers = plan_barriers(canvas, rng), plan_barriers(canvas, rng)
    edges = street.barrier(-1), street.barrier(1)
    return np.minimum(depth, draw_frontage(canvas, camera, edges, barriers))


def _draw_items(
    canvas: Canvas,
    camera: Camera,
    rng: np.random.Generator,
    items: Iterable[Item],
    nearest: np.ndarray,
) -> None:
    """Far things first; what stands behind a bend (`nearest: [W]`) is left out."""
    for item in sorted(items, key=lambda item: -item.depth):
        column = math.floor(camera.column(item.lateral, item.depth))
        if nearest[min(max(column, 0), camera.width - 1)] > item.depth * 0.93:
            item.draw(canvas, camera, item.lateral, item.depth, rng)
