"""What a train.py run left in its workdir, read back for scoring and for export."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from bisenet_jax import config_file, parallel
from bisenet_jax.config import Config
from bisenet_jax.errors import CheckpointError, ConfigError
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization
from bisenet_jax.protocol import protocol_of_scale
from bisenet_jax.training import checkpoint
from bisenet_jax.training.state import TrainState, start_state
from bisenet_jax.training.trained_classes import trained_classes
from bisenet_jax.weights import Score, Weights


class Restored(NamedTuple):
    """One checkpoint: the network, its state, and the mIoU that training measured, if any."""

    model: BiSeNetV2
    state: TrainState
    step: int
    miou: float | None


def restore_run(workdir: Path, options: Config, wish: str, mesh: Mesh) -> Restored:
    """Read a checkpoint of a run onto every device of a mesh.

    Args:
        workdir: of the run.
        options: its configuration, or one with the same network.
        wish: `best` (by mIoU on the validation split), `latest`, or a step.
        mesh: where to put it.

    Raises:
        CheckpointError: when there is no such checkpoint, or it does not fit.
        ConfigError: for another wish.
    """
    class_set = trained_classes(workdir, options.data)
    model = build_model(num_classes=len(class_set), **dataclasses.asdict(options.model))
    template = jax.eval_shape(lambda: start_state(model, options))
    with checkpoint.open_checkpoints(workdir) as saved:
        step = _find_step(saved, wish, workdir)
        state = checkpoint.restore(saved, step, template, mesh)
        return Restored(model, state, step, checkpoint.miou_of(saved, step))


def read_run(workdir: Path, wish: str = "best") -> Weights:
    """The weights of a checkpoint, boosters included, and all that the run knows of them."""
    options = config_file.load(workdir)
    mesh = parallel.make_mesh(jax.devices()[:1])
    restored = restore_run(workdir, options, wish, mesh)
    score = None
    if restored.miou is not None:
        score = Score(restored.miou, options.data.val_split, _describe_protocol(options))
    return Weights(
        model=restored.model,
        variables=jax.device_get(restored.state.result),
        class_set=trained_classes(workdir, options.data),
        normalization=Normalization(options.data.mean, options.data.std),
        preset=options.model.preset,
        input_scale=options.augment.input_scale,
        training=_without_folders(config_file.to_dict(options)),
        score=score,
        step=restored.step,
    )


def _find_step(saved: checkpoint.Checkpoints, wish: str, workdir: Path) -> int:
    named = {"best": checkpoint.best_step, "latest": checkpoint.latest_step}
    if wish in named:
        step = named[wish](saved)
        if step is None:
            raise CheckpointError(
                f"{workdir} has no {wish} checkpoint yet; let train.py go on to its first one"
            )
        return step
    if not wish.isdecimal():
        raise ConfigError(f"checkpoint {wish!r} must be best, latest or a step, such as 1000")
    return int(wish)


def _describe_protocol(options: Config) -> str:
    """How train.py scores: `evaluation.validation.score` in words."""
    return (
        f"by train.py: all whole images of split {options.data.val_split!r} of source "
        f"{options.data.source!r}, {protocol_of_scale(options.augment.input_scale)}, "
        f"{options.model.dtype}, one confusion matrix; float32 parameters"
    )


def _without_folders(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration that can be handed on: files by their names, not by where they lay."""
    data, init = values["data"], values["init"]
    paths = ("root", "classes", "statistics", "cache_dir")
    return values | {
        "data": data | {name: Path(data[name]).name for name in paths},
        "init": init | {"weights": Path(init["weights"]).name},
    }
