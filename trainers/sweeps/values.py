"""Whether the parameters of a sweep can be drawn, and whether the stage takes what is drawn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...models.errors import UserError
from ..config import load_config
from ..run.settings import wrong_settings
from ..stage import Stage, StageConfig
from .parameters import Parameter


def check_parameter(file: Path, parameter: Parameter) -> None:
    """Refuse a parameter that has no values, or some that cannot be drawn."""
    given, where = parameter.given, f"parameters.{parameter.key}"
    missing = [key for key, value in given.items() if value is None and key not in ("value",)]
    if missing:
        raise UserError(file, f"{where}: distribution {parameter.distribution} needs '{missing[0]}'")
    for value in [given["value"]] if "value" in given else given.get("values", []):
        if _holds_none(value):
            problem = "None arrives at the command as the text 'None'"
            raise UserError(file, f"{where}: {problem}", "leave it out, or give the setting's own empty value")
    if "probabilities" in given and len(given["probabilities"]) != len(given["values"]):
        problem = f"{len(given['probabilities'])} probabilities for {len(given['values'])} values"
        raise UserError(file, f"{where}: {problem}")
    if "probabilities" in given and not sum(given["probabilities"]):
        raise UserError(file, f"{where}: all probabilities are 0")
    if "min" not in given:
        return
    low, high = given["min"], given["max"]
    if low >= high:
        raise UserError(file, f"{where}: no number lies between min={low} and max={high}", "swap them, or give value")
    if parameter.distribution == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
        raise UserError(file, f"{where}: int_uniform needs whole numbers", "distribution: uniform")
    if parameter.distribution.endswith("log_uniform_values") and low <= 0:
        problem = f"min={low} has no logarithm"
        raise UserError(file, f"{where}: {problem}", f"a min above 0, such as {high / 1000:g}")
    if (
        parameter.distribution.removeprefix("q_") in ("log_uniform", "inv_log_uniform")
        and max(abs(low), abs(high)) > 700
    ):
        raise UserError(file, f"{where}: min and max are exponents of e", "distribution: log_uniform_values")


def _holds_none(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_none, value.values() if isinstance(value, dict) else value))
    return value is None or value == "None"


def check_words(file: Path, words: list[str], more: list[str], parameters: list[Parameter]) -> None:
    keys = {parameter.key for parameter in parameters}
    for word in words:
        key, equals, _ = word.partition("=")
        where = f"'{word}'" if word in more else file
        if not equals:
            raise UserError(where, "wanted is key=value, such as optimizer.lr=1e-4")
        if key in keys:
            raise UserError(where, f"{key} is a parameter of {file}", "take it out of one of the two")
        if key == "run":
            raise UserError(where, "each trial has a run folder of its own", "leave run= out; --out names the sweep's")


def check_rest(file: Path, config: StageConfig, parameters: list[Parameter]) -> None:
    """Refuse settings beside the parameters that the stage does not take."""
    keys = {parameter.key for parameter in parameters}
    for wrong in wrong_settings(config):
        if wrong.where.partition("=")[0] not in keys:
            raise UserError(file, f"command: {wrong.where} {wrong.problem}", wrong.remedy)


def check_values(
    file: Path, stage: type[Stage], configs: list[Path], words: list[str], parameters: list[Parameter]
) -> None:
    """Refuse keys that the stage does not have, and values that it does not take."""
    for parameter in parameters:
        if parameter.key == "run":
            raise UserError(file, "parameters.run: each trial has a run folder of its own", "leave it out")
        for value in parameter.extremes:
            word = f"{parameter.key}={value}"
            try:
                config: Any = load_config(stage.config_type, configs, [*words, word])
            except UserError as error:
                raise UserError(file, f"parameters.{parameter.key}: {error.problem}", error.remedy) from None
            for wrong in _about(parameter.key, wrong_settings(config)):
                raise UserError(file, f"parameters.{parameter.key}: {wrong.where} {wrong.problem}", wrong.remedy)


def _about(key: str, errors: list[UserError]) -> Iterator[UserError]:
    """The errors of one key: others are of the values that stand beside it."""
    return (error for error in errors if error.where.partition("=")[0] == key)
