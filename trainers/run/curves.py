"""`metrics.jsonl` as curves; apart from the journal that writes it, which needs Lightning."""

import json
from pathlib import Path

Curve = list[tuple[int, float]]  # (step, value)


def read_metrics(path: Path) -> dict[str, Curve]:
    """name -> [(step, value), ...]; without the last line if it was cut off, and without what is no number."""
    curves: dict[str, Curve] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):  # another tool's
            continue
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                curves.setdefault(name, []).append((row["step"], value))
    return curves


def best_of(curve: Curve, *, less: bool) -> tuple[int, float] | None:
    """The step and value of the best point of a curve, the first if several are; None if it has none."""
    finite = [(step, value) for step, value in curve if value == value]
    return min(finite, key=lambda point: point[1] if less else -point[1]) if finite else None
