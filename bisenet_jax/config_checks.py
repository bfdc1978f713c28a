"""Rules that hold for any field of a configuration; errors name the field and the rule."""

import dataclasses
import math
import types
import typing
from typing import Any

from bisenet_jax.errors import ConfigError

_LARGEST = 2**53  # up to here float64 tells whole numbers apart


def check_types(section: Any, prefix: str) -> None:
    """Each field, of sections inside too, has the type that it is annotated with."""
    for name, hint in typing.get_type_hints(type(section)).items():
        value, dotted = getattr(section, name), f"{prefix}.{name}"
        if dataclasses.is_dataclass(hint) and isinstance(value, typing.cast(type, hint)):
            check_types(value, dotted)
        elif not _fits(value, hint):
            readable = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint)
            raise ConfigError(f"{dotted} {value!r} must be of type {readable}")


def check_numbers(section: Any, prefix: str) -> None:
    """Each number, of sections inside too, is finite and not absurdly large."""
    for field_ in dataclasses.fields(section):
        value, dotted = getattr(section, field_.name), f"{prefix}.{field_.name}"
        if dataclasses.is_dataclass(value):
            check_numbers(value, dotted)
        elif not _is_number_to_compute_with(value):
            raise ConfigError(
                f"{dotted} {value!r} must be finite, and not beyond {_LARGEST:,} on either side"
            )


def _is_number_to_compute_with(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_number_to_compute_with, value))
    # nan lies nowhere.
    return not isinstance(value, int | float) or -_LARGEST <= value <= _LARGEST


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if items[-1] is Ellipsis:
            return all(_fits(item, items[0]) for item in value)
        return len(value) == len(items) and all(map(_fits, value, items))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def check_choice(fields: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    """Values by name, each with those that are legal."""
    for name, (value, choices) in fields.items():
        if value not in choices:
            raise ConfigError(
                f"{name} {value!r} is not known; choose from {', '.join(choices)}"
            )


def check_range(fields: dict[str, tuple[float, float, float]]) -> None:
    """Values by name, each with the smallest and the largest that is legal."""
    for name, (value, low, high) in fields.items():
        if not low <= value <= high:
            bound = f"at least {low}" if high == math.inf else f"between {low} and {high}"
            raise ConfigError(f"{name} {value} must be {bound}")
