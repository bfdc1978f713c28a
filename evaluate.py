"""Score a trained network on a split, under a protocol with a name.

    python evaluate.py --workdir runs/synthetic
    python evaluate.py --workdir runs/synthetic --json scores.json --save_dir overlays
    python evaluate.py --workdir runs/city --protocol full --scales 0.5,0.75,1,1.25,1.5 --flip
    python evaluate.py --workdir runs/city --sliding 1024x1024 --stride 768x768
    python evaluate.py --workdir runs/city --split test --submission answers
    python evaluate.py --weights weights.safetensors --config configs/cityscapes_full.py
    python evaluate.py --workdir runs/city --coordinator HOST:PORT --processes 2 --process 0

Protocols: full, the network sees whole images at their own size; half, at half of it, and its
logits go back to full size (the paper's on Cityscapes); double, at twice of it. By default the
one that the run was trained for, or that of the file (export.py --input_scale). Labels are
never resized. The network is the run's or the file's own in every respect; --config says what
data it is scored on, by default the run's. JSON
keys: miou, miou_interval, pixel_accuracy, class_iou (name to value or null), images, split, ...
Exit codes: 0 done, 2 something to mend, 130 interrupted.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from bisenet_jax import command_line, distributed, parallel, program_cache
from bisenet_jax.config import STRIDE
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.classes import CITYSCAPES, ClassSet
from bisenet_jax.data.example import Example
from bisenet_jax.data.loader import evaluation_examples
from bisenet_jax.data.sources import open_source
from bisenet_jax.drawing import write_picture
from bisenet_jax.errors import ConfigError
from bisenet_jax.evaluation.bootstrap import bootstrap_miou
from bisenet_jax.evaluation.boundary import BoundaryCounts, boundary_scores, count_boundaries
from bisenet_jax.evaluation.confusion_picture import confusion_picture
from bisenet_jax.evaluation.evaluate import evaluate, make_evaluate_step
from bisenet_jax.evaluation.instances import (
    InstanceCounts,
    count_instances,
    instance_scores,
    read_instances,
)
from bisenet_jax.evaluation.metrics import group_confusion, scores
from bisenet_jax.evaluation.network import open_run, open_weights
from bisenet_jax.evaluation.report import DATA_SETS, protocol_line, score_summary, score_table
from bisenet_jax.evaluation.submission import open_submission
from bisenet_jax.files import write_json
from bisenet_jax.panels import comparison
from bisenet_jax.protocol import NAMES, Protocol, protocol_of_scale

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Says where the data is; by default the run's own."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a train.py run.")
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "Instead: a weights file, or a shipped name; needs --config."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Of the run: best (by mIoU on val, the default), latest, or a step."
)
_SPLIT = flags.DEFINE_string("split", None, "By default config.data.val_split.")
_PROTOCOL = flags.DEFINE_enum("protocol", None, list(NAMES), "By default the network's own.")
_SCALES = flags.DEFINE_list(
    "scales", ["1"], "Of the views whose probabilities are averaged, times the protocol's."
)
_FLIP = flags.DEFINE_bool("flip", False, "See every view mirrored as well.")
_SLIDING = flags.DEFINE_string("sliding", None, "Window HEIGHTxWIDTH that slides over a view.")
_STRIDE = flags.DEFINE_string("stride", None, "Of the window, HEIGHTxWIDTH; default: 2/3.")
_BUCKET = flags.DEFINE_integer(
    "bucket", STRIDE, "Image sizes are rounded up to multiples of it.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "By default the config's.", lower_bound=1
)
_BOUNDARY = flags.DEFINE_bool("boundary", False, "Boundary F1 too; slow on many images.")
_INSTANCES = flags.DEFINE_string(
    "instances", None, "Folder with gtFine/, for the instance-weighted iIoU of Cityscapes."
)
_JSON = flags.DEFINE_string("json", None, "File for the scores.")
_SAVE_DIR = flags.DEFINE_string("save_dir", None, "Folder for one picture per image.")
_PICTURES = flags.DEFINE_integer("pictures", 20, "How many pictures to save at most.")
_CONFUSION = flags.DEFINE_string("confusion", None, "PNG for the confusion matrix.")
_SUBMISSION = flags.DEFINE_string("submission", None, "New folder for a test server's files.")
flags.adopt_module_key_flags(distributed)

Visit = Callable[[Example, np.ndarray], None]


def main() -> None:
    program_cache.keep_compiled_programs()
    if (_WORKDIR.value is None) == (_WEIGHTS.value is None):
        raise ConfigError(
            "give --workdir DIR of a train.py run, or --weights FILE with --config; --help "
            "shows examples"
        )
    if _WEIGHTS.value and _CHECKPOINT.value:
        raise ConfigError(
            f"--checkpoint {_CHECKPOINT.value!r} goes with --workdir; a weights file holds one"
        )
    process, count = jax.process_index(), jax.process_count()
    if _SUBMISSION.value and count > 1:
        raise ConfigError(
            f"--submission is written by one process, not by {count}; start a single one"
        )
    options = command_line.read_config(_CONFIG.value, _WORKDIR.value)
    split = _SPLIT.value or options.data.val_split
    batch_size = _BATCH_SIZE.value or options.train.evaluate_batch_size
    mesh = parallel.make_mesh(jax.local_devices())
    parallel.require_divisible("--batch_size", batch_size, mesh)
    class_set = find_class_set(options.data.classes)
    if _INSTANCES.value and class_set != CITYSCAPES:
        raise ConfigError(f"--instances is for Cityscapes, not for {class_set.name!r}")
    source = open_source(options.data, split)
    if _WEIGHTS.value:
        scored = open_weights(_WEIGHTS.value, options.data, mesh)
    else:
        checkpoint = _CHECKPOINT.value or "best"
        scored = open_run(Path(_WORKDIR.value or ""), options.data, checkpoint, mesh)
    protocol = read_protocol(scored.input_scale)
    check_bucket(_BUCKET.value, protocol)

    boundaries, instances = BoundaryCounts.none(len(class_set)), InstanceCounts.none()

    def count_further(example: Example, prediction: np.ndarray) -> None:
        nonlocal boundaries, instances
        if _BOUNDARY.value:
            found = count_boundaries(example["label"], prediction, len(class_set))
            boundaries += found
        if _INSTANCES.value:
            truth = read_instances(_INSTANCES.value, split, example["name"])
            instances += count_instances(prediction, truth)

    visits: list[Visit] = [count_further] if _BOUNDARY.value or _INSTANCES.value else []
    with ExitStack() as stack:
        if _SAVE_DIR.value:
            number = len(range(process, _PICTURES.value, count))
            visits.append(picture_writer(Path(_SAVE_DIR.value), class_set, number))
        if _SUBMISSION.value:
            folder = Path(_SUBMISSION.value)
            threads = options.data.threads
            answers = stack.enter_context(open_submission(folder, class_set, threads=threads))
            visits.append(lambda example, labels: answers.add(example["name"], labels))

        def visit(example: Example, prediction: np.ndarray) -> None:
            for each in visits:
                each(example, prediction)

        examples = evaluation_examples(
            source, threads=options.data.threads, process_index=process, process_count=count
        )
        total, is_silent = len(range(process, len(source), count)), not distributed.is_first()
        with tqdm(examples, "evaluate", total, unit="image", disable=is_silent) as bar:
            evaluation = evaluate(
                make_evaluate_step(scored.network, scored.normalization, mesh, protocol),
                scored.parameters,
                bar,
                num_classes=len(class_set),
                batch_size=batch_size,
                mesh=mesh,
                protocol=protocol,
                bucket=_BUCKET.value,
                visit=visit if visits else None,
            )

    if _BOUNDARY.value:
        shares = parallel.gather_arrays(vars(boundaries))
        boundaries = sum(
            (BoundaryCounts(**each) for each in shares), boundaries.none(len(class_set))
        )
    if _INSTANCES.value:
        shares = parallel.gather_arrays(vars(instances))
        instances = sum((InstanceCounts(**each) for each in shares), instances.none())
    dtype = jnp.dtype(scored.network.model.dtype).name
    words = protocol_line(
        f"{DATA_SETS[options.data.source]} {split}",
        evaluation.sizes,
        protocol=str(protocol),
        classes=len(class_set),
        bucket=_BUCKET.value if protocol.is_plain else STRIDE,
        dtype=dtype,
    )
    confusion = evaluation.confusion
    result = scores(confusion)
    further: dict[str, Any] = {"interval": bootstrap_miou(evaluation.image_counts)}
    if class_set.categories:
        further["categories"] = scores(group_confusion(confusion, class_set.categories))
    if _BOUNDARY.value:
        further["boundary"] = boundary_scores(boundaries)
    if _INSTANCES.value:
        further["instances"] = instance_scores(instances, confusion)
    if result.pixels:
        print(score_table(result, class_set, title=scored.title, notes=[words], **further))
    else:
        print(f"{scored.title}\n{words}\nno labelled pixel in this split: nothing to score")
    if not distributed.is_first():
        return
    for what, where in (("pictures", _SAVE_DIR.value), ("the submission", _SUBMISSION.value)):
        if where:
            print(f"{what} in {where}")
    if _CONFUSION.value:
        picture = confusion_picture(confusion, class_set, title=scored.title)
        write_picture(_CONFUSION.value, picture)
    if _JSON.value:
        summary = score_summary(
            result,
            class_set,
            images=evaluation.images,
            split=split,
            protocol=words,
            ignored=evaluation.ignored,
            **further,
            protocol_name=protocol.name,
            dtype=dtype,
            step=scored.step,
            programs=evaluation.programs,
        )
        write_json(_JSON.value, summary)


def read_protocol(input_scale: float) -> Protocol:
    """What the flags ask for; where they are silent, what the network was trained for."""
    try:
        scales = tuple(float(scale) for scale in _SCALES.value)
    except ValueError:
        raise ConfigError(
            f"--scales {','.join(_SCALES.value)} must be numbers, such as 0.75,1,1.25"
        ) from None
    crop = read_size("--sliding", _SLIDING.value)
    stride = read_size("--stride", _STRIDE.value)
    if crop and not stride:
        stride = (max(2 * crop[0] // 3, 1), max(2 * crop[1] // 3, 1))
    own = Protocol(_PROTOCOL.value) if _PROTOCOL.value else protocol_of_scale(input_scale)
    scales = tuple(own.scales[0] * scale for scale in scales)
    return Protocol(own.name, scales, _FLIP.value, crop, stride)


def check_bucket(bucket: int, protocol: Protocol) -> None:
    """A bucket between divisors and multiples of the stride would be padded once more."""
    if STRIDE % bucket and bucket % STRIDE:
        raise ConfigError(f"--bucket {bucket} must be a multiple of {STRIDE}, such as 128")
    if bucket != STRIDE and not protocol.is_plain:
        raise ConfigError(
            f"--bucket {bucket} has no effect unless whole images are seen at full size; leave "
            "it out"
        )


def read_size(flag: str, text: str | None) -> tuple[int, int] | None:
    """`512x1024` is 512 high and 1024 wide, `512` a square."""
    if text is None:
        return None
    height, _, width = text.partition("x")
    sides = (height, width or height)
    if not all(side.isdecimal() and 1 <= int(side[:9]) < 2**16 for side in sides):
        raise ConfigError(f"{flag} {text!r} must be a size in pixels, such as 512x1024")
    return int(height), int(width or height)


def picture_writer(folder: Path, class_set: ClassSet, number: int) -> Visit:
    """Writes image, prediction, truth and errors of the first `number` images."""
    written: list[str] = []

    def write(example: Example, prediction: np.ndarray) -> None:
        name = example["name"]
        if len(written) < number:
            image, label = example["image"], example["label"]
            picture = comparison(image, prediction, label, class_set, title=name)
            write_picture(folder / f"{name}.png", picture)
            written.append(name)

    return write


if __name__ == "__main__":
    distributed.run(main, __doc__)
