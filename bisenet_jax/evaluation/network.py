"""What is scored: the network of a training run, or that of a weights file."""

from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from bisenet_jax import config_file, parallel
from bisenet_jax.config import DataConfig
from bisenet_jax.fast.network import FastNetwork, fasten
from bisenet_jax.normalization import Normalization
from bisenet_jax.training.run import restore_run
from bisenet_jax.training.trained_classes import require_classes, trained_classes
from bisenet_jax.weights import read_weights

PyTree = Any


class Scored(NamedTuple):
    """A network on every device of a mesh.

    Attributes:
        network: as trained, or described by the file.
        parameters: of it.
        normalization: the one it was trained with.
        input_scale: how large it sees an image.
        step: of the training, if known.
        title: where it came from.
    """

    network: FastNetwork
    parameters: PyTree
    normalization: Normalization
    input_scale: float
    step: int | None
    title: str


def open_run(workdir: Path, data: DataConfig, checkpoint: str, mesh: Mesh) -> Scored:
    """A checkpoint of a train.py run, `best`, `latest` or a step, as the run was configured.

    Args:
        data: what it is scored on; its classes must be those of the run.
    """
    options = config_file.load(workdir)
    require_classes(str(workdir), trained_classes(workdir, options.data), data)
    restored = restore_run(workdir, options, checkpoint, mesh)
    network, parameters = fasten(restored.model, parallel.local_copy(restored.state.result))
    return Scored(
        network=network,
        parameters=parallel.replicate(parameters, mesh),
        normalization=Normalization(options.data.mean, options.data.std),
        input_scale=options.augment.input_scale,
        step=restored.step,
        title=f"{workdir}, step {restored.step}",
    )


def open_weights(path: str, data: DataConfig, mesh: Mesh) -> Scored:
    """A weights file, whose classes must be those of the data."""
    weights = read_weights(path)
    require_classes(path, weights.class_set, data)
    network, parameters = fasten(weights.model, weights.variables)
    return Scored(
        network=network,
        parameters=parallel.replicate(parameters, mesh),
        normalization=weights.normalization,
        input_scale=weights.input_scale,
        step=weights.step,
        title=path,
    )
