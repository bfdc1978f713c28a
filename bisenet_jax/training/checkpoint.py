"""Checkpoints of the training state, the only file that knows orbax.

The latest few are kept, and the best one by mIoU. A checkpoint appears under its final name
only when it is complete, and holds a digest of its numbers: orbax itself gives changed ones
back without a word.
"""

import hashlib
import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as orbax

from bisenet_jax import distributed, parallel
from bisenet_jax.errors import CheckpointError, DamagedCheckpointError, OutputError
from bisenet_jax.training.state import TrainState

PyTree = Any
Checkpoints = orbax.training.Checkpointer

FOLDER = "checkpoints"
DAMAGED_FOLDER = "damaged_checkpoints"
# What orbax and tensorstore raise for files that are not as they should be, or cannot be.
_FAULTS = (OSError, ValueError, KeyError, TypeError)


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
    try:
        checkpoints = orbax.training.Checkpointer(str(folder), preservation_policy=fitting)
    except _FAULTS as error:
        raise CheckpointError(
            f"{folder} cannot be opened ({_reason(error)}): one of its checkpoints is damaged; "
            "train.py sets it aside when it goes on in this --workdir"
        ) from error
    try:
        yield checkpoints
    except BaseException:
        # What ended the block comes first; a last write that fails leaves no checkpoint.
        with suppress(*_FAULTS):
            checkpoints.close()
        raise
    with _writing(checkpoints):
        checkpoints.close()


def save(
    checkpoints: Checkpoints,
    state: TrainState,
    step: int,
    miou: float | None,
    *,
    lacks_scores: bool = False,
) -> None:
    """Start writing the state in the background; the state may be donated at once.

    One of the newest step is written over.

    Args:
        checkpoints: of the run.
        state: of all processes alike.
        step: how many were made.
        miou: on the validation split, if that was scored and shows any class.
        lacks_scores: whether the run was asked to end before it had scored this step.

    Raises:
        OutputError: where this one cannot be written, or the one before could not be.
    """
    fields = _fields(state)
    digests: dict[str, Any] = {
        "arrays": _digest(fields, step, miou, lacks_scores),
        "names": _digest_names(fields),
    }
    with _writing(checkpoints):
        checkpoints.save_checkpointables_async(
            step,
            {"state": fields},
            force=True,
            overwrite=step == latest_step(checkpoints),
            metrics=None if miou is None else {"miou": miou},
            custom_metadata={"sha256": digests, "lacks_scores": lacks_scores},
        )


def finish(checkpoints: Checkpoints) -> None:
    """Wait for the last write.

    Raises:
        OutputError: where it fails.
    """
    with _writing(checkpoints):
        checkpoints.wait()


def tidy(workdir: Path) -> None:
    """Remove what was cut off in writing, set aside what would keep orbax from opening.

    Only for the one process that writes, before it opens the checkpoints.
    """
    for path in _entries(workdir):
        if ".orbax-checkpoint-tmp" in path.name:
            shutil.rmtree(path, ignore_errors=True)
    for step in _steps(workdir):
        path = workdir / FOLDER / str(step)
        try:
            json.loads((path / "_CHECKPOINT_METADATA").read_bytes())
            orbax.checkpointables_metadata(str(path.absolute()))
            if (metrics := path / "metrics" / "metrics").exists():
                float(json.loads(metrics.read_bytes())["miou"])
        except _FAULTS as error:
            _set_aside(workdir, step, f"its description cannot be read ({_reason(error)})")


