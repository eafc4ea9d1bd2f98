"""A sweep file, in W&B's format, read and held against the stage that it is for.

The same file goes to `wandb sweep`: what W&B takes and a sweep without a server cannot do is refused here with the
reason, before anything starts.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from ...models.errors import UserError
from ..all_stages import find_stage
from ..config import CONFIGS, find_shipped, load_config
from ..stage import Stage, StageConfig
from .early_end import EarlyEnd
from .parameters import Parameter, grid, read_parameters
from .schema import check_schema
from .values import check_parameter, check_rest, check_values, check_words

ARGUMENTS = "${args_no_hyphens}"
COMMAND = f"command: [emohead, train, STAGE, -c, NAME, {ARGUMENTS}]"
VARIABLE = re.compile(r"\$\{envvar:([A-Za-z0-9_]+)\}")  # W&B's macro for a variable of the environment
MAX_GRID = 10_000


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says."""

    file: Path
    name: str
    stage: type[Stage]
    configs: list[Path]
    words: list[str]  # key=value for every trial
    method: str  # grid, random or bayes
    metric: str  # with val/
    maximize: bool
    target: float | None
    spec: dict[str, Any]  # `parameters` as the file has it
    parameters: list[Parameter]
    early_end: EarlyEnd | None
    num_trials: int
    max_steps: int  # of a trial, as far as no parameter changes it

    @property
    def command(self) -> list[str]:
        """What follows `emohead train`, but for a trial's own values and run folder."""
        return [self.stage.name, *(word for config in self.configs for word in ("-c", str(config))), *self.words]

    def points(self) -> list[dict[str, Any]]:
        """What is fixed of each trial: all of it in a grid, nothing elsewhere."""
        return grid(self.parameters)[: self.num_trials] if self.method == "grid" else [{}] * self.num_trials


def read_sweep(file: Path, more: list[str], environ: Mapping[str, str] = os.environ) -> Sweep:
    """Read a sweep file and check it.

    more: key=value for every trial, beside those of the file's command. environ: what ${envvar:NAME} stands for.

    Raises:
        UserError: the file is missing or no YAML, a key or a value is none that W&B knows or that the stage has.
    """
    content = _read(find_sweep(file))
    check_schema(file, content)
    stage, configs, words = _command(file, content, environ)
    parameters = list(read_parameters(content["parameters"]))
    for parameter in parameters:
        check_parameter(file, parameter)
    words = [*words, *more]
    check_words(file, words, more, parameters)
    config: Any = load_config(stage.config_type, configs, words)
    check_rest(file, config, parameters)
    check_values(file, stage, configs, words, parameters)
    method, metric = content["method"], content.get("metric", {})
    return Sweep(
        file=file,
        name=content.get("name") or file.stem,
        stage=stage,
        configs=configs,
        words=words,
        method=method,
        metric=_metric(file, stage, content),
        maximize=metric.get("goal", "minimize") == "maximize" if metric else not stage.monitor.startswith("-"),
        target=metric.get("target"),
        spec=content["parameters"],
        parameters=parameters,
        early_end=_early_end(file, content, config, parameters),
        num_trials=_num_trials(file, content, parameters),
        max_steps=config.trainer.max_steps,
    )


