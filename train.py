"""Train BiSeNet V2, and go on where a run was cut off: the same command resumes.

    python train.py --config configs/synthetic.py --workdir runs/synthetic
    python train.py --config configs/synthetic.py --workdir runs/fast --config.train.steps=100
    python train.py --config FILE --workdir DIR --config.init.weights=weights.safetensors
    python train.py --config FILE --workdir DIR --profile 5

In the workdir lie config.json (every option as used), checkpoints/ (the latest and the best by
mIoU), log.jsonl and tensorboard/ (loss parts, learning rate, mIoU, images/s, wait share, step
time, TFLOP/s, a validation picture, the trace of --profile). Several processes, on one host or
many: docs/multi_host.md. Exit codes: 0 done, 2 something to mend, 130 interrupted.
"""

import dataclasses
import math
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import config_flags
from tqdm import tqdm

from bisenet_jax import config, config_file, distributed, parallel, program_cache
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.example import Example, Source
from bisenet_jax.data.loader import evaluation_examples
from bisenet_jax.data.sources import (
    open_batches,
    open_sampler,
    open_source,
    open_training_source,
)
from bisenet_jax.errors import ConfigError, TrainingError
from bisenet_jax.evaluation.evaluate import EvaluateStep, evaluate, make_evaluate_step
from bisenet_jax.evaluation.metrics import Scores, scores
from bisenet_jax.evaluation.protocol import protocol_of_training
from bisenet_jax.fast.network import FastNetwork
from bisenet_jax.files import write_json
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization
from bisenet_jax.panels import comparison
from bisenet_jax.training import checkpoint
from bisenet_jax.training.initial_weights import read_initial_weights, start_from
from bisenet_jax.training.logs import BOARD_FOLDER, open_log
from bisenet_jax.training.losses import check_class_weights
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.pace import Pace, Trace, step_flops
from bisenet_jax.training.state import TrainState, create_state
from bisenet_jax.training.step import Metrics, make_train_step

_CONFIG = config_flags.DEFINE_config_file("config", None, "Python file with get_config().")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if absent.")
_JSON = flags.DEFINE_string("json", None, "File for the final scores and the time taken.")
_PROFILE = flags.DEFINE_integer(
    "profile", 0, "Trace so many steps, after a warm-up, into the workdir.", lower_bound=0
)
flags.adopt_module_key_flags(distributed)

# What may differ between two starts of one run: nothing that changes its weights.
FREE_KEYS = {
    *("config.data.root", "config.data.workers", "config.data.threads"),
    *("config.data.cache_dir", "config.data.prefetch_megabytes"),
    *("config.train.log_every", "config.train.evaluate_every", "config.train.checkpoint_every"),
    *("config.train.keep_checkpoints", "config.train.evaluate_batch_size"),
}


def main() -> None:
    program_cache.keep_compiled_programs()
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise ConfigError("give --config FILE and --workdir DIR; --help shows an example")
    options = config.validate(_CONFIG.value)
    summary = train(options, Path(_WORKDIR.value), profile=_PROFILE.value)
    if _JSON.value and distributed.is_first():
        write_json(_JSON.value, summary)


