"""A trained network that a person can hold: uint8 pictures in, class ids out."""

import os
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bisenet_jax import pictures
from bisenet_jax.complexity import count_parameters
from bisenet_jax.data.classes import ClassSet
from bisenet_jax.errors import ConfigError, DataError, WeightsError
from bisenet_jax.inference import make_label_function, make_logits_function
from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.normalization import Normalization
from bisenet_jax.training.run import read_run
from bisenet_jax.weights import Weights, read_weights
from bisenet_jax.zoo.registry import describe_names, find_weights


def load(path: str | os.PathLike[str], checkpoint: str | None = None) -> "Segmenter":
    """The segmenter of a shipped network, a weights file, or a checkpoint in a workdir.

    Args:
        checkpoint: of a workdir: `best` (by mIoU on val), which None means too, `latest`, or a
            step.
    """
    found = find_weights(path)
    if found.is_dir():
        return Segmenter(read_run(found, checkpoint or "best"), str(path))
    if not found.exists():
        raise WeightsError(
            f"{path} does not exist; give a weights file that export.py wrote, the workdir of "
            f"a train.py run, or a shipped network's name: {describe_names()}"
        )
    if checkpoint is not None:
        raise ConfigError(
            f"checkpoint {checkpoint!r} is of a train.py run; {path} is a weights file and "
            "holds one"
        )
    return Segmenter(read_weights(path), str(path))


class Segmenter:
    """Weights and the compiled functions of them; nothing in it changes.

    Pictures of any size work. Each new size (and number of pictures) compiles once, which takes
    seconds; pictures of one size are the quick way.
    """

    def __init__(self, weights: Weights, source: str = "memory") -> None:
        """`source` says where the weights came from, for `description`."""
        self._weights = weights
        self._source = source

    @property
    def class_set(self) -> ClassSet:
        """Names and colours of the class ids."""
        return self._weights.class_set

    @property
    def normalization(self) -> Normalization:
        """How pixels become the network's input; `predict` does it itself."""
        return self._weights.normalization

    @property
    def input_scale(self) -> float:
        """How large the network sees a picture, such as 0.5; `predict` sees to it itself."""
        return self._weights.input_scale

    @property
    def description(self) -> dict[str, Any]:
        """What the weights are, as JSON values."""
        weights = self._weights
        params = without_boosters(weights.variables)["params"]
        score = weights.score
        return {
            "source": self._source,
            "preset": weights.preset,
            "dtype": jnp.dtype(weights.model.dtype).name,
            "parameters": count_parameters(params),
            "input_scale": weights.input_scale,
            "classes": list(self.class_set.names),
            "class_set": self.class_set.name,
            "miou": None if score is None else score.miou,
            "protocol": None if score is None else score.protocol,
            "step": weights.step,
            "content_hash": weights.content_hash or None,
            "version": weights.version,
        }

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The most likely class of each pixel.

        Args:
            images: `[H, W, 3]` or `[B, H, W, 3] uint8`, red first, of any size.

        Returns:
            `[H, W]` or `[B, H, W] uint8` class ids.
        """
        batch = _as_batch(images)
        labels = np.asarray(self.start(batch))
        return labels if images.ndim == 4 else labels[0]

    def compile(self, height: int, width: int, batch: int = 1) -> None:
        """Have the program of `predict` ready for pictures of one size before they come."""
        self.start(np.zeros((batch, height, width, 3), np.uint8)).block_until_ready()

    def start(self, images: np.ndarray) -> jax.Array:
        """Like `predict` for `[B, H, W, 3]`, without waiting for the device to be done."""
        return self._label(_as_batch(images))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """What `predict` chooses from: `[..., H, W, classes] float32` at the images' size."""
        batch = _as_batch(images)
        logits = np.asarray(self._logits(batch))
        return logits if images.ndim == 4 else logits[0]

    def overlay(self, image: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """The image `[H, W, 3] uint8` tinted by its labels `[H, W]`, predicted if None."""
        if image.ndim != 3:
            raise DataError(
                f"image {list(image.shape)} must be one picture [H, W, 3]; call overlay for "
                "each picture of a batch"
            )
        labels = self.predict(image) if labels is None else labels
        return pictures.overlay(image, labels, self.class_set)

    def __repr__(self) -> str:
        about = self.description
        step = "" if about["step"] is None else f", step {about['step']}"
        score = "not scored"
        if self._weights.score is not None:
            score = f"mIoU {100 * about['miou']:.2f} % on {self._weights.score.split}"
        return (
            f"Segmenter(BiSeNet V2 {about['preset']}, {len(self.class_set)} classes of "
            f"{self.class_set.name}, {about['parameters']:,} parameters, {score}{step}, from "
            f"{self._source})"
        )

    @cached_property
    def _label(self) -> Any:
        weights = self._weights
        return make_label_function(
            weights.model, weights.variables, weights.normalization, weights.input_scale
        )

    @cached_property
    def _logits(self) -> Any:
        weights = self._weights
        return make_logits_function(
            weights.model, weights.variables, weights.normalization, weights.input_scale
        )


def _as_batch(images: np.ndarray) -> Any:
    """`[B, H, W, 3]` of one picture or several; only uint8 says how bright it is."""
    shape = list(getattr(images, "shape", ()))
    dtype = getattr(images, "dtype", type(images).__name__)
    if dtype != np.uint8:
        raise DataError(
            f"images are {dtype} {shape}, must be a uint8 array of 0 to 255, red first; floats "
            "from 0 to 1 become that by np.rint(255 * images).astype(np.uint8)"
        )
    if len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape:
        raise DataError(
            f"images are {shape}, must be [H, W, 3] or [B, H, W, 3] and not empty; give a grey "
            "picture three times, and leave an alpha channel out"
        )
    return images if len(shape) == 4 else images[None]
