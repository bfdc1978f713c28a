"""Train BiSeNet V2, and go on where a run was cut off: the same command resumes.

    python train.py --config configs/synthetic.py --workdir runs/synthetic
    python train.py --config configs/synthetic.py --workdir runs/fast --config.train.steps=100
    python train.py --config FILE --workdir DIR --config.init.weights=weights.safetensors
    python train.py --config FILE --workdir DIR --profile 5

In the workdir lie config.json (every option as used), classes.json, checkpoints/ (the latest
and the best by mIoU), log.jsonl and tensorboard/ (loss parts, learning rate, mIoU, images/s,
wait share, step time, TFLOP/s, a validation picture, the trace of --profile). Several
processes, on one host or many: docs/multi_host.md. SIGTERM and SIGUSR1 let the step or the
batch to score that is at work end, save and end the run.
Exit codes: 0 done or so ended, 2 something to mend, 130 interrupted.
"""

import dataclasses
import math
import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import jax
from absl import flags
from jax.sharding import Mesh
from ml_collections import config_flags
from tqdm import tqdm

from bisenet_jax import distributed, parallel, program_cache
from bisenet_jax.allocation import finish_each_step
from bisenet_jax.config import Config
from bisenet_jax.config_file import CONFIG_FILE
from bisenet_jax.config_rules import refuse_idle_fields, validate
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.loader import batch_names
from bisenet_jax.data.sources import (
    open_batches,
    open_sampler,
    open_source,
    where,
    with_cache,
)
from bisenet_jax.errors import ConfigError
from bisenet_jax.evaluation.evaluate import make_evaluate_step
from bisenet_jax.evaluation.metrics import Scores
from bisenet_jax.evaluation.validation import score
from bisenet_jax.fast.network import FastNetwork
from bisenet_jax.files import write_json
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization
from bisenet_jax.protocol import protocol_of_scale
from bisenet_jax.training import checkpoint, finite
from bisenet_jax.training.initial_weights import read_initial_weights, start_from
from bisenet_jax.training.logs import BOARD_FOLDER, open_log
from bisenet_jax.training.losses import check_class_weights
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.pace import Pace, Trace, step_flops, waiting, watched
from bisenet_jax.training.shut_channels import complaint, count_shut_channels
from bisenet_jax.training.state import start_state
from bisenet_jax.training.step import Metrics, make_train_step
from bisenet_jax.training.stop import Stop, Stopped
from bisenet_jax.training.workdir import claim

_CONFIG = config_flags.DEFINE_config_file("config", None, "Python file with get_config().")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if absent.")
_JSON = flags.DEFINE_string("json", None, "File for the final scores and the time taken.")
_PROFILE = flags.DEFINE_integer(
    "profile", 0, "Trace so many steps, after a warm-up, into the workdir.", lower_bound=0
)
flags.adopt_module_key_flags(distributed)


def main() -> None:
    program_cache.keep_compiled_programs()
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise ConfigError("give --config FILE and --workdir DIR; --help shows an example")
    options, workdir = validate(_CONFIG.value), Path(_WORKDIR.value)
    if not (workdir / CONFIG_FILE).exists():
        refuse_idle_fields(options)
    summary = train(options, workdir, profile=_PROFILE.value)
    if summary["stopped_by"]:
        print(
            f"stopped by {summary['stopped_by']}, saved after step {summary['last_step']} of "
            f"{summary['steps']}: the same command goes on from there"
        )
    if _JSON.value and distributed.is_first():
        write_json(_JSON.value, summary)


