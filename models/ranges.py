"""The numbers that a setting may have, beside its default: `lr: float = number(3e-4, above=0)`."""

import math
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

from .errors import UserError

RANGE = "range"  # of a field's metadata
MAX_SEED = 2**32 - 1  # that NumPy and Lightning take


@dataclass(frozen=True)
class Range:
    least: float = 0.0
    most: float = math.inf
    open: bool = False  # whether `least` itself is left out

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value) and (value > self.least if self.open else value >= self.least) and value <= self.most
        )

    def __str__(self) -> str:
        least = f"above {self.least:g}" if self.open else f"{self.least:g} or more"
        if math.isinf(self.most):
            return f"a number {least}"
        return f"{least} and at most {self.most:g}" if self.open else f"from {self.least:g} to {self.most:g}"


ANY = Range()  # of a setting that says nothing else


def number(default: float, *, least: float = 0.0, most: float = math.inf, above: float | None = None) -> Any:
    """A field of a configuration, with its range."""
    allowed = Range(least, most) if above is None else Range(above, most, open=True)
    return field(default=default, metadata={RANGE: allowed})


def out_of_range(config: Any, prefix: str = "") -> Iterator[UserError]:
    """The numbers of a configuration, and of those inside it, that their ranges do not hold."""
    for item in fields(config):
        value, key = getattr(config, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from out_of_range(value, f"{key}.")
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, int | float) and not isinstance(entry, bool) and entry not in range_of(item):
                yield UserError(f"{key}={value}", f"must be {range_of(item)}", f"{key}={nearest(entry, item)}")


def range_of(item: Field) -> Range:
    return item.metadata.get(RANGE, ANY)


def nearest(value: float, item: Field) -> float:
    """The value of the range next to one outside it; the default, if there is none."""
    allowed = range_of(item)
    if value > allowed.most and math.isfinite(value):
        return type(value)(allowed.most)
    if value < allowed.least and not allowed.open:
        return type(value)(allowed.least)
    return item.default  # type: ignore[return-value]
