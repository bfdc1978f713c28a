"""The 171 classes of COCO-Stuff: 80 things, then 91 stuff.

Its label maps number 182 classes, of which eleven never occur; ours number the rest without
gaps. Names: labels.txt of nightrome/cocostuff, whose ids are one higher than those of the maps.
"""

import numpy as np

from bisenet_jax.data.classes import ClassSet

# Ids of the stuffthingmaps PNGs run from 0 to 181; these never occur (street sign, hat, shoe,
# eye glasses, plate, mirror, window, desk, door, blender, hair brush).
NEVER_OCCURRING = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
SQUEEZED = {
    stored: class_id
    for class_id, stored in enumerate(i for i in range(182) if i not in NEVER_OCCURRING)
}

DARKEST = 0.35  # lightness in Oklab, of 0 to 1

_THINGS = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard"),
    *("sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    *("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza"),
    *("donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet"),
    *("tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven"),
    *("toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
_STUFF = (
    *("banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage"),
    *("cardboard", "carpet", "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds"),
    *("counter", "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence"),
    *("floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower"),
    *("fog", "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other"),
    *("hill", "house", "leaves", "light", "mat", "metal", "mirror-stuff", "moss"),
    *("mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other"),
    *("plastic", "platform", "playingfield", "railing", "railroad", "river", "road", "rock"),
    *("roof", "rug", "salad", "sand", "sea", "shelf", "sky-other", "skyscraper", "snow"),
    *("solid-other", "stairs", "stone", "straw", "structural-other", "table", "tent"),
    *("textile-other", "towel", "tree", "vegetable", "wall-brick", "wall-concrete"),
    *("wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other"),
    *("waterdrops", "window-blind", "window-other", "wood"),
)


def separated_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours that the eye tells apart, always the same: each lies farthest from all before.

    Distances are those of Oklab. White counts as taken, and what looks nearly black is left
    out, since black shows pixels without a class.
    """
    levels = np.linspace(0, 255, 16).astype(np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    candidates = candidates[_oklab(candidates)[:, 0] > DARKEST]
    places = _oklab(candidates)
    distances = np.linalg.norm(places - _oklab(np.array([255, 255, 255])), axis=-1)
    colours = []
    for _ in range(count):
        # Rounded, so that the last bit of a cube root decides nothing.
        farthest = int(np.round(distances, 9).argmax())
        red, green, blue = candidates[farthest].tolist()
        colours.append((red, green, blue))
        distances = np.minimum(distances, np.linalg.norm(places - places[farthest], axis=-1))
    return tuple(colours)


def _oklab(colours: np.ndarray) -> np.ndarray:
    """Oklab coordinates (Ottosson 2020) of sRGB colours from 0 to 255, both `[..., 3]`."""
    srgb = colours / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )


COCO_STUFF = ClassSet(
    name="coco_stuff", names=_THINGS + _STUFF, colours=separated_colours(len(SQUEEZED))
)
