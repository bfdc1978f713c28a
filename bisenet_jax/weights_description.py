"""What a weights file says of its network, to JSON values and back; nothing is believed."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from bisenet_jax.data.classes import IGNORE, ClassSet
from bisenet_jax.errors import ConfigError
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.normalization import Normalization

MIN_INPUT_SCALE, MAX_INPUT_SCALE = 0.01, 2


@dataclass(frozen=True)
class Score:
    """What the weights reached, and how it was measured.

    Attributes:
        miou: from 0 to 1.
        split: of the data set that was scored.
        protocol: how, in one sentence.
    """

    miou: float
    split: str
    protocol: str


def model_fields(model: BiSeNetV2) -> dict[str, Any]:
    """Every field of the network as a JSON value, but the one that is of training alone."""
    fields = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name", "frozen_batch_norm")
    }
    return fields | {"dtype": jnp.dtype(model.dtype).name}


def read_description(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Weights` but its tensors and their hash, from JSON values.

    Raises:
        ConfigError, KeyError, TypeError, ValueError: for what no description has.
    """
    scored = metadata["score"]
    known: dict[str, Any] = {
        "model": read_model(metadata["model"]),
        "class_set": read_class_set(metadata["class_set"]),
        "normalization": Normalization(**_tuples(metadata["normalization"])),
        "score": None if scored is None else Score(**scored),
    }
    kept = ("preset", "input_scale", "training", "step", "version")
    known |= {name: metadata[name] for name in kept}
    rules = {
        "preset": isinstance(known["preset"], str),
        "version": isinstance(known["version"], str),
        "input_scale": _is_within(known["input_scale"], MIN_INPUT_SCALE, MAX_INPUT_SCALE),
        "training": known["training"] is None or isinstance(known["training"], dict),
        "step": known["step"] is None or _is_whole(known["step"], 0, 2**53),
        "normalization": _is_normalization(known["normalization"]),
        "score": known["score"] is None or _is_score(known["score"]),
    }
    for name, holds in rules.items():
        if not holds:
            raise ValueError(f"{name} is {metadata[name]!r}")
    return known


def read_class_set(values: Any) -> ClassSet:
    """The class set that `dataclasses.asdict` made these JSON values of."""
    class_set = ClassSet(**_tuples(values))
    if not _is_class_set(class_set):
        raise ValueError(f"class_set is {values!r}")
    return class_set


# What every network was that a file of before these fields describes.
_BEFORE_FIELDS_CAME = {
    "fusion": "bga",
    "semantic_branch": "gather_expansion",
    "gather_kernel_size": 3,
    "use_second_depthwise": True,
    "use_context_embedding": True,
}


def read_model(fields: Any) -> BiSeNetV2:
    """The network of `model_fields`."""
    known = model_fields(BiSeNetV2())
    # Any other absent field has no default: the switch was thrown one way or the other.
    given: dict[str, Any] = {**_BEFORE_FIELDS_CAME, **dict(_tuples(fields))}
    differing = sorted(known.keys() ^ given.keys())
    if differing:
        raise ConfigError(f"the model's field {differing[0]} is on one side only")
    for name, usual in known.items():
        if not _is_alike(given[name], usual):
            raise ConfigError(f"the model's {name} is {given[name]!r}, usually {usual!r}")
    return BiSeNetV2(**given)


def _is_alike(value: Any, usual: Any) -> bool:
    if isinstance(usual, tuple):
        return isinstance(value, tuple) and all(_is_whole(item, 0, 2**31) for item in value)
    if isinstance(usual, float):
        return _is_within(value, 0, 2**31)
    if type(usual) is int:
        return _is_whole(value, 0, 2**31)
    return type(value) is type(usual)


def _is_class_set(class_set: ClassSet) -> bool:
    names, colours, categories = class_set.names, class_set.colours, class_set.categories
    return (
        all(isinstance(name, str) for name in (class_set.name, *names))
        and len(names) == len(colours)
        and all(_is_whole(level, 0, 255) for colour in colours for level in colour)
        and all(len(colour) == 3 for colour in colours)
        and all(_is_whole(i, 0, len(names) - 1) for ids in categories.values() for i in ids)
        and isinstance(names, tuple)
        and 0 < len(names) <= IGNORE + 1
    )


def _is_normalization(normalization: Normalization) -> bool:
    mean, std = normalization
    return (
        len(mean) == len(std) == 3
        and all(_is_within(value, -1000, 1000) for value in mean)
        and all(_is_within(value, 1e-6, 1000) for value in std)
    )


def _is_score(score: Score) -> bool:
    words = (score.split, score.protocol)
    return _is_within(score.miou, 0, 1) and all(isinstance(word, str) for word in words)


def _is_within(value: Any, low: float, high: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and low <= value <= high


def _is_whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at the top the fields of a table."""
    if isinstance(value, dict):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
