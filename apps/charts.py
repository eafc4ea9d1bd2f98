"""Learning curves as small inline SVG pictures, which take colours and fonts from the page (report.css)."""

import math
from html import escape

from ..trainers.run.curves import Curve

WIDTH, HEIGHT = 280, 150
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 8, 22
LOG_FROM = 20  # a range wider than this factor is drawn on a log scale
NUM_COLOURS = 8  # of report.css for runs that are compared
MAX_POINTS = 240  # of a drawn line; more than there are pixels only costs bytes


def panels(curves: dict[str, Curve]) -> list[str]:
    """One figure for each metric, `train/x` and `val/x` together; the total loss first."""
    names = list(dict.fromkeys(name.partition("/")[2] for name in [*_starting(curves, "train"), *curves]))
    names.sort(key=lambda name: name != "loss")
    train, val = ({name: _finite(curves.get(f"{split}/{name}", [])) for name in names} for split in ("train", "val"))
    return [panel(name, train[name], val[name]) for name in names if train[name] or val[name]]


def panel(name: str, train: Curve, val: Curve) -> str:
    """A metric over the steps: training as it was and smoothed, validation with a dot for each pass."""
    smooth = smoothed(train)
    # The first raw values can dwarf all the rest, so the scale follows the curves that are to be read.
    plane = Plane([value for _, value in smooth + val], max(step for step, _ in train + val))
    drawn = plane.line(train, "raw") + plane.line(smooth, "smooth") + plane.line(val, "val") + plane.dots(val, "dot")
    title = title_of(name)
    last = [f"{kind} {_number(curve[-1][1])}" for kind, curve in (("training", smooth), ("validation", val)) if curve]
    return plane.figure(title, drawn, f"{title} over {plane.last_step} steps; at the end {', '.join(last)}")


def overlay(name: str, curves: dict[str, Curve]) -> str:
    """A metric of several runs over the steps, a colour each in their order; curves of training are smoothed."""
    split, _, metric = name.partition("/")
    drawn_as = {run: curve if split == "val" else smoothed(curve) for run, curve in curves.items()}
    points = [point for curve in drawn_as.values() for point in _finite(curve)]
    if not points:
        return ""
    plane = Plane([value for _, value in points], max(step for step, _ in points))
    drawn = ""
    for number, curve in enumerate(map(_finite, drawn_as.values())):
        kind = f"run run{number % NUM_COLOURS}"
        drawn += plane.line(curve, kind) + (plane.dots(curve, kind) if split == "val" else "")
    title = f"{title_of(metric)}, {'validation' if split == 'val' else 'training'}"
    last = [f"{run} {_number(curve[-1][1])}" for run, curve in drawn_as.items() if curve]
    return plane.figure(title, drawn, f"{title} over {plane.last_step} steps; at the end {', '.join(last)}")


class Plane:
    """The axes of a chart and what is drawn on them."""

    def __init__(self, values: list[float], last_step: int) -> None:
        self.log = min(values) > 0 and max(values) / min(values) > LOG_FROM
        self.low, self.high = _range(values, self.log)
        self.last_step = last_step

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(1, self.last_step)

    def y(self, value: float) -> float:
        position = _position(min(max(value, self.low), self.high), self.low, self.high, self.log)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * position

    def line(self, curve: Curve, kind: str) -> str:
        points = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in thinned(curve))
        return f'<polyline class="{kind}" points="{points}"/>' if curve else ""

    def dots(self, curve: Curve, kind: str) -> str:
        circle = '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>'
        return "".join(circle.format(kind, self.x(step), self.y(value)) for step, value in curve)

    def figure(self, title: str, drawn: str, told: str) -> str:
        """The whole chart; told: the same in words, for those who do not see it."""
        grid = "".join(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.y(tick):.1f}" y2="{self.y(tick):.1f}"/>'
            f'<text class="y" x="{LEFT - 6}" y="{self.y(tick) + 3.5:.1f}">{_number(tick)}</text>'
            for tick in ticks(self.low, self.high, self.log)
        )
        grid += "".join(
            f'<text class="{anchor}" x="{self.x(step):.1f}" y="{HEIGHT - 6}">{step:,}</text>'
            for step, anchor in ((0, "start"), (self.last_step, "end"))
        )
        return (
            f'<figure class="panel"><figcaption><b>{escape(title)}</b><span>{"log scale" if self.log else ""}</span>'
            f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">'
            f"{grid}{drawn}</svg></figure>"
        )


def title_of(name: str) -> str:
    """A metric's name in words: text_image_loss becomes "text image loss"."""
    return name.replace("_", " ").replace("psnr", "PSNR").replace("top1", "top-1")


def smoothed(curve: Curve) -> Curve:
    """Exponential average over about a fifteenth of the curve, without the bias of its start."""
    keep = 1 - 2 / (1 + max(1.0, len(curve) / 15))
    total, weight, result = 0.0, 0.0, []
    for step, value in curve:
        total, weight = keep * total + value, keep * weight + 1
        result.append((step, total / weight))
    return result


def thinned(curve: Curve) -> Curve:
    """Every n-th point and the last."""
    every = max(1, -(-len(curve) // MAX_POINTS))
    return curve[::every] + ([curve[-1]] if (len(curve) - 1) % every else [])


def ticks(low: float, high: float, log: bool) -> list[float]:
    """About four round values between low and high."""
    if log:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1,) if math.log10(high / low) > 2.5 else (1, 3) if math.log10(high / low) > 1.2 else (1, 2, 5)
        return [t for e in exponents for m in steps if low <= (t := m * 10.0**e) <= high]
    rough = (high - low) / 4.5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _range(values: list[float], log: bool) -> tuple[float, float]:
    """The range of the axis: the values and a little space."""
    low, high = min(values), max(values)
    if log:
        air = (high / low) ** 0.06
        return low / air, high * air
    air = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < 0.4 * high else low - air), high + air


def _position(value: float, low: float, high: float, log: bool) -> float:
    if log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _number(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−").replace("e−0", "e−")


def _finite(curve: Curve) -> Curve:
    return [(step, value) for step, value in curve if math.isfinite(value)]


def _starting(curves: dict[str, Curve], split: str) -> list[str]:
    return [name for name in curves if name.startswith(f"{split}/")]
