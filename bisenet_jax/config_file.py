"""A configuration on disk and by its dotted keys: written, read, compared."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

from bisenet_jax.config import Config
from bisenet_jax.config_rules import validate
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import read_json, write_json

CONFIG_FILE = "config.json"


def to_dict(config: Config) -> dict[str, Any]:
    """The config as nested dicts of JSON values; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`; an unknown key is a ConfigError that lists the legal ones."""
    return validate(_build(Config, values, "config"))


def save(config: Config, workdir: Path) -> None:
    """Write the resolved config to `{workdir}/config.json`."""
    write_json(workdir / CONFIG_FILE, to_dict(config))


def load(workdir: Path) -> Config:
    """Read what `save` wrote.

    Raises:
        ConfigError: when the folder holds no config, or one that this version cannot read.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist: give the --workdir of a train.py run, or a --config"
        )
    return from_dict(read_json(path, "train.py writes it anew", ConfigError))


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ, each with its old and its new value."""
    found = {}
    for key in legal_keys():
        before, after = old, new
        for name in key.split(".")[1:]:
            before, after = getattr(before, name), getattr(after, name)
        if before != after:
            found[key] = (before, after)
    return found


def legal_keys(section: type = Config, prefix: str = "config") -> list[str]:
    """Every key of a config in dotted form, such as `config.train.steps`."""
    keys = []
    for name, hint in typing.get_type_hints(section).items():
        dotted = f"{prefix}.{name}"
        if dataclasses.is_dataclass(hint):
            keys.extend(legal_keys(typing.cast(type, hint), dotted))
        else:
            keys.append(dotted)
    return keys


def _build(section: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(
            f"{prefix} {values!r} must be a table of fields, such as train.py writes"
        )
    hints = typing.get_type_hints(section)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(
            f"{prefix} has no field {unknown[0]!r}; the legal ones are "
            f"{', '.join(sorted(hints))}"
        )
    return section(
        **{
            name: _build(hints[name], value, f"{prefix}.{name}")
            if dataclasses.is_dataclass(hints[name])
            else tuple(value)
            if isinstance(value, list)
            else value
            for name, value in values.items()
        }
    )
