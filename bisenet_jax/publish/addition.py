"""Further seeds of a network that is published: its own runs need not be there any more."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bisenet_jax import config_file
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import read_json
from bisenet_jax.publish.measurement import Measured, measure_runs, require_one_recipe
from bisenet_jax.publish.publication import MODELS, ZOO
from bisenet_jax.publish.record import Record, average_runs, describe_run
from bisenet_jax.publish.training_log import Logs, unpack_logs
from bisenet_jax.weights import Weights, read_weights
from bisenet_jax.zoo.registry import find_weights


class Published(NamedTuple):
    """What the repository holds of a network.

    Attributes:
        record: of `make_record`.
        weights: as shipped.
        logs: of all its runs, as thinned then.
    """

    record: Record
    weights: Weights
    logs: Logs


def read_published(root: Path, name: str) -> Published:
    """A network to which seeds can be added.

    Raises:
        ConfigError: for one that is not published, or that is the best of its seeds.
    """
    path = root / MODELS / f"{name}.json"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: publish the first runs without --add")
    record = read_json(path, "git checkout brings it back", ConfigError)
    if record["final"] is None:
        raise ConfigError(
            f"{name} is the best of its seeds, which a further one may beat: publish all runs "
            "together, without --add"
        )
    logs = unpack_logs((root / MODELS / f"{name}.log.jsonl.gz").read_bytes())
    return Published(record, read_weights(find_weights(name, root / ZOO)), logs)


def measure_further(published: Published, workdirs: Sequence[Path]) -> list[Measured]:
    """Score further runs as those of the record were: the last step of each.

    Raises:
        ConfigError: for a run of another recipe, or with a seed that the record has.
    """
    shipped = published.weights.training
    assert shipped is not None  # publish ships no weights but a run's
    names = [f"the shipped {published.record['name']}", *workdirs]
    configurations = [
        config_file.from_dict(shipped),
        *(config_file.load(workdir) for workdir in workdirs),
    ]
    require_one_recipe(names, configurations, free={"config.data.train_split"})
    for workdir, options in zip(workdirs, configurations[1:], strict=True):
        split, seed = options.data.train_split, options.train.seed
        if split != published.record["train_split"]:
            raise ConfigError(
                f"{workdir} was trained on {split}, the scored runs on "
                f"{published.record['train_split']}: only such runs can be added"
            )
        if seed in published.logs:
            raise ConfigError(f"{workdir} has seed {seed}, which is published; take another")
    return measure_runs(list(workdirs), "latest", published.weights.input_scale)


def add_runs(
    published: Published, runs: Sequence[Measured], *, commit: str, device: str
) -> tuple[Record, Logs]:
    """Record and logs with the further runs behind the others; nothing else changes.

    Args:
        published: of `read_published`.
        runs: of `measure_further`.
        commit: of the code that trained them.
        device: that trained them, in words.
    """
    further = [
        describe_run(run, is_shipped=False) | {"commit": commit, "device": device}
        for run in runs
    ]
    record = published.record | average_runs([*published.record["runs"], *further])
    return record, {**published.logs, **{run.options.train.seed: run.log for run in runs}}
