"""Whether an exported program computes what the network does: asked before it is written."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from bisenet_jax import media
from bisenet_jax.data.synthetic import SMALLEST, draw_street
from bisenet_jax.errors import ConfigError, ExportError
from bisenet_jax.inference import make_logits_function
from bisenet_jax.weights import Weights

LEAST_EQUAL_LABELS = 0.999  # of all pixels; the rest are ties that rounding decides
LARGEST_LOGIT_DIFFERENCE = 1e-3
DRAWN_BATCHES = 2

# `uint8 [B, H, W, 3]` -> labels `[B, H, W]` and, where the program tells them, logits
# `[B, H, W, classes]`.
Program = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


class Batch(NamedTuple):
    """Images as a program takes them.

    Attributes:
        images: `[B, H, W, 3] uint8`.
        count: how many of them are to be compared; the rest are copies that fill the batch.
    """

    images: np.ndarray
    count: int


class Verification(NamedTuple):
    """What was found.

    Attributes:
        images: how many were compared, each of one size.
        equal_labels: share of their pixels.
        logit_difference: the largest, None where the program tells labels only.
    """

    images: int
    equal_labels: float
    logit_difference: float | None

    def __str__(self) -> str:
        logits = ""
        if self.logit_difference is not None:
            logits = f", logits within {self.logit_difference:.1e}"
        # Rounded down: 100 % are all of them.
        percent = math.floor(1e5 * self.equal_labels) / 1e3
        return f"verified on {self.images} images: {percent:.3f} % of the labels equal{logits}"


def verify(
    name: str, program: Program, reference: Program, batches: Iterable[Batch]
) -> Verification:
    """Compare two programs on pictures.

    Args:
        name: of the exported program, for the error.
        program: what is to be written.
        reference: the network itself, with logits.
        batches: of one size each.

    Raises:
        ExportError: where they differ by more than rounding explains.
    """
    images = pixels = equal = 0
    difference: float | None = None
    for batch, count in batches:
        labels, logits = _first(count, program(batch))
        right_labels, right_logits = _first(count, reference(batch))
        images += count
        pixels += right_labels.size
        equal += int((labels == right_labels).sum())
        if logits is not None and right_logits is not None:
            # nan is the largest difference of all.
            difference = float(np.max([difference or 0, np.abs(logits - right_logits).max()]))
    found = Verification(images, equal / pixels, difference)
    is_close = difference is None or difference <= LARGEST_LOGIT_DIFFERENCE
    if found.equal_labels < LEAST_EQUAL_LABELS or not is_close:
        raise ExportError(
            f"{name} is not the network, and was not written ({found}; at least "
            f"{100 * LEAST_EQUAL_LABELS} % and logits within {LARGEST_LOGIT_DIFFERENCE} are "
            "asked for): please report it with the network's description"
        )
    return found


def _first(
    count: int, found: tuple[np.ndarray, np.ndarray | None]
) -> tuple[np.ndarray, np.ndarray | None]:
    labels, logits = found
    return labels[:count], None if logits is None else logits[:count]


def in_float32(weights: Weights) -> Weights:
    """The same network with float32 activations, as every exported program has them.

    bfloat16 rounds otherwise with each compiler, by more than a comparison can allow.
    """
    return dataclasses.replace(weights, model=weights.model.clone(dtype="float32"))


def make_reference(weights: Weights) -> Program:
    """The network itself, on the CPU, where float32 convolutions are float32."""
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError as error:
        platforms = getattr(jax.config, "jax_platforms", None)
        raise ConfigError(
            f"JAX_PLATFORMS={platforms} leaves out the CPU, on which exports are checked: set "
            f"JAX_PLATFORMS={platforms},cpu, or leave it unset"
        ) from error
    with jax.default_device(cpu):
        function = make_logits_function(
            weights.model, weights.variables, weights.normalization, weights.input_scale
        )

    def reference(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.default_device(cpu):
            logits = np.asarray(function(jax.numpy.asarray(images)))
        return logits.argmax(-1), logits

    return reference


def image_batches(
    folder: str | os.PathLike[str] | None, batch: int, height: int, width: int
) -> Iterator[Batch]:
    """Images to compare on, `[batch, height, width, 3] uint8` each.

    Args:
        folder: whose pictures to take, resized, the last batch filled up with the last one;
            None draws streets.
        batch, height, width: of each array.

    Raises:
        ConfigError, DataError: for what is no folder, and for one without pictures.
    """
    pictures = list(_drawn(batch, height, width) if folder is None else _found(folder))
    for first in range(0, len(pictures), batch):
        chosen = [picture() for picture in pictures[first : first + batch]]
        resized = [_resize(picture, height, width) for picture in chosen]
        filled = resized + resized[-1:] * (batch - len(resized))
        yield Batch(np.stack(filled), len(resized))


def _drawn(batch: int, height: int, width: int) -> Iterator[Callable[[], np.ndarray]]:
    size = max(height, SMALLEST), max(width, SMALLEST)
    for index in range(DRAWN_BATCHES * batch):
        yield lambda index=index: draw_street(0, index, *size)[0][:height, :width]


def find_pictures(folder: str | os.PathLike[str]) -> list[media.Input]:
    """The pictures of a folder; a ConfigError or DataError where there are none."""
    if not os.path.isdir(folder):
        raise ConfigError(f"{folder} is no folder; give one with pictures to verify with")
    return media.find_inputs([str(folder)])


def _found(folder: str | os.PathLike[str]) -> Iterator[Callable[[], np.ndarray]]:
    for item in find_pictures(folder):
        yield lambda item=item: media.read_picture(str(item.source))


def _resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)