def restore_newest(
    checkpoints: Checkpoints, workdir: Path, template: TrainState, mesh: Mesh
) -> tuple[TrainState, int]:
    """The newest good checkpoint and its step; damaged ones are named and set aside.

    Every process must call it.

    Raises:
        CheckpointError: when no good one is left, or the newest is of another network.
    """
    while steps := [found.step for found in checkpoints.checkpoints]:
        step, reason = steps[-1], ""
        state: TrainState | None = None
        try:
            state = restore(checkpoints, step, template, mesh)
        except DamagedCheckpointError as error:
            reason = str(error)
        reasons = parallel.gather_arrays({"reason": np.frombuffer(reason.encode(), np.uint8)})
        if state is not None and not any(share["reason"].size for share in reasons):
            return state, step
        if distributed.is_first():
            _set_aside(workdir, step, reason or "another process cannot read it")
        parallel.gather_arrays({})
        checkpoints.reload()
    raise CheckpointError(
        f"{workdir} has no good checkpoint left: the damaged ones are in "
        f"{workdir / DAMAGED_FOLDER}; the same command now starts from the first step"
    )


def steps_made(workdir: Path) -> int:
    """The step of a run's newest checkpoint, or 0."""
    # Not opened: orbax then waits for all processes, which may not agree yet.
    return max(_steps(workdir), default=0)


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


def lacks_scores(checkpoints: Checkpoints, step: int) -> bool:
    """Whether a checkpoint that was read is to be scored still, and saved again."""
    return _custom_metadata(checkpoints, step).get("lacks_scores", False)


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
        DamagedCheckpointError: when it is no longer what was written.
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
        # Runs from before there were digests go on without.
        custom = _custom_metadata(checkpoints, step)
        digests = custom.get("sha256")
        if digests and digests["names"] != _digest_names(held):
            raise ValueError("its description was changed")
        _require_same_arrays(step, held, template)
        fields = checkpoints.load_checkpointables(step, {"state": abstract})["state"]
        noted = miou_of(checkpoints, step), custom.get("lacks_scores", False)
        if digests and digests["arrays"] != _digest(fields, step, *noted):
            raise ValueError("its numbers were changed")
        return TrainState(**fields)
    except _FAULTS as error:
        raise DamagedCheckpointError(
            f"the checkpoint of step {step} is damaged and cannot be read ({_reason(error)}): "
            "train.py goes on from an earlier one; "
            f"{checkpoints.directory / str(step)} may be deleted"
        ) from error


@contextmanager
def _writing(checkpoints: Checkpoints) -> Generator[None]:
    try:
        yield
    except _FAULTS as error:
        folder = Path(str(checkpoints.directory))
        there = _steps(folder.parent)
        last = (
            f"the last good one, of step {max(there)}, is whole" if there else "none is there"
        )
        raise OutputError(
            f"no checkpoint can be written to {folder} ({_reason(error)}): {last}; make room "
            "or give leave there, then the same command goes on"
        ) from error


def _custom_metadata(checkpoints: Checkpoints, step: int) -> dict[str, Any]:
    # Read by ourselves: for orbax, a file that is no JSON holds nothing.
    root = Path(str(checkpoints.directory)) / str(step) / "_CHECKPOINT_METADATA"
    return json.loads(root.read_bytes()).get("custom_metadata") or {}


def _reason(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def _entries(workdir: Path) -> list[Path]:
    folder = workdir / FOLDER
    return list(folder.iterdir()) if folder.is_dir() else []


def _steps(workdir: Path) -> list[int]:
    # Unfinished ones have other names.
    return [int(path.name) for path in _entries(workdir) if path.name.isdecimal()]


def _set_aside(workdir: Path, step: int, reason: str) -> None:
    """Move a checkpoint to where it is found by nobody but people."""
    place = workdir / DAMAGED_FOLDER / str(step)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    (workdir / FOLDER / str(step)).rename(place)
    print(f"skipping the checkpoint of step {step}, now in {place}: {reason}")


def _digest(fields: PyTree, step: int, miou: float | None, lacks_scores: bool) -> str:
    """SHA-256 of a checkpoint's numbers, to the bit."""
    score = "lacking" if lacks_scores else repr(miou)
    digest = hashlib.sha256(f"{step} {score}".encode())
    for leaf in jax.tree.leaves(fields):
        own = leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf
        digest.update(np.ascontiguousarray(own).view(np.uint8).data)
    return digest.hexdigest()


def _digest_names(tree: PyTree) -> str:
    return hashlib.sha256(json.dumps(_describe(tree)).encode()).hexdigest()


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
