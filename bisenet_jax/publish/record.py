"""All that is told of a published network, as one document of JSON values.

The card, the row in the table of results and the entry in the register are made of it alone.
"""

import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bisenet_jax import config_file, distributed
from bisenet_jax.config import Config
from bisenet_jax.evaluation.report import DATA_SETS
from bisenet_jax.publish.measurement import FILES, STORED_DTYPE, Final, Measured

Record = dict[str, Any]

# Terms of the data pass to what is learnt from it. Sources of unknown terms are not here.
LICENCES = {
    "synthetic": "MIT, as the rest of this repository: its own code drew the data",
    "camvid": "research use only, as CamVid: no commercial use",
    "cityscapes": "research use only, as Cityscapes: no commercial use",
}
# How a machine works, not what comes out.
_OF_THE_MACHINE = distributed.HOST_KEYS - {"config.data.root"} | {
    "config.data.cache",
    *("config.train.keep_checkpoints", "config.train.evaluate_batch_size"),
}


def make_record(
    name: str,
    runs: Sequence[Measured],
    best: Measured,
    final: Final | None = None,
    *,
    config_path: str,
    config: Config,
    licence: str,
    commit: str,
    device: str,
) -> Record:
    """Describe a network, all runs of its recipe, and how to repeat them.

    Args:
        name: of the network.
        runs: of the recipe, each with another seed.
        best: the one whose scores are told; its weights are shipped where nothing is final.
        final: whose weights are shipped.
        config_path: the file that the runs began with.
        config: what that file returns.
        licence: of the weights.
        commit: of the code that trained.
        device: that trained, in words.
    """
    options = best.options if final is None else final.options
    return {
        "name": name,
        "preset": best.weights.preset,
        "data": DATA_SETS[options.data.source],
        "licence": licence,
        "commit": commit,
        "device": device,
        "dtype": options.model.dtype,
        "stored_dtype": STORED_DTYPE,
        "command": training_command(config_path, config, options, name),
        "evaluation_command": evaluation_command(
            config_path, config, options, name, split=None if final is None else "test"
        ),
        "optimizer": options.optimizer.method,
        "steps": options.train.steps,
        "batch_size": options.train.batch_size,
        "evaluate_every": options.train.evaluate_every,
        "height": options.augment.crop_height,
        "width": options.augment.crop_width,
        "input_scale": best.weights.input_scale,
        "trained_scale": options.augment.input_scale,
        **average_runs([describe_run(run, final is None and run is best) for run in runs]),
        "train_split": best.options.data.train_split,
        "final": None if final is None else _describe_final(final),
        "scores": best.summary,
        "confusions": confusions(best.confusion, best.weights.class_set.names),
    }


def average_runs(described: Sequence[Record]) -> Record:
    """The runs, each as `describe_run` tells it, with mean and sample standard deviation."""
    mious = [run["miou"] for run in described]
    return {
        "miou_mean": statistics.fmean(mious),
        "miou_deviation": statistics.stdev(mious) if len(mious) > 1 else None,
        "runs": list(described),
    }


def training_command(path: str, base: Config, options: Config, name: str) -> str:
    """The words that start this run from the file, whose data lies where the user's does."""
    words = ["python", "train.py", "--config", path, "--workdir", f"runs/{name}"]
    return _join([*words, *_changes(base, options)])


def evaluation_command(
    path: str, base: Config, options: Config, name: str, split: str | None = None
) -> str:
    """The words that score the shipped file on the pictures of a split, or of validation."""
    words = ["python", "evaluate.py", "--weights", name, "--config", path]
    data = [
        word
        for word in _changes(base, options)
        if word.startswith("--config.data.") and "train_split" not in word
    ]
    return _join([*words, *data, *([f"--split={split}"] if split else [])])


def _changes(base: Config, options: Config) -> list[str]:
    words = []
    for key, (_, value) in config_file.differences(base, options).items():
        if key == "config.data.root":
            value = options.data.source.upper()
        elif key in FILES:
            value = Path(value).name
        elif isinstance(value, tuple):
            value = str(value).replace(" ", "")
        if key not in _OF_THE_MACHINE:
            words.append(f"--{key}={value}")
    return words


def _join(words: Sequence[str]) -> str:
    """One shell command, in lines of a readable length."""
    lines = [""]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) > 92:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return " \\\n".join(lines)


def confusions(confusion: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """For each class the other one that its pixels are taken for most, and their share.

    Args:
        confusion: `[N, N]` integer, row = truth.
        names: of the N classes; one without pixels or errors has None.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for row, name in enumerate(names):
        errors = np.array(confusion[row])
        total, errors[row] = errors.sum(), 0
        most = int(errors.argmax())
        share = float(errors[most] / max(total, 1))
        found[name] = {"class": names[most], "share": share} if share else None
    return found


def describe_run(run: Measured, is_shipped: bool) -> Record:
    """Seed, scores, steps and minutes of one run."""
    trained = [line for line in run.log if line["group"] == "train"]
    scored = [line for line in run.log if line["group"] == "val" and line["miou"] is not None]
    score = run.weights.score
    return {
        "seed": run.options.train.seed,
        "step": run.weights.step,
        "miou": run.summary["miou"],
        "pixel_accuracy": run.summary["pixel_accuracy"],
        # By train.py, of the float32 parameters; and at the end of the run. The first is
        # unknown where the file sees images at another size than train.py showed them at.
        "miou_float32": None if score is None else score.miou,
        "miou_last": scored[-1]["miou"] if scored else None,
        "last_step": scored[-1]["step"] if scored else None,
        "steps_made": max((line["step"] for line in run.log), default=0),
        "minutes": _minutes(trained, run.options.train.batch_size),
        "is_shipped": is_shipped,
    }


def _describe_final(final: Final) -> dict[str, Any]:
    return {
        "seed": final.options.train.seed,
        "split": final.options.data.train_split,
        "step": final.weights.step,
        "minutes": _minutes(final.log, final.options.train.batch_size),
    }


def _minutes(lines: Sequence[dict[str, Any]], batch_size: int) -> float | None:
    """What the steps took, without scoring and saving; each line has the rate up to it."""
    seconds, before = 0.0, 0
    for line in lines:
        if not line.get("images_per_second"):
            return None
        seconds += (line["step"] - before) * batch_size / line["images_per_second"]
        before = line["step"]
    return seconds / 60 if lines else None
