"""Learning curves as an SVG: loss, learning rate and mIoU by step, a line for each seed."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from bisenet_jax.publish.training_log import Logs, average, curve

Points = Sequence[tuple[int, float]]

WIDTH, PANEL, LEFT, RIGHT, TOP, FOOT = 720, 190, 64, 16, 34, 44
GAP = 42
MOST_POINTS = 200
# Seven that colour-blind people tell apart (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
PANELS = (
    ("train", "loss", "loss of all heads (mean of neighbouring log lines)"),
    ("train", "learning_rate", "learning rate"),
    ("val", "miou", "mIoU on val, scored during training"),
)


def draw_curves(logs: Logs, title: str) -> str:
    """The drawing as SVG text; it holds nothing that runs and no link.

    Args:
        logs: of each seed.
        title: above.
    """
    height = TOP + len(PANELS) * (PANEL + GAP) + FOOT - GAP
    last = max((line["step"] for lines in logs.values() for line in lines), default=1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12" '
        'fill="#1f2328">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>',
        *_legend(sorted(logs)),
    ]
    for row, (group, name, words) in enumerate(PANELS):
        top = TOP + row * (PANEL + GAP)
        lines = {
            seed: average(curve(log, group, name), MOST_POINTS)
            for seed, log in sorted(logs.items())
        }
        parts += _panel(lines, words, top, last)
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{height - 8}" '
        'text-anchor="middle">step</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def ticks(high: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to the first at or above `high`, `count` steps or a few less."""
    if high <= 0:
        return [0.0, 1.0]
    raw = high / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * (1 - 1e-9))
    return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)]


def _panel(lines: Mapping[int, Points], words: str, top: float, last: int) -> list[str]:
    marks = ticks(max((value for points in lines.values() for _, value in points), default=1))
    bottom, right = top + PANEL, WIDTH - RIGHT

    def x(step: float) -> float:
        return LEFT + (right - LEFT) * step / last

    def y(value: float) -> float:
        return bottom - (PANEL - 22) * value / marks[-1]

    parts = [f'<text x="{LEFT}" y="{top + 10}" fill="#59636e">{escape(words)}</text>']
    for mark in marks:
        parts += [
            f'<path d="M{LEFT} {y(mark):.1f}H{right}" stroke="#d1d9e0"/>',
            f'<text x="{LEFT - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:.4g}</text>',
        ]
    for mark in ticks(last):
        if mark <= last:
            where = f'x="{x(mark):.1f}" y="{bottom + 16}"'
            parts.append(f'<text {where} text-anchor="middle">{mark:g}</text>')
    for index, points in enumerate(lines.values()):
        colour = COLOURS[index % len(COLOURS)]
        path = "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in points)
        if path:
            parts.append(
                f'<path d="M{path}" stroke="{colour}" stroke-width="1.6" fill="none"/>'
            )
        if len(points) <= 40:
            parts += [
                f'<circle cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.5" fill="{colour}"/>'
                for step, value in points
            ]
    return parts


def _legend(seeds: Sequence[int]) -> list[str]:
    parts, right = [], WIDTH - RIGHT
    for index, seed in reversed(list(enumerate(seeds))):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(
            f'<text x="{right}" y="18" text-anchor="end" fill="{colour}">seed {seed}</text>'
        )
        right -= 12 + 7 * len(f"seed {seed}")
    return parts
