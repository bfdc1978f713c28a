"""Class-balanced sampling: frames that show rare classes come up more often.

Each place of the order first draws a class, then one of the frames that show enough of it.
Class c is drawn in proportion to share(c) ** -EXPONENT of the labelled pixels, the inverse
square root: road still has its part, where the softmax of DAFormer (Hoyer et al. 2022) with its
temperature of 0.01 leaves it none. A class of few frames cannot flood the order, though:
through it, a frame comes at most LARGEST_REPEAT times as often as if all were drawn alike.
What this leaves of the places is drawn from all frames alike.
"""

import sys
from dataclasses import dataclass

import grain
import numpy as np

from bisenet_jax.data.classes import IGNORE, ClassSet
from bisenet_jax.data.coding import first_few
from bisenet_jax.data.example import NamedSource, Source
from bisenet_jax.data.loader import Sampler
from bisenet_jax.data.statistics import Statistics, count_labels
from bisenet_jax.errors import ConfigError

EXPONENT = 0.5
LARGEST_REPEAT = 10
# Of a frame's pixels, so that a crop has a chance to show the class. Where no frame has as
# many, all that show the class stand for it.
ENOUGH = 0.001


def balanced(statistics: Statistics) -> Sampler:
    """The sampler of these frames: from a seed to the endless order of their indices."""
    groups = list(frames_of_classes(statistics).values())
    everything = np.arange(len(statistics.names))
    chances = class_chances(statistics)
    bounds = np.cumsum([*chances.values(), 1 - sum(chances.values())])

    def order(seed: int) -> grain.MapDataset:
        draw = _Draw(seed, bounds, (*groups, everything))
        return grain.MapDataset.range(sys.maxsize).map(draw)

    return order


def frames_of_classes(statistics: Statistics) -> dict[int, np.ndarray]:
    """Of each class that occurs, the indices of the frames that stand for it, ascending."""
    shown: dict[int, dict[int, float]] = {}
    for index, label_pixels in enumerate(statistics.label_pixels):
        total = sum(label_pixels.values())
        for label_id, pixels in label_pixels.items():
            if label_id != IGNORE:
                shown.setdefault(label_id, {})[index] = pixels / total
    return {
        label_id: np.array(
            [index for index, share in shares.items() if share >= ENOUGH] or list(shares)
        )
        for label_id, shares in sorted(shown.items())
    }


def class_chances(statistics: Statistics) -> dict[int, float]:
    """How likely a place is to be drawn by each class that occurs; the sum is at most 1."""
    pixels: dict[int, int] = {}
    for label_pixels in statistics.label_pixels:
        for label_id, found in label_pixels.items():
            pixels[label_id] = pixels.get(label_id, 0) + found
    groups = frames_of_classes(statistics)
    labelled = sum(pixels[label_id] for label_id in groups)
    weights = {label_id: (pixels[label_id] / labelled) ** -EXPONENT for label_id in groups}
    total, frames = sum(weights.values()), len(statistics.names)
    return {
        label_id: min(weight / total, LARGEST_REPEAT * len(groups[label_id]) / frames)
        for label_id, weight in weights.items()
    }


def require_match(statistics: Statistics, source: Source, class_set: ClassSet) -> None:
    """Raise a ConfigError unless the statistics are those of this source.

    Compared are the classes, the number of frames and, where the source knows them, all names;
    of a few frames the labels themselves.
    """
    what = f"config.data.statistics {statistics.path}"
    cure = "write it anew: python -m bisenet_jax.data.check --config ... --statistics FILE"
    if (statistics.class_set, statistics.class_names) != (class_set.name, class_set.names):
        raise ConfigError(
            f"{what} counts the {len(statistics.class_names)} classes of "
            f"{statistics.class_set!r}, but the training has the {len(class_set)} of "
            f"{class_set.name!r}; {cure}"
        )
    if len(statistics.names) != len(source):
        raise ConfigError(
            f"{what} counts {len(statistics.names)} frames, but the training split has "
            f"{len(source)}; {cure}"
        )
    if isinstance(source, NamedSource):
        names = [source.name(index) for index in range(len(source))]
        if unknown := sorted(set(names) - set(statistics.names)):
            raise ConfigError(f"{what} does not know the frames {first_few(unknown)}; {cure}")
        if names != statistics.names:
            raise ConfigError(f"{what} has the frames in another order; {cure}")
    for index in sorted({0, len(source) // 2, len(source) - 1}):
        example = source[index]
        found = example["name"], count_labels(example["label"])
        if found != (statistics.names[index], statistics.label_pixels[index]):
            raise ConfigError(
                f"{what} was made from other labels: frame {index} is {example['name']} and "
                f"differs from what was counted of {statistics.names[index]}; {cure}"
            )


@dataclass(frozen=True, eq=False)
class _Draw:
    """The index at a place of the order; a function of the seed and the place alone."""

    seed: int
    bounds: np.ndarray
    groups: tuple[np.ndarray, ...]

    def __call__(self, place: int) -> int:
        # Apart from default_rng((seed, place)), which draws the streets.
        sequence = np.random.SeedSequence(self.seed, spawn_key=(place,))
        group, frame = np.random.default_rng(sequence).random(2)
        chosen = np.searchsorted(self.bounds, group, side="right")
        indices = self.groups[min(chosen, len(self.groups) - 1)]
        return int(indices[int(frame * len(indices))])
