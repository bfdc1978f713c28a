"""Score a split: every image once, under a named protocol, into one confusion matrix.

Memory does not grow with the split but for a few integers per image, from which the interval
of mIoU is drawn. Labels are never resized.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bisenet_jax import parallel
from bisenet_jax.config import STRIDE
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.example import Example
from bisenet_jax.evaluation.bootstrap import image_counts
from bisenet_jax.evaluation.metrics import confusion_matrix_per_image
from bisenet_jax.evaluation.views import predict_by_protocol
from bisenet_jax.inference import Network
from bisenet_jax.normalization import Normalization
from bisenet_jax.protocol import Protocol

PyTree = Any
Arrays = dict[str, jax.Array]
EvaluateStep = Callable[[PyTree, Arrays], tuple[jax.Array, jax.Array]]

MANY_PROGRAMS = 24


class Evaluation(NamedTuple):
    """What was counted.

    Attributes:
        confusion: `[N, N] int64`, row = truth, column = prediction.
        image_counts: `[I, 2, N] int32`, hits and unions of each image, in the split's order.
        images: how many images were scored.
        ignored: pixels that carry no class.
        sizes: the image sizes met, `(height, width)` to their number.
        programs: how many shapes were compiled.
    """

    confusion: np.ndarray
    image_counts: np.ndarray
    images: int
    ignored: int
    sizes: dict[tuple[int, int], int]
    programs: int


def make_evaluate_step(
    network: Network,
    normalization: Normalization,
    mesh: Mesh,
    protocol: Protocol | None = None,
    *,
    deterministic: bool = False,
) -> EvaluateStep:
    """The compiled `(variables, batch) -> (confusion, labels)` of one protocol.

    A batch is `image [B, H, W, 3] uint8`, `label [B, H, W] uint8`, `size [B, 2] int32`; the
    results are `[B, N, N] int32` and `[B, H, W] uint8`.
    """
    protocol = protocol or Protocol()

    def evaluate_step(variables: PyTree, batch: Arrays) -> tuple[jax.Array, jax.Array]:
        predictions = predict_by_protocol(
            network, variables, batch["image"], batch["size"], normalization, protocol
        )
        confusion = confusion_matrix_per_image(batch["label"], predictions, network.num_classes)
        return confusion, predictions

    return parallel.compile_evaluate_step(evaluate_step, mesh, deterministic=deterministic)


def evaluate(
    step: EvaluateStep,
    variables: PyTree,
    examples: Iterable[Example],
    *,
    num_classes: int,
    batch_size: int,
    mesh: Mesh,
    protocol: Protocol | None = None,
    bucket: int = STRIDE,
    visit: Callable[[Example, np.ndarray], None] | None = None,
) -> Evaluation:
    """Count all examples; neither batch size nor devices nor order change the sums.

    With several processes each gives its own share of the examples, in `evaluation_examples`'
    way, and all of them call this; each then holds the counts of all.

    Args:
        step: from `make_evaluate_step`, of the same mesh and protocol.
        variables: of the network that `step` was made of, without boosters.
        examples: of any sizes; what has one bucket is batched, and compiled, together.
        num_classes: N.
        batch_size: divisible by the number of devices.
        mesh: of this process's own devices.
        bucket: sizes are rounded up to multiples of it, the rest is seen as the mean colour.
            At the network's stride, the default, that changes nothing, as inference pads so
            far anyway; a larger one means fewer programs and slightly other numbers. Under
            other protocols than the plain one, each size is by itself.
        visit: called with each example and its prediction `[H, W] uint8`.
    """
    protocol = protocol or Protocol()
    unit = bucket if protocol.is_plain else 1
    confusion = np.zeros((num_classes, num_classes), np.int64)
    counts: dict[int, np.ndarray] = {}
    pixels = 0
    sizes: dict[tuple[int, int], int] = {}
    shapes: set[tuple[int, int]] = set()
    is_warned = False
    # One batch is in flight while the next is gathered.
    for batch, result in _delayed(
        (batch, step(variables, parallel.split_batch(_lay(batch, batch_size, unit), mesh)))
        for batch in _batches_of_one_shape(enumerate(examples), batch_size, unit)
    ):
        batch_confusion = np.asarray(result[0])[: len(batch)]
        confusion += batch_confusion.sum(axis=0, dtype=np.int64)
        counts |= zip((index for index, _ in batch), image_counts(batch_confusion), strict=True)
        shapes.add(_shape(batch[0][1], unit))
        if len(shapes) > MANY_PROGRAMS and not is_warned:
            is_warned = True
            cure = (
                f"a larger --bucket than {bucket}" if protocol.is_plain else "resizing to few"
            )
            warnings.warn(
                f"images of more than {MANY_PROGRAMS} shapes, for each of which a program is "
                f"compiled; {cure} makes them fewer",
                stacklevel=2,
            )
        predictions = np.asarray(result[1]) if visit is not None else None
        for place, (_, example) in enumerate(batch):
            height, width = example["label"].shape
            pixels += height * width
            sizes[height, width] = sizes.get((height, width), 0) + 1
            if visit is not None and predictions is not None:
                visit(example, predictions[place, :height, :width])
    kept = np.zeros((len(counts), 2, num_classes), np.int32)
    for index, values in counts.items():
        kept[index] = values
    return _over_processes(
        Evaluation(
            confusion, kept, len(kept), pixels - int(confusion.sum()), sizes, len(shapes)
        )
    )


def _over_processes(own: Evaluation) -> Evaluation:
    """What all processes counted; image i was scored by process i modulo their number."""
    sizes = np.array([(*size, number) for size, number in own.sizes.items()], np.int64)
    shares = parallel.gather_arrays(
        {
            "confusion": own.confusion,
            "image_counts": own.image_counts,
            "sizes": sizes.reshape(-1, 3),
            "totals": np.array([own.images, own.ignored, own.programs]),
        }
    )
    images, ignored, _ = np.sum([share["totals"] for share in shares], axis=0)
    counts = np.zeros((images, *own.image_counts.shape[1:]), np.int32)
    total_sizes: dict[tuple[int, int], int] = {}
    for process, share in enumerate(shares):
        counts[process :: len(shares)] = share["image_counts"]
        for height, width, number in share["sizes"].tolist():
            total_sizes[height, width] = total_sizes.get((height, width), 0) + number
    return Evaluation(
        confusion=np.sum([share["confusion"] for share in shares], axis=0),
        image_counts=counts,
        images=int(images),
        ignored=int(ignored),
        sizes=total_sizes,
        programs=int(max(share["totals"][2] for share in shares)),
    )


def _shape(example: Example, unit: int) -> tuple[int, int]:
    height, width = example["label"].shape
    return height + -height % unit, width + -width % unit


def _batches_of_one_shape(
    examples: Iterable[tuple[int, Example]], batch_size: int, unit: int
) -> Iterator[list[tuple[int, Example]]]:
    waiting: dict[tuple[int, int], list[tuple[int, Example]]] = {}
    for index, example in examples:
        shape = _shape(example, unit)
        batch = waiting.setdefault(shape, [])
        batch.append((index, example))
        if len(batch) == batch_size:
            yield waiting.pop(shape)
    yield from waiting.values()


def _lay(batch: list[tuple[int, Example]], batch_size: int, unit: int) -> dict[str, np.ndarray]:
    """Stack a batch; what is missing, in it or in an image, has ignored labels."""
    shape = _shape(batch[0][1], unit)
    image = np.zeros((batch_size, *shape, 3), np.uint8)
    label = np.full((batch_size, *shape), IGNORE, np.uint8)
    size = np.zeros((batch_size, 2), np.int32)
    for place, (_, example) in enumerate(batch):
        height, width = size[place] = example["label"].shape
        image[place, :height, :width] = example["image"]
        label[place, :height, :width] = example["label"]
    return {"image": image, "label": label, "size": size}


def _delayed(items: Iterable[Any]) -> Iterator[Any]:
    """The same items, each only after the next one was started."""
    previous: list[Any] = []
    for item in items:
        yield from previous
        previous = [item]
    yield from previous
