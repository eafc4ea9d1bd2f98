"""A trial as its training process sees it: it reports each validation, and may be told that it need not go on.

A worker starts `emohead train` with the trial in its environment. Nothing else of a run knows of sweeps.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...models.files import write_json
from ..run.pruning import VERDICT, Watch
from .early_end import EarlyEnd, pruner

TRIAL = "EMOHEAD_TRIAL"
STUDY = "sweep"  # name of the one study in a sweep's folder


@dataclass(frozen=True)
class Trial:
    """What the process of a trial has to know of its sweep."""

    folder: str  # of the sweep
    run: str  # folder of the trial
    number: int
    metric: str
    last_step: int
    early_end: EarlyEnd | None

    def to_environment(self) -> dict[str, str]:
        return {TRIAL: json.dumps(asdict(self))}


def watch(environ: Mapping[str, str] = os.environ) -> Watch | None:
    """What is called after each validation of this process's run; None if it is no trial."""
    if TRIAL not in environ:
        return None
    told = json.loads(environ[TRIAL])
    return Reporter(Trial(**told | {"early_end": told["early_end"] and EarlyEnd(**told["early_end"])}))


class Reporter:
    """Reports validations to the study, on rank 0 only. The study is opened at the first: that takes a second."""

    def __init__(self, told: Trial) -> None:
        self.told = told
        self.trial: Any = None

    def __call__(self, step: int, values: dict[str, float]) -> str | None:
        if self.trial is None:
            self.trial = self._open()
        told, value = self.told, values[self.told.metric]
        if step not in self._known(self.trial.study).intermediate_values:  # a resumed run may validate a step again
            self.trial.report(value, step)
        if step >= told.last_step or told.early_end is None:
            return None
        if math.isfinite(value) and not self.trial.should_prune():
            return None
        why = f"{told.metric} {value:.4g} at step {step}"
        write_json(Path(told.run) / VERDICT, {"step": step, "reason": why})
        return why

    def _open(self) -> Any:
        import optuna

        from .journal import open_storage

        storage, early_end = open_storage(Path(self.told.folder)), self.told.early_end
        study = optuna.load_study(study_name=STUDY, storage=storage, pruner=pruner(early_end))
        return optuna.Trial(study, self._known(study)._trial_id)

    def _known(self, study: Any) -> Any:
        return study.get_trials(deepcopy=False)[self.told.number]


def verdict(run: Path) -> dict[str, Any] | None:
    """What stands in the run folder of a trial that was told to end."""
    try:
        return json.loads((run / VERDICT).read_text())
    except (OSError, ValueError):
        return None
