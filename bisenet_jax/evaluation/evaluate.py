"""Score a split: every image once, whole, at its own size, into one confusion matrix."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bisenet_jax import parallel
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.example import Example
from bisenet_jax.evaluation.metrics import confusion_matrix
from bisenet_jax.inference import predict_labels
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.normalization import Normalization

PyTree = Any
EvaluateStep = Callable[[PyTree, dict[str, jax.Array]], tuple[jax.Array, jax.Array]]


class Evaluation(NamedTuple):
    """What was counted.

    Attributes:
        confusion: `[N, N] int64`, row = truth, column = prediction.
        images: how many images were scored.
        ignored: pixels that carry no class.
        sizes: the image sizes met, `(height, width)` to their number.
    """

    confusion: np.ndarray
    images: int
    ignored: int
    sizes: dict[tuple[int, int], int]


def make_evaluate_step(
    model: BiSeNetV2, normalization: Normalization, mesh: Mesh
) -> EvaluateStep:
    """The compiled `(variables, batch) -> (confusion [N, N] int32, labels [B, H, W] uint8)`."""

    def evaluate_step(
        variables: PyTree, batch: dict[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        predictions = predict_labels(model, variables, batch["image"], normalization)
        confusion = confusion_matrix(batch["label"], predictions, model.num_classes)
        return confusion, predictions

    return parallel.compile_evaluate_step(evaluate_step, mesh)


def evaluate(
    step: EvaluateStep,
    variables: PyTree,
    examples: Iterable[Example],
    *,
    num_classes: int,
    batch_size: int,
    mesh: Mesh,
    visit: Callable[[Example, np.ndarray], None] | None = None,
) -> Evaluation:
    """Sum the confusion matrices of all examples; neither batch size nor devices change it.

    Args:
        step: from `make_evaluate_step`.
        variables: without boosters.
        examples: of any sizes; each size is batched, and compiled, by itself.
        num_classes: N.
        batch_size: divisible by the number of devices.
        mesh: of the step.
        visit: called with each example and its prediction `[H, W] uint8`.
    """
    confusion = np.zeros((num_classes, num_classes), np.int64)
    images, pixels = 0, 0
    sizes: dict[tuple[int, int], int] = {}
    # One batch is in flight while the next is gathered.
    for batch, result in _delayed(
        (batch, step(variables, parallel.split_batch(_pad(batch, batch_size), mesh)))
        for batch in _batches_of_one_size(examples, batch_size)
    ):
        batch_confusion, predictions = result
        confusion += np.asarray(batch_confusion, np.int64)
        images += len(batch)
        pixels += sum(example["label"].size for example in batch)
        height, width = batch[0]["label"].shape
        sizes[height, width] = sizes.get((height, width), 0) + len(batch)
        if visit is not None:
            for example, prediction in zip(batch, np.asarray(predictions), strict=False):
                visit(example, prediction)
    return Evaluation(confusion, images, pixels - int(confusion.sum()), sizes)


def _batches_of_one_size(
    examples: Iterable[Example], batch_size: int
) -> Iterator[list[Example]]:
    waiting: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        batch = waiting.setdefault(example["image"].shape, [])
        batch.append(example)
        if len(batch) == batch_size:
            yield waiting.pop(example["image"].shape)
    yield from waiting.values()


def _pad(batch: list[Example], batch_size: int) -> dict[str, np.ndarray]:
    """Stack a batch; missing examples become black images whose every pixel is ignored."""
    missing = batch_size - len(batch)
    images = np.stack([example["image"] for example in batch])
    labels = np.stack([example["label"] for example in batch])
    return {
        "image": np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))),
        "label": np.pad(labels, ((0, missing), (0, 0), (0, 0)), constant_values=IGNORE),
    }


def _delayed(items: Iterable[Any]) -> Iterator[Any]:
    """The same items, each only after the next one was started."""
    previous: list[Any] = []
    for item in items:
        yield from previous
        previous = [item]
    yield from previous
