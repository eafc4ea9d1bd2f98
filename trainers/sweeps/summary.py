"""How a sweep stands: its trials, the best of them, what mattered, how fast it goes."""

import math
import time
import warnings
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from ...models.lock import SILENCE
from .leases import Held, read
from .parameters import QUANTILE
from .study import REASON, SETTINGS, Folder, best

LAST = 16  # ended trials by which the pace is told
ENOUGH = 8  # ended trials from which on it is told what mattered

STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "ended early",
    TrialState.RUNNING: "running",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}


class Row(NamedTuple):
    """One trial."""

    number: int
    state: str  # of STATES, or "left": begun, and nobody is at it
    settings: dict[str, Any]
    value: float | None
    step: int  # of its last validation
    curve: dict[int, float]  # step -> value
    seconds: float | None
    where: str  # host and process of its worker
    reason: str  # why it failed


class Summary(NamedTuple):
    folder: Folder
    rows: list[Row]
    best: Row | None
    importance: dict[str, float]  # share of a good result that a parameter explains, the greatest first
    an_hour: float | None  # trials that end in an hour

    def count(self, state: str) -> int:
        return sum(row.state == state for row in self.rows)

    @property
    def reached(self) -> bool:
        """Whether a trial has the value at which no further one begins."""
        target, found = self.folder.sweep.target, self.best and self.best.value
        if target is None or found is None:
            return False
        return found >= target if self.folder.sweep.maximize else found <= target

    @property
    def going_on(self) -> bool:
        return bool(self.count("running") + self.count("left") + (0 if self.reached else self.count("waiting")))

    @property
    def hours_left(self) -> float | None:
        left = self.count("running") + self.count("left") + (0 if self.reached else self.count("waiting"))
        return left / self.an_hour if self.an_hour and left else None

    def as_json(self) -> dict[str, Any]:
        """What programs read."""
        return {
            "folder": str(self.folder.path),
            "metric": self.folder.sweep.metric,
            "goal": "maximize" if self.folder.sweep.maximize else "minimize",
            "states": {state: self.count(state) for state in (*STATES.values(), "left")},
            "best": self.best and self.best.number,
            "importance": self.importance,
            "trials_an_hour": self.an_hour,
            "trials": [row._asdict() | {"curve": [list(point) for point in row.curve.items()]} for row in self.rows],
        }


def summarise(folder: Folder, study: optuna.Study) -> Summary:
    rows = [row_of(folder, trial) for trial in study.get_trials(deepcopy=False)]
    first = best(study)
    return Summary(folder, rows, rows[first.number] if first else None, importance(study), rate(study))


def row_of(folder: Folder, trial: FrozenTrial) -> Row:
    held = worker_of(folder, trial.number) if trial.state == TrialState.RUNNING else None
    state = STATES[trial.state] if held or trial.state != TrialState.RUNNING else "left"
    seconds = trial.duration.total_seconds() if trial.duration else None
    curve = {step: value for step, value in sorted(trial.intermediate_values.items()) if math.isfinite(value)}
    return Row(
        number=trial.number,
        state=state,
        settings=trial.user_attrs.get(SETTINGS, {}),
        value=trial.value if trial.state == TrialState.COMPLETE else next(reversed(curve.values()), None),
        step=max(curve, default=0),
        curve=curve,
        seconds=seconds,
        where=f"{held.owner.host}:{held.owner.pid}" if held and held.owner else "",
        reason=trial.user_attrs.get(REASON, ""),
    )


def worker_of(folder: Folder, number: int) -> Held | None:
    """The lease of a trial's worker, if that lives as far as can be seen at once: by this machine's clock."""
    held = read(folder.path / "leases" / f"{number:04d}")
    if held is None or held.owner is None or held.owner.lives is False:
        return None
    return held if held.owner.lives or time.time() - held.touched / 1e9 < SILENCE else None


def importance(study: optuna.Study) -> dict[str, float]:
    """PED-ANOVA (arXiv:2304.10255): by how much the best trials' values of a parameter differ from all trials'."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if len(ended) < ENOUGH:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(evaluate_on_local=False))
        except (ValueError, RuntimeError):  # too few that ran to their end
            return {}
    return {name.removesuffix(QUANTILE): share for name, share in found.items() if math.isfinite(share)}


def rate(study: optuna.Study) -> float | None:
    """Trials that end in an hour, by the last ones."""
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.datetime_start and trial.datetime_complete]
    ended = sorted(ended, key=lambda trial: trial.datetime_complete or datetime.min)[-LAST:]
    starts = [trial.datetime_start for trial in ended if trial.datetime_start]
    ends = [trial.datetime_complete for trial in ended if trial.datetime_complete]
    if not ends or max(ends) - min(starts) < timedelta(seconds=1):
        return None
    return len(ends) / (max(ends) - min(starts)).total_seconds() * 3600