def find_sweep(file: Path) -> Path:
    """A path, or the bare name of a shipped sweep such as `motion-debug`."""
    return find_shipped(file, CONFIGS / "sweeps", "sweep file")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(file, f"not readable as YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(content, dict):
        raise UserError(file, "wanted is a mapping of keys to values")
    return content


def _command(
    file: Path, content: dict[str, Any], environ: Mapping[str, str]
) -> tuple[type[Stage], list[Path], list[str]]:
    """Stage, config files and key=value words of `emohead train STAGE -c NAME ... ${args_no_hyphens}`."""
    command = [str(word) for word in content.get("command", [])]
    command = [word for word in command if word not in ("${env}", "/usr/bin/env")]
    if ARGUMENTS not in command:
        macro = next((word for word in command if word.startswith("${args")), None)
        problem = "lacks the key 'command'" if not command else f"command: has no {ARGUMENTS}"
        raise UserError(file, f"command: {macro} makes no key=value" if macro else problem, COMMAND)
    while ARGUMENTS in command:
        command.remove(ARGUMENTS)
    command = [_filled_in(file, word, environ) for word in command]
    if command[:1] != ["emohead"] or command[1:2] != ["train"] or len(command) < 3:
        raise UserError(file, f"command: begins with '{' '.join(command[:2])}'", COMMAND)
    stage, rest = find_stage(command[2]), command[3:]
    configs, words = [], []
    while rest:
        word = rest.pop(0)
        if word in ("-c", "--config") and rest:
            configs.append(Path(rest.pop(0)))
        elif word.startswith("--config="):
            configs.append(Path(word.partition("=")[2]))
        elif word.startswith("-") or "=" not in word:
            raise UserError(file, f"command: '{word}' is neither -c FILE nor key=value", COMMAND)
        else:
            words.append(word)
    return stage, configs, words


def _filled_in(file: Path, word: str, environ: Mapping[str, str]) -> str:
    def value(match: re.Match) -> str:
        if match[1] not in environ:
            raise UserError(file, f"command: the environment has no {match[1]}", f"export {match[1]}=…")
        return environ[match[1]]

    filled = VARIABLE.sub(value, word)
    if macro := re.search(r"\$\{[^}]*\}", filled):
        raise UserError(file, f"command: {macro[0]} is none that this knows", f"{ARGUMENTS} or ${{envvar:NAME}}")
    return filled


def _metric(file: Path, stage: type[Stage], content: dict[str, Any]) -> str:
    name = content.get("metric", {}).get("name") or stage.monitor.removeprefix("-")
    known = [f"val/{figure}" for figure in stage.figures]
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
        problem = f"metric.name: '{name}' is no figure of a validation of {stage.name}"
        raise UserError(file, problem, f"did you mean '{near}'?")
    better = "minimize" if stage.monitor.startswith("-") else "maximize"
    goal = content.get("metric", {}).get("goal", "minimize")
    if name == stage.monitor.removeprefix("-") and goal != better:
        raise UserError(file, f"metric.goal: {goal} would look for the worst {name}", f"goal: {better}")
    return name


def _early_end(file: Path, content: dict[str, Any], config: Any, parameters: list[Parameter]) -> EarlyEnd | None:
    """W&B counts rungs in rows with the metric, which here are validations."""
    early = content.get("early_terminate")
    if early is None:
        return None
    for parameter in parameters:
        if parameter.key in ("trainer.val_every", "trainer.max_steps"):
            problem = f"parameters.{parameter.key}: early_terminate needs it the same in all trials"
            raise UserError(file, problem, "take out one of the two")
    eta = round(early.get("eta", 3))
    validations = config.trainer.max_steps // config.trainer.val_every
    first = early.get("min_iter") or max(1, round(early["max_iter"] / eta ** early.get("s", 1)))
    if eta < 2:
        raise UserError(file, f"early_terminate.eta: {early['eta']} is less than 2", "eta: 2")
    if first >= validations:
        problem = f"early_terminate: its first rung is validation {first}, a trial has {validations}"
        remedy = f"trainer.val_every={max(1, config.trainer.max_steps // (3 * first))}" if first > 1 else ""
        raise UserError(file, problem, remedy or f"trainer.val_every={max(1, config.trainer.max_steps // 9)}")
    return EarlyEnd(first * config.trainer.val_every, eta)


def _num_trials(file: Path, content: dict[str, Any], parameters: list[Parameter]) -> int:
    cap = content.get("run_cap")
    if content["method"] != "grid":
        if cap is None:
            raise UserError(file, f"run_cap: without it, method {content['method']} never ends", "run_cap: 24")
        return cap
    count = 1
    for parameter in parameters:
        values = parameter.values
        if "probabilities" in parameter.given:
            problem = f"parameters.{parameter.key}: a grid takes every value once"
            raise UserError(file, problem, "leave out probabilities, or method: random")
        if values is None:
            problem = f"parameters.{parameter.key}: {parameter.distribution} has no end of values for a grid"
            raise UserError(file, problem, "give values, or method: random")
        count *= len(values)
    if count > MAX_GRID and cap is None:
        raise UserError(file, f"a grid of {count:,} trials", f"fewer values, or run_cap: {MAX_GRID} or less")
    return min(count, cap or count)


def trial_config(sweep: Sweep, words: list[str]) -> StageConfig:
    """The configuration of a trial."""
    return load_config(sweep.stage.config_type, sweep.configs, [*sweep.words, *words])
