"""Score a trained network on a split: class IoU, mIoU and pixel accuracy, whole images.

    python evaluate.py --workdir runs/synthetic
    python evaluate.py --workdir runs/synthetic --json scores.json --save_dir overlays

The configuration is the run's own unless --config gives another. JSON keys: miou,
pixel_accuracy, mean_accuracy, class_iou (name to value or null), images, split, protocol, ...
Exit codes: 0 done, 2 something to mend, 130 interrupted.
"""

from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from bisenet_jax import command_line, parallel, program_cache
from bisenet_jax.config import Config
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.example import Example
from bisenet_jax.data.loader import evaluation_examples
from bisenet_jax.data.sources import open_source
from bisenet_jax.drawing import write_picture
from bisenet_jax.errors import ConfigError
from bisenet_jax.evaluation.evaluate import Evaluation, evaluate, make_evaluate_step
from bisenet_jax.evaluation.metrics import scores
from bisenet_jax.evaluation.report import score_summary, score_table
from bisenet_jax.files import write_json
from bisenet_jax.inference import without_boosters
from bisenet_jax.normalization import Normalization
from bisenet_jax.panels import comparison
from bisenet_jax.training.run import restore_run

_CONFIG = config_flags.DEFINE_config_file("config", None, "By default the run's own.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a train.py run.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "best (by mIoU on val), latest, or a step."
)
_SPLIT = flags.DEFINE_string("split", None, "By default config.data.val_split.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "By default the config's.")
_JSON = flags.DEFINE_string("json", None, "File for the scores.")
_SAVE_DIR = flags.DEFINE_string("save_dir", None, "Folder for one picture per image.")
_PICTURES = flags.DEFINE_integer("pictures", 20, "How many pictures to save at most.")


def main() -> None:
    program_cache.keep_compiled_programs()
    if _WORKDIR.value is None:
        raise ConfigError("give --workdir DIR of a train.py run; --help shows an example")
    options = command_line.read_config(_CONFIG.value, _WORKDIR.value)
    split = _SPLIT.value or options.data.val_split
    batch_size = _BATCH_SIZE.value or options.train.evaluate_batch_size
    mesh = parallel.make_mesh()
    parallel.require_divisible("--batch_size", batch_size, mesh)
    class_set = find_class_set(options.data.classes)
    source = open_source(options.data, split)

    restored = restore_run(Path(_WORKDIR.value), options, _CHECKPOINT.value, mesh)
    normalization = Normalization(options.data.mean, options.data.std)

    written: list[Path] = []

    def save_picture(example: Example, prediction: np.ndarray) -> None:
        if _SAVE_DIR.value and len(written) < _PICTURES.value:
            path = Path(_SAVE_DIR.value) / f"{example['name']}.png"
            picture = comparison(
                example["image"], prediction, example["label"], class_set, title=example["name"]
            )
            write_picture(path, picture)
            written.append(path)

    examples = evaluation_examples(source, threads=options.data.threads)
    with tqdm(examples, "evaluate", len(source), unit="image") as bar:
        evaluation = evaluate(
            make_evaluate_step(restored.model, normalization, mesh),
            without_boosters(restored.state.variables),
            bar,
            num_classes=len(class_set),
            batch_size=batch_size,
            mesh=mesh,
            visit=save_picture,
        )
    result, protocol = scores(evaluation.confusion), describe_protocol(options, evaluation)
    title = f"{class_set.name} {split}, {_WORKDIR.value}, step {restored.step}"
    print(score_table(result, class_set, title=title, notes=[protocol]))
    if written:
        print(f"{len(written)} pictures in {_SAVE_DIR.value}")
    if _JSON.value:
        summary = score_summary(
            result,
            class_set,
            images=evaluation.images,
            split=split,
            protocol=protocol,
            ignored=evaluation.ignored,
            step=restored.step,
        )
        write_json(_JSON.value, summary)


def describe_protocol(options: Config, evaluation: Evaluation) -> str:
    """One sentence that says how the numbers came about."""
    sizes = ", ".join(f"{width}x{height}" for height, width in sorted(evaluation.sizes))
    return (
        f"{evaluation.images} whole images of {sizes}, single scale, no flip, network input at "
        f"full size, logits enlarged bilinearly x8, {options.model.dtype}, one confusion matrix"
    )


if __name__ == "__main__":
    command_line.run(main, __doc__)
