"""Figures as one page that needs nothing else: plots in SVG, tables in HTML."""

import math
import os
from collections.abc import Sequence
from html import escape
from typing import Any

from bisenet_jax.files import write_bytes

Row = dict[str, Any]
_COLOURS = (
    *("#1f6feb", "#8bb8f8", "#d9480f", "#f59f00", "#2b8a3e", "#862e9c", "#495057", "#0b7285"),
    *("#e64980", "#82c91e", "#000000", "#a9957b"),
)
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 800, 320, 70, 210, 20, 45
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#212529}h2{margin-top:2.5rem}svg{width:100%;height:auto;font-size:12px}"
    "table{border-collapse:collapse;font-size:13px}td,th{padding:.2rem .7rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f1f3f5}"
)


def write_page(path: str | os.PathLike[str], data: Row) -> None:
    """Write what `bench.py --json` writes as a page to look at, whole or not at all."""
    write_bytes(path, render_page(data).encode())


def render_page(data: Row) -> str:
    """Latency by batch for each size and dtype, boxes, roofline and ideas, where there are."""
    device = data["device"]
    title = f"BiSeNet V2, {data['preset']}, on {device['kind']} ({device['host_processor']})"
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{escape(_versions(data))}</p>"]
    rows = data.get("rows", [])
    for height, width, dtype in dict.fromkeys(
        (row["height"], row["width"], row["dtype"]) for row in rows
    ):
        chosen = [
            row
            for row in rows
            if (row["height"], row["width"], row["dtype"]) == (height, width, dtype)
        ]
        parts += [f"<h2>Latency, {height}x{width}, {dtype}</h2>", _latency_plot(chosen)]
    if rows:
        parts += ["<h2>Engines</h2>", _rows_table(rows)]
    for found in data.get("layers", []):
        what = f"{found['height']}x{found['width']}, batch {found['batch']}, {found['dtype']}"
        parts += [f"<h2>Where the time goes, {what}</h2>", _share_plot(found["rows"])]
        parts += [f"<h2>Roofline, {what}</h2>", _roofline_plot(found)]
    if ideas := data.get("ideas"):
        parts += ["<h2>Ideas, latency over the default's</h2>", _ideas_plot(ideas)]
    skipped = "".join(f"<li>{escape(line)}</li>" for line in data.get("skipped", []))
    parts += [f"<h2>Skipped</h2><ul>{skipped}</ul>"] if skipped else []
    parts += [f"<h2>Protocol</h2><p>{escape(data['protocol'])}</p>"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _latency_plot(rows: Sequence[Row]) -> str:
    """Groups of bars: a group for each batch, a bar for each engine, milliseconds an image."""
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    values = {
        (row["batch"], row["engine"]): row["latency_ms"]["median"] / row["batch"]
        for row in rows
    }
    ticks = _ticks(max(values.values()))
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    marks = []
    for tick in ticks:
        y = _TOP + plot_height * (1 - tick / ticks[-1])
        marks.append(_line(_LEFT, y, _LEFT + plot_width, y, "#dee2e6"))
        marks.append(_text(_LEFT - 8, y + 4, f"{tick:g}", "end"))
    group = plot_width / len(batches)
    bar = min(group * 0.8 / len(engines), 60)
    for index, batch in enumerate(batches):
        middle = _LEFT + group * (index + 0.5)
        marks.append(_text(middle, _HEIGHT - 25, f"batch {batch}", "middle"))
        for place, engine in enumerate(engines):
            if (value := values.get((batch, engine))) is None:
                continue
            x = middle + (place - len(engines) / 2) * bar
            height = plot_height * value / ticks[-1]
            marks.append(_bar(x, _TOP + plot_height - height, bar * 0.92, height, place))
            y = _TOP + plot_height - height - 4
            marks.append(_text(x + bar / 2, y, f"{value:.3g}", "middle"))
    marks.append(_text(_LEFT, _HEIGHT - 5, "milliseconds an image, median latency / batch"))
    return _svg([*marks, *_legend(engines)])


def _share_plot(rows: Sequence[Row]) -> str:
    labels = [f"{row['milliseconds']:.3g} ms, {row['share']:.1%}" for row in rows]
    return _bars([row["block"] for row in rows], [row["share"] for row in rows], labels)


def _ideas_plot(rows: Sequence[Row]) -> str:
    names = [f"{row['idea']}, {row['dtype']}, batch {row['batch']}" for row in rows]
    return _bars(names, [row["ratio"] for row in rows], [f"{row['ratio']:.3f}" for row in rows])


def _bars(names: Sequence[str], values: Sequence[float], labels: Sequence[str]) -> str:
    """Bars that lie, a line for each name."""
    left, step = 270, 24
    scale = (_WIDTH - left - 130) / max(values)
    marks = []
    for index, (name, value, label) in enumerate(zip(names, values, labels, strict=True)):
        y = _TOP + index * step
        marks.append(_text(left - 8, y + 14, name, "end"))
        marks.append(_bar(left, y, value * scale, step - 5, 0))
        marks.append(_text(left + value * scale + 6, y + 14, label))
    return _svg(marks, _TOP * 2 + step * len(names))


def _roofline_plot(found: Row) -> str:
    """Boxes by FLOP a byte (along) and FLOP a second (up), both axes by powers of ten."""
    ceilings = found["ceilings"]
    points = [
        (
            row["block"],
            row["gmacs"] * 2e9 / (row["megabytes"] * 1e6),
            row["gmacs"] * 2e9 / (row["milliseconds"] / 1e3),
        )
        for row in found["rows"]
        if row["gmacs"] and row["milliseconds"]
    ]
    ridge = ceilings["flops"] / ceilings["bytes"]
    along = _decades([ridge, *(point[1] for point in points)])
    up = _decades([ceilings["flops"], *(point[2] for point in points)])
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(intensity: float, speed: float) -> tuple[float, float]:
        x = (math.log10(intensity) - along[0]) / (along[1] - along[0])
        y = (math.log10(speed) - up[0]) / (up[1] - up[0])
        return _LEFT + plot_width * x, _TOP + plot_height * (1 - min(max(y, 0), 1))

    marks = []
    for power in range(along[0], along[1] + 1):
        x, _ = place(10.0**power, 10.0 ** up[0])
        marks.append(_line(x, _TOP, x, _TOP + plot_height, "#dee2e6"))
        marks.append(_text(x, _HEIGHT - 25, f"{10.0**power:g}", "middle"))
    for power in range(up[0], up[1] + 1):
        _, y = place(10.0 ** along[0], 10.0**power)
        marks.append(_line(_LEFT, y, _LEFT + plot_width, y, "#dee2e6"))
        marks.append(_text(_LEFT - 8, y + 4, f"{10.0 ** (power - 9):g}", "end"))
    start = max(10.0 ** along[0], 10.0 ** up[0] / ceilings["bytes"])
    corners = [(start, start * ceilings["bytes"]), (ridge, ceilings["flops"])]
    corners.append((10.0 ** along[1], ceilings["flops"]))
    for low, high in zip(corners, corners[1:], strict=False):
        marks.append(_line(*place(*low), *place(*high), "#212529"))
    for index, (name, intensity, speed) in enumerate(points):
        x, y = place(intensity, speed)
        colour = _COLOURS[index % len(_COLOURS)]
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}">')
        marks.append(f"<title>{escape(name)}</title></circle>")
    marks.append(
        _text(_LEFT, _HEIGHT - 5, "along: FLOP a byte; up: GFLOP/s; line: the ceilings")
    )
    return _svg([*marks, *_legend([name for name, _, _ in points])])


