"""What bench.py was asked for, in values that can be worked with; errors name the flag."""

from collections.abc import Sequence

from benchmarks import engines, training
from bisenet_jax.errors import ConfigError


def read_numbers(flag: str, texts: Sequence[str], least: int) -> list[int]:
    """Whole numbers from `least`, one or several."""
    numbers = [int(text) if text.isdecimal() else least - 1 for text in texts]
    if not numbers or min(numbers) < least:
        raise ConfigError(
            f"{flag} {','.join(texts)!r} must be one or several whole numbers from {least}, "
            "such as 1,8"
        )
    return numbers


def read_engines(names: Sequence[str], dtypes: set[str]) -> list[str]:
    """Those to measure against, or `all` that can run; one that can in no dtype is an error."""
    wants_all = list(names) == ["all"]
    able = {
        engine: [engines.missing_for(engine, dtype) for dtype in sorted(dtypes)]
        for engine in dict.fromkeys(engines.PEERS if wants_all else names)
    }
    if wants_all:
        return [engine for engine, reasons in able.items() if None in reasons]
    for reasons in able.values():
        if None not in reasons:
            raise ConfigError(f"--against: {reasons[0]}")
    return [engine for engine in able if engine not in (engines.OURS, engines.PLAIN)]


def read_training_peers(names: Sequence[str] | None) -> list[str]:
    """Those to train against: None or `all` is every one, an empty list nobody."""
    chosen = list(training.PEERS) if names is None or list(names) == ["all"] else list(names)
    for name in chosen:
        if name not in training.PEERS:
            raise ConfigError(
                f"--against {name!r} does not train; choose from {', '.join(training.PEERS)}"
            )
        if reason := engines.missing_for(name, "float32"):
            raise ConfigError(f"{reason}; or measure ours alone by --against=''")
    return chosen


def read_crop(text: str) -> tuple[int, int]:
    """Height and width of `512x1024`."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ConfigError(f"--crop {text!r} must be HEIGHTxWIDTH, such as 512x1024")
    return int(height), int(width)


def read_training_dtype(dtypes: Sequence[str]) -> str:
    """The one dtype, if a step can be compared in it."""
    if len(dtypes) > 1 or dtypes[0] not in training.LARGEST_DIFFERENCES:
        raise ConfigError(
            f"--dtype {','.join(dtypes)!r}: training takes one of "
            f"{', '.join(training.LARGEST_DIFFERENCES)}"
        )
    return dtypes[0]
