"""The logs of one or several runs in one small file, and what is drawn of them."""

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

# Of each seed, the lines of log.jsonl.
Logs = Mapping[int, Sequence[dict[str, Any]]]

MAX_BYTES = 100_000
_DIGITS = 5


def pack_logs(logs: Logs) -> bytes:
    """Gzipped JSON lines, each with the seed of its run, in less than `MAX_BYTES`.

    Every score is kept; of the training lines, every one or every second, third, ... as fits.
    Equal logs give equal bytes.
    """
    every = 1
    while True:
        kept = [
            {"seed": seed} | {name: _short(value) for name, value in line.items()}
            for seed, lines in sorted(logs.items())
            for line in thin(lines, every)
        ]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        packed = gzip.compress(text.encode(), mtime=0)
        if len(packed) < MAX_BYTES or every > len(kept):
            return packed
        every += 1


def unpack_logs(packed: bytes) -> Logs:
    """Of each seed, the lines that `pack_logs` kept."""
    logs: dict[int, list[dict[str, Any]]] = {}
    for line in map(json.loads, gzip.decompress(packed).splitlines()):
        logs.setdefault(line.pop("seed"), []).append(line)
    return logs


def thin(lines: Sequence[dict[str, Any]], every: int) -> list[dict[str, Any]]:
    """All lines but those of training, of which every n-th and the last are kept."""
    trained = [number for number, line in enumerate(lines) if line["group"] == "train"]
    left_out = set(trained) - set(trained[::every]) - set(trained[-1:])
    return [line for number, line in enumerate(lines) if number not in left_out]


def curve(lines: Sequence[dict[str, Any]], group: str, name: str) -> list[tuple[int, float]]:
    """The points `(step, value)` of one number of a log."""
    return [
        (line["step"], line[name])
        for line in lines
        if line["group"] == group and line.get(name) is not None
    ]


def average(points: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most so many points, each the mean of as many neighbours."""
    size = math.ceil(len(points) / most) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _short(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