def _rows_table(rows: Sequence[Row]) -> str:
    names = (
        "engine",
        "size",
        "batch",
        "dtype",
        "p50 ms",
        "p99 ms",
        "images/s",
        "ratio",
        "roof",
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(cell)}</td>"
            for cell in (
                *(row["engine"], f"{row['height']}x{row['width']}", str(row["batch"])),
                *(row["dtype"], f"{row['latency_ms']['median']:.2f}"),
                *(f"{row['latency_ms']['p99']:.2f}", f"{row['images_per_second']:.1f}"),
                *(f"{row['ratio']:.2f}", f"{row['roofline_share']:.1%}"),
            )
        )
        + "</tr>"
        for row in rows
    )
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _versions(data: Row) -> str:
    return ", ".join(f"{name} {text}" for name, text in data["versions"].items()) + (
        f"; {data['date']}"
    )


def _ticks(largest: float) -> list[float]:
    """From 0 to at least the largest, in steps of 1, 2 or 5 of a power of ten."""
    power = 10.0 ** math.floor(math.log10(largest / 4))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit * 5 >= largest)
    return [step * index for index in range(math.ceil(largest / step) + 1)]


def _decades(values: Sequence[float]) -> tuple[int, int]:
    return math.floor(math.log10(min(values))), math.floor(math.log10(max(values))) + 1


def _legend(names: Sequence[str]) -> list[str]:
    x = _WIDTH - _RIGHT + 15
    marks = []
    for index, name in enumerate(names):
        y = _TOP + index * 20
        marks.append(_bar(x, y, 12, 12, index))
        marks.append(_text(x + 18, y + 10, name.replace("_branch", "")))
    return marks


def _bar(x: float, y: float, width: float, height: float, colour: int) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{_COLOURS[colour % len(_COLOURS)]}"/>'
    )


def _line(x: float, y: float, to_x: float, to_y: float, colour: str) -> str:
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(marks: Sequence[str], height: float = _HEIGHT) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img">{"".join(marks)}</svg>'
