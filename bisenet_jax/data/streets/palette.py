"""The colours of the synthetic streets."""

import numpy as np

Colour = tuple[float, float, float]  # RGB, 0 to 1
Colours = tuple[Colour, ...]

# One list for all that people paint: cars, houses, walls and coats share their colours, so
# that a colour never tells the class.
PAINTS: Colours = (
    *((0.86, 0.86, 0.85), (0.62, 0.63, 0.64), (0.42, 0.43, 0.45), (0.24, 0.25, 0.27)),
    *((0.13, 0.13, 0.15), (0.64, 0.16, 0.14), (0.46, 0.14, 0.14), (0.18, 0.28, 0.50)),
    *((0.30, 0.45, 0.62), (0.52, 0.62, 0.70), (0.20, 0.38, 0.30), (0.42, 0.50, 0.36)),
    *((0.82, 0.74, 0.58), (0.72, 0.58, 0.42), (0.55, 0.42, 0.32), (0.36, 0.27, 0.22)),
    *((0.86, 0.68, 0.26), (0.78, 0.45, 0.22), (0.70, 0.42, 0.36), (0.76, 0.64, 0.60)),
)
GREYS: Colours = (
    *((0.36, 0.36, 0.38), (0.44, 0.44, 0.45), (0.52, 0.51, 0.50), (0.60, 0.58, 0.55)),
    *((0.46, 0.42, 0.40), (0.55, 0.48, 0.44), (0.40, 0.43, 0.47)),
)
GREENS: Colours = (
    *((0.24, 0.34, 0.16), (0.32, 0.42, 0.20), (0.20, 0.28, 0.18), (0.42, 0.48, 0.24)),
    *((0.50, 0.44, 0.24), (0.58, 0.40, 0.20), (0.40, 0.34, 0.26), (0.30, 0.38, 0.28)),
)
SKIES: Colours = (
    *((0.46, 0.62, 0.82), (0.60, 0.72, 0.84), (0.72, 0.75, 0.78), (0.58, 0.60, 0.63)),
    *((0.82, 0.70, 0.60), (0.80, 0.82, 0.84)),
)
# Plaster and brick: paints with the dust of years on them.
FACADES: Colours = GREYS + tuple(
    (0.62 * red + 0.22, 0.62 * green + 0.2, 0.62 * blue + 0.18) for red, green, blue in PAINTS
)
GLASS: Colours = PAINTS[2:5] + PAINTS[7:11]
SKINS: Colours = ((0.85, 0.66, 0.54), (0.62, 0.44, 0.32), (0.40, 0.27, 0.20))
HAIR: Colours = ((0.13, 0.11, 0.10), (0.36, 0.25, 0.16), (0.66, 0.54, 0.34))
SIGNS: Colours = ((0.72, 0.12, 0.12), *PAINTS[7:9])


def vary(rng: np.random.Generator, colours: Colours) -> Colour:
    """One of the colours, a little changed."""
    red, green, blue = colours[int(rng.random() * len(colours))]
    gain = 0.84 + 0.32 * rng.random()
    warmth = 0.06 * (rng.random() - 0.5)
    return red * gain + warmth, green * gain, blue * gain - warmth
