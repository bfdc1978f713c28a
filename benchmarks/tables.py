"""Figures as text for a terminal."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
# A heading, its width, negative for text that stands left, and the cell of a row.
Column = tuple[str, int, Callable[[Row], str]]

_WIDTH = 100
_WHAT: list[Column] = [
    ("engine", -14, lambda row: row["engine"]),
    ("size", 10, lambda row: f"{row['height']}x{row['width']}"),
    ("batch", 6, lambda row: str(row["batch"])),
    ("dtype", 9, lambda row: row["dtype"]),
]
_INFERENCE: list[Column] = [
    *_WHAT,
    ("p50 ms", 9, lambda row: f"{row['latency_ms']['median']:.2f}"),
    ("p90", 9, lambda row: f"{row['latency_ms']['p90']:.2f}"),
    ("p99", 9, lambda row: f"{row['latency_ms']['p99']:.2f}"),
    ("images/s", 9, lambda row: f"{row['images_per_second']:.1f}"),
    ("ratio", 6, lambda row: f"{row['ratio']:.2f}"),
    ("TFLOP/s", 8, lambda row: f"{row['tflops']:.3g}"),
    ("roof %", 7, lambda row: f"{row['roofline_share']:.1%}"),
    ("kernels", 8, lambda row: _or_dash(row["kernels"], "d")),
    ("compile s", 10, lambda row: f"{row['compile_seconds']:.1f}"),
    ("MiB", 8, lambda row: _or_dash(row["memory_bytes"], ",.0f", 2**20)),
    ("differ", 8, lambda row: _or_dash(row["labels_differ"], ".3%")),
]
_LAYERS: list[Column] = [
    ("block", -34, lambda row: row["block"]),
    ("GMAC", 9, lambda row: f"{row['gmacs']:.3f}"),
    ("MB", 9, lambda row: f"{row['megabytes']:.1f}"),
    ("share", 8, lambda row: f"{row['share']:.1%}"),
    ("ms", 9, lambda row: f"{row['milliseconds']:.3f}"),
    ("floor ms", 10, lambda row: f"{row['roofline_ms']:.3f}"),
    ("roof %", 9, lambda row: _or_dash(row["roofline_share"], ".1%")),
]
_IDEAS: list[Column] = [
    ("changed", -34, lambda row: row["idea"]),
    *_WHAT[1:],
    ("default ms", 11, lambda row: f"{row['default_ms']:.2f}"),
    ("ms", 9, lambda row: f"{row['latency_ms']['median']:.2f}"),
    ("ratio", 7, lambda row: f"{row['ratio']:.3f}"),
    ("kernels", 8, lambda row: str(row["kernels"])),
    ("differ", 8, lambda row: f"{row['labels_differ']:.3%}"),
]


def inference_table(rows: Sequence[Row]) -> str:
    return _table(_INFERENCE, rows)


def layers_table(data: Row) -> str:
    """The boxes of one network at one size, with a line that says which."""
    size = f"{data['height']}x{data['width']}, batch {data['batch']}, {data['dtype']}"
    total = {
        "block": f"all, {size}",
        "share": 1.0,
        "milliseconds": data["latency_ms"]["median"],
    }
    for name in ("gmacs", "megabytes", "roofline_ms"):
        total[name] = sum(row[name] for row in data["rows"])
    total["roofline_share"] = total["roofline_ms"] / total["milliseconds"]
    return _table(_LAYERS, [*data["rows"], total])


def ideas_table(rows: Sequence[Row]) -> str:
    return _table(_IDEAS, rows)


def suite_tables(data: Row) -> str:
    """All that a suite found, one table below the other."""
    found = [inference_table(data["rows"])] if data["rows"] else []
    found += [layers_table(entry) for entry in data["layers"]]
    found += [ideas_table(data["ideas"])] if data["ideas"] else []
    return "\n\n".join(found)


def heading(data: Row) -> str:
    """Network, device and versions, as they stand above each table."""
    device, versions = data["device"], data["versions"]
    kind = "" if device["kind"] == device["platform"] else f" {device['kind']},"
    return "\n".join(
        (
            f"BiSeNet V2, preset {data['preset']}, {data['classes']} classes: "
            f"{data['parameters']:,} parameters, {data['gmacs']:.3f} GMAC an image of "
            f"{data['gmacs_size'][0]}x{data['gmacs_size'][1]}",
            f"device    {device['platform']},{kind} 1 of {device['count']}; host "
            f"{device['host_processor']}, {device['host_cores']} cores",
            f"versions  {', '.join(f'{name} {text}' for name, text in versions.items())}",
            "",
        )
    )


def notes(*texts: str) -> str:
    """Paragraphs below a table."""
    return "\n" + "\n".join(
        textwrap.fill(text, _WIDTH, initial_indent="- ", subsequent_indent="  ")
        for text in texts
    )


def engine_notes(rows: Sequence[Row]) -> list[str]:
    """What was inside the timer and how each engine was set, once for each."""
    firsts = {row["engine"]: row for row in reversed(rows)}
    return [
        f"{name}: inside the timer {firsts[name]['inside_timer']}. {firsts[name]['settings']}."
        for name in reversed(firsts)
    ]


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "".join(
            f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}"
            for cell, (_, width, _) in zip(cells, columns, strict=True)
        )

    head = line([name for name, _, _ in columns])
    body = [line([cell(row) for _, _, cell in columns]) for row in rows]
    return "\n".join([head, "-" * len(head), *body])


def _or_dash(value: float | None, form: str, unit: int = 1) -> str:
    return "-" if value is None else format(value / unit if unit != 1 else value, form)
