"""Checkpoints of the training state, the only file that knows orbax.

The latest few are kept, and the best one by mIoU. A checkpoint appears under its final name
only when it is complete.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as orbax

from bisenet_jax.errors import CheckpointError
from bisenet_jax.training.state import TrainState

PyTree = Any
Metrics = dict[str, Any]
Checkpoints = orbax.training.Checkpointer

FOLDER = "checkpoints"


@contextmanager
def open_checkpoints(workdir: Path, *, keep: int | None = None) -> Generator[Checkpoints]:
    """The checkpoints of a run; leaving the block waits for the last write.

    Args:
        workdir: of the run.
        keep: how many of the latest ones to keep beside the best one; None deletes nothing.
    """
    policies = orbax.training.preservation_policies
    policy = None
    if keep is not None:
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics["miou"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        policy = policies.AnyPreservationPolicy([policies.LatestN(keep), best])
    folder = (workdir / FOLDER).absolute()
    if keep is None and not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist: give the --workdir of a train.py run")
    # orbax's own policies do not match the protocol that it declares for them.
    fitting = cast(policies.PreservationPolicy | None, policy)
    with orbax.training.Checkpointer(str(folder), preservation_policy=fitting) as checkpoints:
        yield checkpoints


def save(checkpoints: Checkpoints, state: TrainState, step: int, miou: float | None) -> None:
    """Start writing the state in the background; the state may be donated at once."""
    metrics: Metrics | None = None if miou is None else {"miou": miou}
    arrays = {"state": _fields(state)}
    checkpoints.save_checkpointables_async(step, arrays, force=True, metrics=metrics)


def steps_made(workdir: Path) -> int:
    """The step of a run's newest checkpoint, or 0."""
    # Not opened: orbax then waits for all processes, which may not agree yet.
    folder = workdir / FOLDER
    if not folder.is_dir():
        return 0
    # Unfinished ones have other names.
    return max(
        (int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0
    )


def latest_step(checkpoints: Checkpoints) -> int | None:
    """The step of the newest checkpoint, or None."""
    return None if checkpoints.latest is None else checkpoints.latest.step


def best_step(checkpoints: Checkpoints) -> int | None:
    """The step of the checkpoint with the highest mIoU, the later of equals, or None."""
    scored = [
        (cast(dict[str, float], found.metrics)["miou"], found.step)
        for found in checkpoints.checkpoints
        if found.metrics
    ]
    return max(scored)[1] if scored else None


def miou_of(checkpoints: Checkpoints, step: int) -> float | None:
    """The mIoU that was saved with a checkpoint, or None."""
    metrics = {found.step: found.metrics for found in checkpoints.checkpoints}.get(step)
    return cast(dict[str, float], metrics)["miou"] if metrics else None


def restore(
    checkpoints: Checkpoints, step: int, template: TrainState, mesh: Mesh
) -> TrainState:
    """Read a checkpoint onto every device of a mesh.

    Args:
        checkpoints: of the run.
        step: of the checkpoint.
        template: shapes and dtypes of the expected state, such as `jax.eval_shape` gives.
        mesh: where to put it.

    Raises:
        CheckpointError: when the step is absent or holds another tree of arrays.
    """
    there = [found.step for found in checkpoints.checkpoints]
    if step not in there:
        raise CheckpointError(f"there is no checkpoint of step {step}; there are {there}")
    everywhere = NamedSharding(mesh, PartitionSpec())
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        _fields(template),
    )
    try:
        held = checkpoints.checkpointables_metadata(step).metadata["state"]
        if held is None:
            raise ValueError("its description is missing")
        _require_same_arrays(step, held, template)
        fields = checkpoints.load_checkpointables(step, {"state": abstract})["state"]
        return TrainState(**fields)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(
            f"the checkpoint of step {step} cannot be read; delete "
            f"{checkpoints.directory / str(step)} to go on from an earlier one"
        ) from error


def _fields(state: TrainState) -> dict[str, PyTree]:
    """What a state has, by name: a checkpoint knows nothing of an average that is off."""
    return {name: value for name, value in vars(state).items() if value is not None}


def _require_same_arrays(step: int, held: PyTree, template: PyTree) -> None:
    """Name the first array that differs: orbax's own message prints the whole tree."""
    there, here = _describe(held), _describe(template)
    differing = [name for name in here | there if here.get(name) != there.get(name)]
    if differing:
        first = differing[0]
        raise CheckpointError(
            f"the checkpoint of step {step} does not fit this configuration: {first} is "
            f"{there.get(first, 'absent')} there and {here.get(first, 'absent')} here, and "
            f"{len(differing) - 1} more arrays differ; use the configuration it was trained "
            "with, or another --workdir"
        )


def _describe(tree: PyTree) -> dict[str, str]:
    """The path of each array, and its dtype and shape."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{[*leaf.shape]}"
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
