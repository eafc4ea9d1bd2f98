"""Learning curves as small inline SVG pictures, which take colours and fonts from the page (report.css)."""

import math
from html import escape

Curve = list[tuple[int, float]]  # (step, value)

WIDTH, HEIGHT = 280, 150
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 8, 22
LOG_FROM = 20  # a range wider than this factor is drawn on a log scale
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
    values = [value for _, value in smooth + val]
    log = min(values) > 0 and max(values) / min(values) > LOG_FROM
    low, high = _range(values, log)
    last_step = max(step for step, _ in train + val)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(1, last_step)

    def y(value: float) -> float:
        position = _position(min(max(value, low), high), low, high, log)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * position

    def line(curve: Curve, kind: str) -> str:
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in thinned(curve))
        return f'<polyline class="{kind}" points="{points}"/>' if curve else ""

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="y" x="{LEFT - 6}" y="{y(tick) + 3.5:.1f}">{_number(tick)}</text>'
        for tick in ticks(low, high, log)
    ]
    parts += [
        f'<text class="{anchor}" x="{x(step):.1f}" y="{HEIGHT - 6}">{step:,}</text>'
        for step, anchor in ((0, "start"), (last_step, "end"))
    ]
    parts += [line(train, "raw"), line(smooth, "smooth"), line(val, "val")]
    parts += [f'<circle class="dot" cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.6"/>' for step, value in val]
    title = title_of(name)
    last = [f"{kind} {_number(curve[-1][1])}" for kind, curve in (("training", smooth), ("validation", val)) if curve]
    told = f"{title} over {last_step} steps; at the end {', '.join(last)}"
    return (
        f'<figure class="panel"><figcaption><b>{escape(title)}</b><span>{"log scale" if log else ""}</span>'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">'
        f"{''.join(parts)}</svg></figure>"
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