def train(options: config.Config, workdir: Path, *, profile: int = 0) -> dict:
    """Make all steps that are left, and trace some; returns the last scores and the time."""
    # Whatever can be wrong is found here, before the first compilation.
    mesh, own_mesh = parallel.make_mesh(), parallel.make_mesh(jax.local_devices())
    check(options, mesh, own_mesh)
    class_set = find_class_set(options.data.classes)
    train_source = open_training_source(options.data)
    val_source = open_source(options.data, options.data.val_split)
    sampler = open_sampler(options.data, train_source)
    model = build_model(num_classes=len(class_set), **dataclasses.asdict(options.model))
    start_step, total_steps = checkpoint.steps_made(workdir), options.train.steps
    # A run that goes on has its weights already.
    initial = None if start_step else read_initial_weights(options, model)
    trace = Trace(workdir / BOARD_FOLDER, start_step, profile, total_steps)
    claim(workdir, options, has_begun=start_step > 0)

    optimizer = make_optimizer(options.optimizer, options.train.steps)
    train_step = parallel.compile_train_step(make_train_step(model, optimizer, options), mesh)
    normalization = Normalization(options.data.mean, options.data.std)
    protocol = protocol_of_training(options.augment.shrink)
    network = FastNetwork.of(model)
    evaluate_step = make_evaluate_step(network, normalization, own_mesh, protocol)

    def start_state() -> TrainState:
        with_ema = options.optimizer.ema_decay > 0
        return create_state(model, optimizer, options.train.seed, with_ema=with_ema)

    began = time.monotonic()
    result: Scores | None = None
    with checkpoint.open_checkpoints(workdir, keep=options.train.keep_checkpoints) as saved:
        if start_step:
            print(f"resuming {workdir} after step {start_step} of {total_steps}")
            template = jax.eval_shape(start_state)
            state = checkpoint.restore(saved, start_step, template, mesh)
        else:
            state = start_state()
            if initial is not None:
                state, start = start_from(state, initial, class_set)
                print(f"starting from {options.init.weights}\n{start.describe()}")
            state = parallel.replicate(state, mesh)

        batches = open_batches(
            options,
            train_source,
            sampler,
            start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        is_kept = distributed.is_first()
        with (
            open_log(workdir, start_step, is_kept=is_kept) as log,
            progress_bar(start_step, total_steps) as bar,
            trace,
        ):
            pace = Pace(options.train.batch_size, step_flops(model, options))

            def report(step: int, metrics: Metrics, names: list[str]) -> None:
                """Wait for a step's numbers, stop if they are none, show and log them."""
                values = {name: float(value) for name, value in metrics.items()}
                require_finite(step, values, names, checkpoint.latest_step(saved))
                speed = f"{pace.rates()['images_per_second']:.1f}"
                bar.set_postfix(
                    {"loss": f"{values['loss']:.3f}", "images/s": speed}, refresh=False
                )
                bar.update()
                if step % options.train.log_every == 0:
                    log.write(step, "train", values | pace.rates())
                    pace.restart()

            # Order of a turn: batch, step, report of the step before, evaluate, save.
            unread: tuple[int, Metrics, list[str]] | None = None
            for step in range(start_step + 1, total_steps + 1):
                batch = pace.wait_for(batches)
                arrays = {name: batch[name] for name in ("image", "label", "size")}
                with trace.of(step):
                    state, metrics = train_step(state, parallel.split_batch(arrays, mesh))
                if traced := trace.end(step, metrics):
                    bar.write(f"step {step}: trace in {traced}")
                # The devices work on this step while the numbers of the last are read.
                if unread is not None:
                    report(*unread)
                unread = (step, metrics, batch["name"])

                is_evaluated = step == total_steps or step % options.train.evaluate_every == 0
                if not is_evaluated and step % options.train.checkpoint_every:
                    continue
                # What is saved was read first: no checkpoint holds a loss that is no number.
                report(*unread)
                unread, miou = None, None
                if is_evaluated:
                    result, picture = score(
                        network, evaluate_step, state, val_source, options, own_mesh
                    )
                    classes = dict(zip(class_set.names, result.class_iou, strict=True))
                    totals = {"miou": result.miou, "pixel_accuracy": result.pixel_accuracy}
                    log.write(step, "val", totals | classes)
                    if picture is not None:
                        log.picture(step, "val/picture", picture)
                    split = options.data.val_split
                    bar.write(f"step {step}: mIoU {100 * result.miou:.2f} % on {split}")
                    miou = None if math.isnan(result.miou) else result.miou
                checkpoint.save(saved, state, step, miou)
                pace.restart()
        batches.close()
        if result is None:
            print(f"{workdir} has made all its {total_steps} steps already")
            result, _ = score(network, evaluate_step, state, val_source, options, own_mesh)
    return {
        "miou": None if math.isnan(result.miou) else result.miou,
        "pixel_accuracy": None if math.isnan(result.pixel_accuracy) else result.pixel_accuracy,
        "steps": total_steps,
        "first_step": start_step + 1,
        "seconds": time.monotonic() - began,
    }


def check(options: config.Config, mesh: Mesh, own_mesh: Mesh) -> None:
    """Rules that only training knows of."""
    if options.model.dtype == "float16":
        raise ConfigError(
            "config.model.dtype float16 needs loss scaling to train; use bfloat16"
        )
    check_class_weights(options.loss, len(find_class_set(options.data.classes)))
    parallel.require_divisible("config.train.batch_size", options.train.batch_size, mesh)
    parallel.require_divisible(
        "config.train.evaluate_batch_size", options.train.evaluate_batch_size, own_mesh
    )
    micro_batch = options.train.batch_size // options.train.micro_batches
    parallel.require_divisible("batch_size / config.train.micro_batches", micro_batch, mesh)


def claim(workdir: Path, options: config.Config, has_begun: bool) -> None:
    """Make the workdir this run's; one of another configuration is refused."""
    if (workdir / config_file.CONFIG_FILE).exists():
        changed = config_file.differences(config_file.load(workdir), options)
        changed = {key: pair for key, pair in changed.items() if key not in FREE_KEYS}
        if changed:
            listed = "; ".join(
                f"{key} {old!r}, now {new!r}" for key, (old, new) in changed.items()
            )
            raise ConfigError(
                f"{workdir} holds a run with another configuration ({listed}): repeat its "
                "flags to resume it, or give another --workdir"
            )
    distributed.require_same_run(options, has_begun)
    if distributed.is_first():
        config_file.save(options, workdir)
    distributed.require_shared(workdir / config_file.CONFIG_FILE)


def score(
    network: FastNetwork,
    step: EvaluateStep,
    state: TrainState,
    source: Source,
    options: config.Config,
    mesh: Mesh,
) -> tuple[Scores, np.ndarray | None]:
    """Scores on the whole validation split, and a picture of this process's first example."""
    class_set = find_class_set(options.data.classes)
    pictures: list[np.ndarray] = []

    def keep_first(example: Example, prediction: np.ndarray) -> None:
        if not pictures:
            image, label = example["image"], example["label"]
            pictures.append(comparison(image, prediction, label, class_set))

    parameters = network.parameters_of(parallel.local_copy(state.result))
    process, count = jax.process_index(), jax.process_count()
    examples = evaluation_examples(
        source, threads=options.data.threads, process_index=process, process_count=count
    )
    total, is_silent = len(range(process, len(source), count)), not distributed.is_first()
    with tqdm(examples, "evaluate", total, leave=False, unit="image", disable=is_silent) as bar:
        evaluation = evaluate(
            step,
            parallel.replicate(parameters, mesh),
            bar,
            num_classes=len(class_set),
            batch_size=options.train.evaluate_batch_size,
            mesh=mesh,
            protocol=protocol_of_training(options.augment.shrink),
            visit=keep_first,
        )
    return scores(evaluation.confusion), pictures[0] if pictures else None


def require_finite(
    step: int, values: dict[str, float], names: list[str], last_good: int | None
) -> None:
    """Stop a run whose numbers are none, with all that helps to find the cause."""
    if all(math.isfinite(value) for value in values.values()):
        return
    parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    kept = (
        "no checkpoint yet" if last_good is None else f"last good checkpoint: step {last_good}"
    )
    raise TrainingError(
        f"step {step} is no longer finite ({parts}) on the images {', '.join(names)}; {kept}. "
        "Lower config.optimizer.learning_rate, lengthen config.optimizer.warmup_steps, or look "
        "at these images"
    )


def progress_bar(start_step: int, total_steps: int) -> tqdm:
    return tqdm(
        desc="train",
        initial=start_step,
        total=total_steps,
        unit="step",
        smoothing=0.1,
        disable=not distributed.is_first(),
    )


if __name__ == "__main__":
    distributed.run(main, __doc__)