def train(options: Config, workdir: Path, *, profile: int = 0) -> dict:
    """Make all steps that are left, and trace some; returns the last scores and the time."""
    # Whatever can be wrong is found here, before the first compilation.
    mesh, own_mesh = parallel.make_mesh(), parallel.make_mesh(jax.local_devices())
    check(options, mesh, own_mesh)
    class_set = find_class_set(options.data.classes)
    model = build_model(num_classes=len(class_set), **dataclasses.asdict(options.model))
    with watch(where(options.data)):
        train_source = open_source(options.data, options.data.train_split)
        val_source = open_source(options.data, options.data.val_split)
    train_source = with_cache(train_source, options.data)
    sampler = open_sampler(options.data, train_source)
    start_step, total_steps = checkpoint.steps_made(workdir), options.train.steps
    # A run that goes on has its weights already.
    initial = None if start_step else read_initial_weights(options, model)
    is_kept = distributed.is_first()
    trace = Trace(workdir / BOARD_FOLDER, start_step, profile, total_steps, is_kept=is_kept)
    optimizer = make_optimizer(options.optimizer, options.train.steps)
    exactly = options.train.deterministic
    train_step = parallel.compile_train_step(
        make_train_step(model, optimizer, options), mesh, deterministic=exactly
    )
    normalization = Normalization(options.data.mean, options.data.std)
    protocol = protocol_of_scale(options.augment.input_scale)
    network = FastNetwork.of(model)
    evaluate_step = make_evaluate_step(
        network, normalization, own_mesh, protocol, deterministic=exactly
    )

    began = time.monotonic()
    result: Scores | None = None
    is_stopped = False
    with (
        Stop(agree_every=options.train.log_every) as stop,
        claim(workdir, options, start_step),
        checkpoint.open_checkpoints(workdir, keep=options.train.keep_checkpoints) as saved,
    ):
        if start_step:
            template = jax.eval_shape(lambda: start_state(model, options))
            with watch(str(workdir)):
                state, start_step = checkpoint.restore_newest(saved, workdir, template, mesh)
            print(f"resuming {workdir} after step {start_step} of {total_steps}")
            lacks_scores = checkpoint.lacks_scores(saved, start_step)
        else:
            state, lacks_scores = start_state(model, options), False
            if initial is not None:
                state, start = start_from(state, initial, class_set)
                print(f"starting from {options.init.weights}\n{start.describe()}")
            state = parallel.replicate(state, mesh)
        last_step = start_step

        share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        batches = open_batches(options, train_source, sampler, start_step, **share)
        with (
            open_log(workdir, start_step, is_kept=is_kept, lacks_scores=lacks_scores) as log,
            progress_bar(start_step, total_steps) as bar,
            trace,
        ):
            pace = Pace(options.train.batch_size, step_flops(model, options))

            def report(step: int, metrics: Metrics, names: list[str]) -> None:
                """Wait for a step's numbers, stop if they are none, show and log them."""
                values = {name: float(value) for name, value in metrics.items()}
                if values.get("skipped_steps", math.inf) > options.train.max_skipped_steps:
                    finite.require_finite(step, values, names, checkpoint.latest_step(saved))
                elif not finite.is_finite(values):
                    bar.write(f"{finite.describe(step, values, names)}; skipped")
                    log.write(step, "skipped", values)
                speed = f"{pace.rates()['images_per_second']:.1f}"
                bar.set_postfix(
                    {"loss": f"{values['loss']:.3f}", "images/s": speed}, refresh=False
                )
                bar.update()
                if step % options.train.log_every == 0:
                    log.write(step, "train", values | pace.rates())
                    pace.restart()

            def score_and_log(step: int) -> Scores | None:
                """The scores of the state; None where the run is asked to end before."""
                try:
                    scored, picture = score(
                        network, evaluate_step, state, val_source, options, own_mesh, stop
                    )
                except Stopped:
                    return None
                names = (f"iou/{name}" for name in class_set.names)
                classes = dict(zip(names, scored.class_iou, strict=True))
                totals = {"miou": scored.miou, "pixel_accuracy": scored.pixel_accuracy}
                shut, channels = count_shut_channels(parallel.local_copy(state.batch_stats))
                log.write(step, "val", totals | {"shut_channels": shut} | classes)
                if words := complaint(shut, channels):
                    bar.write(f"step {step}: {words}")
                if picture is not None:
                    log.picture(step, "val/picture", picture)
                split = options.data.val_split
                bar.write(f"step {step}: mIoU {100 * scored.miou:.2f} % on {split}")
                return scored

            def save(step: int, scored: Scores | None, *, lacks_scores: bool) -> None:
                miou = None if scored is None or math.isnan(scored.miou) else scored.miou
                with watch(f"{workdir}, after step {step}"):
                    log.sync()
                    checkpoint.save(saved, state, step, miou, lacks_scores=lacks_scores)

            if lacks_scores:
                result = score_and_log(start_step)
                is_stopped = result is None
                if not is_stopped:
                    save(start_step, result, lacks_scores=False)
                pace.restart()

            def tell_batch(step: int, seconds: float) -> None:
                order = sampler(options.train.seed)
                size = options.train.batch_size
                names = batch_names(train_source, order, step, batch_size=size, **share)
                what = f"{', '.join(names)} of {where(options.data)}"
                bar.write(f"step {step}: {waiting(seconds, what)}")

            # Order of a turn: batch, step, report of the step before, evaluate, save.
            unread: tuple[int, Metrics, list[str]] | None = None
            for step in range(start_step + 1, total_steps + 1):
                if is_stopped:
                    break
                batch = pace.wait_for(batches, partial(tell_batch, step))
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
                is_stopped = stop.is_due(step)
                is_due = is_evaluated or is_stopped or not step % options.train.checkpoint_every
                if not is_due:
                    continue
                # What is saved was read first: no checkpoint holds a loss that is no number.
                report(*unread)
                unread = None
                finite.require_finite_state(step, state, checkpoint.latest_step(saved))
                # Scores of an earlier step are in the log; they are not this one's.
                result = score_and_log(step) if is_evaluated else None
                lacks_scores = is_evaluated and result is None
                save(step, result, lacks_scores=lacks_scores)
                last_step, is_stopped = step, is_stopped or lacks_scores
                pace.restart()
        batches.close()
        with watch(f"{workdir}, the last checkpoint"):
            checkpoint.finish(saved)
        if start_step == total_steps and result is None and not is_stopped:
            print(f"{workdir} has made all its {total_steps} steps already")
            rest = (val_source, options, own_mesh, stop)
            try:
                result, _ = score(network, evaluate_step, state, *rest)
            except Stopped:
                is_stopped = True
    return {
        "miou": None if result is None or math.isnan(result.miou) else result.miou,
        "pixel_accuracy": None
        if result is None or math.isnan(result.pixel_accuracy)
        else result.pixel_accuracy,
        "steps": total_steps,
        "first_step": start_step + 1,
        "last_step": last_step,
        "stopped_by": stop.name if is_stopped else None,
        "seconds": time.monotonic() - began,
    }


def check(options: Config, mesh: Mesh, own_mesh: Mesh) -> None:
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


def watch(what: str) -> AbstractContextManager[None]:
    """A block that says so when what it needs does not come."""
    return watched(lambda seconds: tqdm.write(waiting(seconds, what)))


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
    finish_each_step()  # Before `run`, which starts JAX where several processes join.
    distributed.run(main, __doc__)
