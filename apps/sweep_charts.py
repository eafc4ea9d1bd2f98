"""The charts of a sweep's report, as inline SVG that takes its colours from report.css."""

import math
from html import escape
from typing import Any

from ..trainers.sweeps.summary import Row, Summary
from .charts import LOG_FROM, ticks

WIDTH, HEIGHT = 1040, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 64, 40, 26


class Axis:
    """Values on a line from 0 to 1: numbers, on a log scale if they are drawn so, or choices."""

    def __init__(self, name: str, values: list[Any], *, log: bool = False, choice: bool = False) -> None:
        self.name = name
        number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        self.numbers = number and not choice
        self.choices = [str(value) for value in (sorted(set(values)) if number else sorted(set(map(str, values))))]
        if self.numbers:
            self.low, self.high = min(values), max(values)
            self.log = log and self.low > 0

    def place(self, value: Any) -> float:
        if not self.numbers:
            return self.choices.index(str(value)) / max(1, len(self.choices) - 1)
        if self.high == self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def marks(self) -> list[tuple[float, str]]:
        if not self.numbers:
            return [(self.place(choice), choice) for choice in self.choices]
        if self.high == self.low:
            return [(0.5, number(self.low))]
        inner = ticks(self.low, self.high, self.log)
        shown = inner if len(inner) > 1 else [self.low, self.high]
        return [(self.place(value), number(value)) for value in shown]


def result_axis(values: list[float], name: str = "") -> Axis:
    return Axis(name, values, log=min(values) > 0 and max(values) / min(values) > LOG_FROM)


def parallel_coordinates(summary: Summary) -> str:
    """A line for each trial that ended, through its values of all parameters to its result; the best are strongest."""
    sweep = summary.folder.sweep
    rows = [row for row in summary.rows if row.state in ("done", "ended early") and row.value is not None]
    drawn = [parameter for parameter in sweep.parameters if parameter.distribution != "constant"]
    if len(rows) < 2:
        return ""
    axes = [
        Axis(p.key, [row.settings[p.key] for row in rows], log="log" in p.distribution, choice="values" in p.given)
        for p in drawn
    ]
    axes.append(result_axis([row.value for row in rows if row.value is not None], sweep.metric))
    gap = (WIDTH - LEFT - RIGHT) / max(1, len(axes) - 1)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = []
    ranked = sorted(rows, key=lambda row: row.value or 0.0, reverse=not sweep.maximize)  # the best is drawn last
    for place, row in enumerate(ranked):
        values = [*(row.settings[p.key] for p in drawn), row.value]
        points = " ".join(
            f"{LEFT + i * gap:.1f},{y(axis.place(v)):.1f}" for i, (axis, v) in enumerate(zip(axes, values, strict=True))
        )
        kind = "best" if row is summary.best else row.state.replace(" ", "-")
        strength = 0.15 + 0.7 * place / max(1, len(ranked) - 1)
        title = f"trial {row.number}, {row.state}: {sweep.metric} {row.value:.5g}"
        parts.append(
            f'<polyline class="trial {kind}" style="opacity:{strength:.2f}" points="{points}">'
            f"<title>{escape(title)}</title></polyline>"
        )
    for i, axis in enumerate(axes):
        x = LEFT + i * gap
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="name" x="{x:.1f}" y="{TOP - 16}">{escape(axis.name)}</text>')
        parts += [
            f'<text class="mark" x="{x + 6:.1f}" y="{y(share) + 4:.1f}">{escape(text)}</text>'
            for share, text in axis.marks()
        ]
    return figure(parts, "Each line is a trial: its settings from left to right, and its result.")


def history(summary: Summary) -> str:
    """The result of each trial in the order of their numbers, and the best so far."""
    rows = [row for row in summary.rows if row.state in ("done", "ended early") and row.value is not None]
    if len(rows) < 2:
        return ""
    values = result_axis([row.value for row in rows if row.value is not None])
    last = max(row.number for row in rows)
    maximize = summary.folder.sweep.maximize
    best: float | None = None
    parts, line = grid_lines(values), []
    for row in rows:
        x, y = place(row.number / max(1, last), values.place(row.value))
        kind = row.state.replace(" ", "-")
        title = f"trial {row.number}, {row.state}: {row.value:.5g}"
        parts.append(f'<circle class="point {kind}" cx="{x}" cy="{y}" r="4"><title>{escape(title)}</title></circle>')
        if row.state == "done":
            known = [value for value in (best, row.value) if value is not None]
            best = max(known) if maximize else min(known)
        if best is not None:
            line.append("{},{}".format(*place(row.number / max(1, last), values.place(best))))
    parts.append(f'<polyline class="trial best" points="{" ".join(line)}"/>')
    return figure(parts, "Filled: ran to its end. Hollow: ended early. The line is the best so far.")


def learning_curves(summary: Summary) -> str:
    """The validations of every trial."""
    rows = [row for row in summary.rows if row.curve]
    found = [value for row in rows for value in row.curve.values()]
    if not found:
        return ""
    values = result_axis(found)
    last = max(row.step for row in rows)
    parts = grid_lines(values)
    for row in sorted(rows, key=lambda row: row is summary.best):
        points = " ".join("{},{}".format(*place(step / last, values.place(value))) for step, value in row.curve.items())
        kind = "best" if row is summary.best else row.state.replace(" ", "-")
        if len(row.curve) == 1:  # a line of one point is not drawn
            x, y = points.split(",")
            parts.append(f'<circle class="point {kind}" cx="{x}" cy="{y}" r="2.5"/>')
        parts.append(
            f'<polyline class="trial {kind}" points="{points}"><title>{escape(title_of(row))}</title></polyline>'
        )
    parts.append(f'<text class="mark end" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}">step {last:,}</text>')
    return figure(
        parts, f"{summary.folder.sweep.metric} at each validation; lines that stop are trials that ended early."
    )


def title_of(row: Row) -> str:
    return f"trial {row.number}, {row.state}: {' '.join(f'{key}={value}' for key, value in row.settings.items())}"


def place(x: float, y: float) -> tuple[str, str]:
    """Shares of the width and height as coordinates."""
    left, top = LEFT + (WIDTH - LEFT - RIGHT) * x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y
    return f"{left:.1f}", f"{top:.1f}"


def grid_lines(values: Axis) -> list[str]:
    return [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text class="mark start" x="{LEFT - 8}" y="{float(y) + 4:.1f}">{escape(text)}</text>'
        for share, text in values.marks()
        for _, y in [place(0, share)]
    ]


def number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−").replace("e−0", "e−")


def figure(parts: list[str], caption: str) -> str:
    return (
        f'<figure class="chart"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(caption)}">'
        f"{''.join(parts)}</svg><figcaption>{escape(caption)}</figcaption></figure>"
    )
