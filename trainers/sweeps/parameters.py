"""The parameters of a sweep file: what values one may take, and how a trial draws its own.

Names and meanings are W&B's (https://docs.wandb.ai/models/sweeps/sweep-config-keys). What Optuna can draw by itself, it
draws; values of any other distribution are drawn as a quantile, a share between 0 and 1 of all values, that is then
turned into the value. A quantile has the name of its parameter with `(quantile)` behind it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist
from typing import Any

import optuna
from scipy.special import betaincinv

EDGE = 1e-9  # the quantiles that are drawn stay as far from 0 and 1, where a normal distribution has no value
QUANTILE = " (quantile)"

# Of each distribution the keys that it needs, with their defaults; None where there is none.
KEYS: dict[str, dict[str, float | None]] = {
    "constant": {"value": None},
    "categorical": {"values": None},
    "categorical_w_probabilities": {"values": None, "probabilities": None},
    "int_uniform": {"min": None, "max": None},
    "uniform": {"min": None, "max": None},
    "log_uniform": {"min": None, "max": None},
    "log_uniform_values": {"min": None, "max": None},
    "inv_log_uniform": {"min": None, "max": None},
    "inv_log_uniform_values": {"min": None, "max": None},
    "normal": {"mu": 0.0, "sigma": 1.0},
    "log_normal": {"mu": 0.0, "sigma": 1.0},
    "beta": {"a": 1.0, "b": 1.0},
}
ROUNDED = ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta")
KEYS |= {f"q_{name}": KEYS[name] | {"q": 1.0} for name in ROUNDED}


@dataclass(frozen=True)
class Parameter:
    """One key of a stage's configuration that trials set."""

    key: str  # with dots
    distribution: str
    given: dict[str, Any]  # what the file says, and the defaults

    @property
    def values(self) -> list[Any] | None:
        """All values, where they can be counted; None for a range of numbers."""
        if self.distribution == "constant":
            return [self.given["value"]]
        if "values" in self.given:
            return list(self.given["values"])
        if self.distribution == "int_uniform":
            return list(range(self.given["min"], self.given["max"] + 1))
        if self.distribution == "q_uniform":
            first, last = (round(self.given[end] / self.given["q"]) for end in ("min", "max"))
            return [self._rounded(step * self.given["q"]) for step in range(first, last + 1)]
        return None

    @property
    def extremes(self) -> list[Any]:
        """Values to try before a sweep: all of a choice, of numbers the least and the greatest (of most draws)."""
        if self.distribution == "constant" or "values" in self.given:
            return self.values or []
        if self._range is not None:
            return [self._finish(end) for end in self._range]
        return [self._at(0.001), self._at(0.999)]

    def draw(self, trial: optuna.Trial) -> Any:
        """The value of a trial, drawn if it has none yet."""
        if self.distribution == "constant":
            return self.given["value"]
        if self.distribution == "categorical":
            shown = {label(value): value for value in self.given["values"]}
            return shown[trial.suggest_categorical(self.key, list(shown))]
        if self.distribution == "int_uniform":
            return trial.suggest_int(self.key, self.given["min"], self.given["max"])
        if self._range is None:
            return self._at(trial.suggest_float(self.key + QUANTILE, EDGE, 1 - EDGE))
        low, high = self._range
        return self._finish(trial.suggest_float(self.key, low, high, log="log" in self.distribution))

    @property
    def _range(self) -> tuple[float, float] | None:
        """The ends of numbers that Optuna draws by itself, evenly or evenly in their logarithm."""
        name = self.distribution.removeprefix("q_")
        if name in ("uniform", "int_uniform", "log_uniform_values", "inv_log_uniform_values"):
            return self.given["min"], self.given["max"]
        if name == "log_uniform":
            return math.exp(self.given["min"]), math.exp(self.given["max"])
        if name == "inv_log_uniform":  # the logarithm of 1 / X
            return math.exp(-self.given["max"]), math.exp(-self.given["min"])
        return None

    def _at(self, share: float) -> Any:
        """The value below which that share of all draws lies."""
        given = self.given
        if self.distribution == "categorical_w_probabilities":
            total = 0.0
            for value, probability in zip(given["values"], given["probabilities"], strict=True):
                total += probability / sum(given["probabilities"])
                if share < total:
                    return value
            return given["values"][-1]
        if "beta" in self.distribution:
            return self._finish(float(betaincinv(given["a"], given["b"], share)))
        drawn = NormalDist(given["mu"], given["sigma"]).inv_cdf(share) if given["sigma"] else given["mu"]
        return self._finish(math.exp(drawn) if "log" in self.distribution else drawn)

    def _finish(self, value: float) -> float:
        return self._rounded(round(value / self.given["q"]) * self.given["q"]) if "q" in self.given else value

    def _rounded(self, value: float) -> float:
        """Without the dust of multiplying: 0.3 for 3 x 0.1; a whole number where all are."""
        found = float(f"{value:.12g}")
        return int(found) if float(self.given["q"]).is_integer() else found


def label(value: Any) -> Any:
    """How a choice stands in the study, which takes plain values only."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def read_parameters(spec: dict[str, Any], prefix: str = "") -> Iterator[Parameter]:
    """The parameters of a file that fits the schema; nested ones get names with dots."""
    for name, entry in spec.items():
        if "parameters" in entry:
            yield from read_parameters(entry["parameters"], f"{prefix}{name}.")
        else:
            distribution = entry.get("distribution") or implied(entry)
            yield Parameter(prefix + name, distribution, KEYS[distribution] | entry)


def implied(entry: dict[str, Any]) -> str:
    """The distribution that W&B takes where none is named."""
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical_w_probabilities" if "probabilities" in entry else "categorical"
    if "mu" in entry or "sigma" in entry:
        return "normal"
    whole = all(isinstance(entry.get(end), int) for end in ("min", "max"))
    return "int_uniform" if whole else "uniform"


def grid(parameters: list[Parameter]) -> list[dict[str, Any]]:
    """Every combination, the last parameter changing fastest: key -> value as the study knows it."""
    drawn = [parameter for parameter in parameters if parameter.distribution != "constant"]
    choices = [[label(value) for value in parameter.values or []] for parameter in drawn]
    return [dict(zip((p.key for p in drawn), point, strict=True)) for point in product(*choices)]


def words(settings: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    """What `${args_no_hyphens}` stands for: KEY=VALUE as Python writes it, nested keys as one dictionary."""

    def nested(spec: dict[str, Any], prefix: str) -> dict[str, Any]:
        return {
            name: nested(entry["parameters"], f"{prefix}{name}.") if "parameters" in entry else settings[prefix + name]
            for name, entry in spec.items()
        }

    return [f"{name}={value}" for name, value in nested(spec, "").items()]
