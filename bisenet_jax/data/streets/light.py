"""From a painted board to a picture and its labels: light, haze, lens and sensor."""

from dataclasses import dataclass

import numpy as np

from bisenet_jax.data.streets.canvas import MIDDLE, SHADES, Canvas
from bisenet_jax.data.streets.palette import Colour
from bisenet_jax.data.streets.textures import texture_window


@dataclass(frozen=True)
class Light:
    """What the air, the sun and the sensor do to the colours of one picture."""

    exposure: float
    tint: Colour
    gamma: float
    haze: Colour
    density: float  # of the haze, per metre
    sun: int  # -1: the sun stands on the left, 1: on the right, 0: behind clouds
    noise: int  # of the sensor, 0 to 2


def develop(
    canvas: Canvas, light: Light, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The picture `[H, W, 3] uint8` (RGB) and its labels `[H, W] uint8`."""
    height, width = canvas.codes.shape
    material = canvas.codes // SHADES
    labels = np.asarray(canvas.classes, np.uint8).take(material)
    grain = np.asarray(canvas.grains, np.int16).take(material)
    grain *= texture_window(canvas.textures.grain, rng, height, width)
    grain >>= 7
    grain += (canvas.codes & (SHADES - 1)).view(np.int16)
    np.clip(grain, 0, SHADES - 1, out=grain)
    material *= SHADES
    material += grain.view(np.uint16)
    words = _colour_table(canvas, light).take(material)
    return _photograph(words, canvas, light, rng), labels


def _colour_table(canvas: Canvas, light: Light) -> np.ndarray:
    """Colour of each code as one word of four bytes, `[materials * SHADES] uint32`."""
    colours = np.asarray(canvas.colours, np.float32).T[..., None]  # [3, materials, 1]
    shades = (np.arange(SHADES, dtype=np.float32) / MIDDLE)[None, None]
    tones = colours * np.minimum(shades, 1)
    tones += np.maximum(shades - 1, 0) * (0.8 * (1 - colours))
    tones *= np.asarray(light.tint, np.float32)[:, None, None] * (255 * light.exposure)
    clear = np.exp(-light.density * np.asarray(canvas.depths, np.float32))[None, :, None]
    tones *= clear
    tones += (1 - clear) * (255 * np.asarray(light.haze, np.float32)[:, None, None])
    np.clip(tones, 0, 255, out=tones)
    levels = (np.linspace(0, 1, 256) ** light.gamma * 255).astype(np.uint8)
    words = np.zeros((*tones.shape[1:], 4), np.uint8)
    for channel, tone in enumerate(levels.take(tones.astype(np.uint8))):
        words[..., channel] = tone
    return words.view(np.uint32).reshape(-1)


def _photograph(
    words: np.ndarray, canvas: Canvas, light: Light, rng: np.random.Generator
) -> np.ndarray:
    """Softens edges by about a pixel, as a lens does, and adds the noise of a sensor."""
    height, width = words.shape
    sharp = words.view(np.uint8).reshape(height, width, 4)
    soft, quarter = sharp >> 1, sharp >> 2
    soft[:, 1:-1] += quarter[:, :-2]
    soft[:, 1:-1] += quarter[:, 2:]
    soft[:, :: width - 1] <<= 1  # the outermost columns have no two neighbours
    quarter = soft >> 2
    soft[1:-1] >>= 1
    soft[1:-1] += quarter[:-2]
    soft[1:-1] += quarter[2:]
    np.clip(soft, 16, 239, out=soft)
    image = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        image[..., channel] = soft[..., channel]
        if light.noise:
            # At most 127 >> 3, so that nothing leaves 0 to 255; adding a negative number's
            # bytes modulo 256 subtracts it.
            speck = texture_window(canvas.textures.grain, rng, height, width)
            image[..., channel] += (speck >> (5 - light.noise)).view(np.uint8)
    return image
