"""The classes that a run began with, kept in its workdir: a class file may change later."""

import dataclasses
from pathlib import Path

from bisenet_jax.config import DataConfig
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.classes import ClassSet
from bisenet_jax.errors import CheckpointError, ConfigError
from bisenet_jax.files import read_json, write_json
from bisenet_jax.weights_description import read_class_set

CLASSES_FILE = "classes.json"


def trained_classes(workdir: Path, data: DataConfig) -> ClassSet:
    """What a run's class ids mean; of runs without a record, what the class file says now."""
    path = workdir / CLASSES_FILE
    if not path.is_file():
        return find_class_set(data.classes)
    cure = "remove it, and the class file of the configuration counts"
    values = read_json(path, cure, CheckpointError)
    try:
        return read_class_set(values)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} describes no classes ({error}); {cure}") from error


def keep_classes(workdir: Path, class_set: ClassSet) -> None:
    """Write the record, if there is none."""
    path = workdir / CLASSES_FILE
    if not path.exists():
        write_json(path, dataclasses.asdict(class_set))


def require_classes(what: str, known: ClassSet, data: DataConfig) -> None:
    """Raise a ConfigError unless a network's classes are those of the data, one by one.

    Args:
        what: the file or folder that the network is in.
        known: its classes.
        data: whose `classes` name what the labels show.
    """
    wanted = find_class_set(data.classes)
    if known.names == wanted.names:
        return
    pairs = enumerate(zip(known.names, wanted.names, strict=False))
    different = [f"class {i} is {a!r} there, {b!r} here" for i, (a, b) in pairs if a != b]
    told = different[0] if len(known) == len(wanted) else "other numbers of them"
    raise ConfigError(
        f"{what} knows the {len(known)} classes of {known.name!r}, but config.data.classes "
        f"{data.classes!r} names the {len(wanted)} of {wanted.name!r} ({told}); give the "
        "classes that it was trained for"
    )
