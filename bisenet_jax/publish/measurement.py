"""What a run is worth: one of its checkpoints as it would be shipped, scored whole."""

import dataclasses
import tempfile
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bisenet_jax import config_file, distributed, parallel
from bisenet_jax.config import STRIDE, Config
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.loader import evaluation_examples
from bisenet_jax.data.sources import open_source
from bisenet_jax.errors import ConfigError
from bisenet_jax.evaluation.bootstrap import bootstrap_miou
from bisenet_jax.evaluation.evaluate import evaluate, make_evaluate_step
from bisenet_jax.evaluation.metrics import scores
from bisenet_jax.evaluation.network import open_weights
from bisenet_jax.evaluation.report import DATA_SETS, protocol_line, score_summary
from bisenet_jax.protocol import protocol_of_scale
from bisenet_jax.training.logs import LOG_FILE, read_log
from bisenet_jax.training.run import read_run
from bisenet_jax.weights import Score, Weights, read_weights, write_weights

STORED_DTYPE = "float16"
# What may differ between runs whose scores are averaged: the draw, and the machine's part.
_FREE = distributed.HOST_KEYS | {
    *("config.train.seed", "config.data.cache"),
    *("config.train.log_every", "config.train.checkpoint_every"),
    *("config.train.keep_checkpoints", "config.train.evaluate_batch_size"),
}


# Told by their names, not by where they lay.
FILES = {"config.data.classes", "config.data.statistics", "config.init.weights"}


class Measured(NamedTuple):
    """A run and one of its checkpoints.

    Attributes:
        options: of the run.
        log: the lines of its log.
        weights: as stored and read back, boosters left behind.
        summary: the scores as evaluate.py writes them, and the share of each class.
        confusion: `[N, N] int64`, row = truth.
    """

    options: Config
    log: list[dict[str, Any]]
    weights: Weights
    summary: dict[str, Any]
    confusion: np.ndarray

    def scored_weights(self) -> Weights:
        """The weights with the score that their file has."""
        score = Score(*(self.summary[name] for name in ("miou", "split", "protocol")))
        return dataclasses.replace(self.weights, score=score)


class Final(NamedTuple):
    """A run on all labelled frames, which has none left to be scored by.

    Attributes:
        options: of the run.
        log: the lines of its log on training; it scored frames that it had learnt from.
        weights: of its last checkpoint, as stored and read back, boosters left behind.
    """

    options: Config
    log: list[dict[str, Any]]
    weights: Weights


def measure_runs(
    workdirs: list[Path], checkpoint: str = "best", input_scale: float | None = None
) -> list[Measured]:
    """Score a checkpoint of each run, `best` or `latest`, on its validation split.

    Args:
        workdirs: of the runs.
        checkpoint: of each.
        input_scale: how large the stored networks see an image, if not as in training.

    Raises:
        ConfigError: for runs that differ in more than their seed, or not even in that.
    """
    configurations = [config_file.load(workdir) for workdir in workdirs]
    require_one_recipe(workdirs, configurations)
    return [
        _measure(workdir, options, checkpoint, input_scale)
        for workdir, options in zip(workdirs, configurations, strict=True)
    ]


def read_final(workdir: Path, scored: list[Path], input_scale: float | None = None) -> Final:
    """The run on all frames; but for them it has the recipe of the scored ones.

    Its stored network sees images at the given scale, as `measure_runs` has it.

    Raises:
        ConfigError: where it has another recipe, the frames of a scored run or its seed.
    """
    workdirs = [*scored, workdir]
    configurations = [config_file.load(path) for path in workdirs]
    first, *_, options = configurations
    require_one_recipe(workdirs, configurations, free={"config.data.train_split"})
    if options.data.train_split == first.data.train_split:
        raise ConfigError(
            f"{workdir} was trained on {options.data.train_split}, as {scored[0]}: a final run "
            "sees more, such as --config.data.train_split=trainval; else give it with --workdir"
        )
    log = [line for line in read_log(workdir / LOG_FILE) if line["group"] == "train"]
    with tempfile.TemporaryDirectory() as folder:
        unscored = dataclasses.replace(read_run(workdir, "latest"), score=None)
        return Final(options, log, read_weights(_store(unscored, folder, input_scale)))


def require_one_recipe(
    names: Sequence[object],
    configurations: Sequence[Config],
    free: Set[str] = frozenset(),
) -> None:
    """Refuse runs that differ in more than their seed, or not even in that.

    Args:
        names: what errors call the runs.
        configurations: of the runs.
        free: keys that may differ too.

    Raises:
        ConfigError: names the first run that differs from the first one, and where.
    """
    first = configurations[0]
    for name, options in zip(names[1:], configurations[1:], strict=True):
        found = config_file.differences(first, options)
        changed = sorted(
            key
            for key, (before, after) in found.items()
            if key not in _FREE | free
            and not (key in FILES and Path(before).name == Path(after).name)
        )
        if changed:
            raise ConfigError(
                f"{name} differs from {names[0]} in {', '.join(changed)}: only runs that "
                "differ in config.train.seed are averaged; publish it under another name"
            )
    seeds = [options.train.seed for options in configurations]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"the runs have the seeds {seeds}: each counts once; leave the repeated one out"
        )


def _store(weights: Weights, folder: str, input_scale: float | None) -> str:
    """The path of the weights as they are shipped, boosters left behind."""
    path = str(Path(folder) / "weights.safetensors")
    if input_scale is not None:
        weights = weights.with_input_scale(input_scale)
    write_weights(path, weights, dtype=STORED_DTYPE)
    return path


def _measure(
    workdir: Path, options: Config, checkpoint: str, input_scale: float | None
) -> Measured:
    class_set = find_class_set(options.data.classes)
    mesh = parallel.make_mesh(jax.devices()[:1])
    with tempfile.TemporaryDirectory() as folder:
        path = _store(read_run(workdir, checkpoint), folder, input_scale)
        weights = read_weights(path)
        scored = open_weights(path, options.data, mesh)
    source, split = open_source(options.data, options.data.val_split), options.data.val_split
    protocol = protocol_of_scale(weights.input_scale)
    examples = evaluation_examples(
        source, threads=options.data.threads, process_index=0, process_count=1
    )
    with tqdm(examples, f"score {workdir.name}", len(source), unit="image") as bar:
        evaluation = evaluate(
            make_evaluate_step(scored.network, scored.normalization, mesh, protocol),
            scored.parameters,
            bar,
            num_classes=len(class_set),
            batch_size=options.train.evaluate_batch_size,
            mesh=mesh,
            protocol=protocol,
        )
    result = scores(evaluation.confusion)
    summary = score_summary(
        result,
        class_set,
        images=evaluation.images,
        split=split,
        protocol=protocol_line(
            f"{DATA_SETS[options.data.source]} {split}",
            evaluation.sizes,
            protocol=str(protocol),
            classes=len(class_set),
            bucket=STRIDE,
            dtype=jnp.dtype(weights.model.dtype).name,
        ),
        ignored=evaluation.ignored,
        interval=bootstrap_miou(evaluation.image_counts),
        class_share=dict(
            zip(class_set.names, result.class_pixels / max(result.pixels, 1), strict=True)
        ),
        step=weights.step,
    )
    return Measured(
        options, read_log(workdir / LOG_FILE), weights, summary, evaluation.confusion
    )
