"""One Weights & Biases run for each run folder, through all restarts: rows, pictures, alerts, how it ended.

A leg is one process of a run, from its start to its end or preemption. Offline each leg writes a folder of its own,
and `wandb sync` makes one run of them, since they have one id. A row is sent once, also if a resumed run makes it
again; one that a killed process has not got onto the disk is sent again from metrics.jsonl.
"""

import contextlib
import json
import math
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...models.errors import Failure, UserError
from ...models.files import write_json
from ..tracking import DISABLED, OFFLINE, ONLINE, TrackingConfig, mode, trial
from .preemption import INTERRUPTED, SIGNALS, Preempted
from .pruning import Pruned
from .sinks import Row
from .wandb_files import folders, last_folder, sync_command, unsent, written

PROJECT = "emohead"
FLUSH = 1.0  # seconds between writes of W&B's file; a process that is killed loses what is younger
TITLE = 64  # characters of an alert's title
VARIABLES = {"project": "WANDB_PROJECT", "entity": "WANDB_ENTITY", "group": "WANDB_RUN_GROUP", "tags": "WANDB_TAGS"}
VARIABLES |= {"notes": "WANDB_NOTES", "job_type": "WANDB_JOB_TYPE", "wandb": "WANDB_MODE"}
Level = Literal["INFO", "WARN", "ERROR"]
Say = Callable[[str], None]


class WandbRun:
    """What a run tells W&B. If W&B is off or dies, nothing here does anything, and the run goes on."""

    def __init__(
        self,
        run: Path,
        config: TrackingConfig,
        settings: dict[str, Any],  # W&B's configuration of the run
        *,
        stage: str,
        monitor: str,  # the metric of which the best counts, with - if less is better
        say: Say | None,  # told at the end where the run is to be seen; None: nobody is told
    ) -> None:
        self.name, self.monitor, self.say = run.name, monitor, say
        self.sent_file = run / "wandb" / "sent.json"
        self.run = start_run(run, config, settings, stage=stage)
        self.sent: dict[str, int] = {}  # name of a figure or picture -> last step that W&B has
        self.floor = -1  # and the last step of which W&B has whatever it is called
        self.defined: set[str] = set()
        self.best: dict[str, dict[str, float]] = {}  # name -> {"min": …} or {"max": …}, over all legs
        if self.run:
            self._read_marks()
            self._ask(self.run.define_metric, "step", hidden=True)
        self.at = max(self.floor, *self.sent.values(), -1) + 1  # the least step that W&B takes

    def go_on(self, rows: list[Row], step: int) -> None:
        """Send what W&B lacks of the rows that stand, and set a summary of them: a leg knows only its own rows."""
        summary: dict[str, Any] = {}
        for row in rows:
            self.write(row)
            summary |= {name: self.best.get(name, value) for name, value in row.items()}
        if summary and self.run:
            self._ask(self.run.summary.update, summary)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if (how := self._summary(name)) and math.isfinite(value):
                before = self.best.get(name, {}).get(how, value)
                self.best[name] = {how: min(before, value) if how == "min" else max(before, value)}
        self._send(row["step"], {name: value for name, value in row.items() if self._lacks(name, row["step"])})

    def write_picture(self, name: str, step: int, picture: np.ndarray) -> None:
        """Send a picture (H, W, 3), uint8 RGB."""
        if self._lacks(name, step):
            import wandb

            self._send(step, {name: wandb.Image(picture)})

    def write_video(self, name: str, step: int, path: Path) -> None:
        """Send an .mp4, of which W&B keeps a copy."""
        if self._lacks(name, step):
            import wandb

            self._send(step, {name: wandb.Video(str(path), format="mp4")})

    def write_table(self, name: str, step: int, columns: list[str], rows: list[list[Any]]) -> None:
        if self._lacks(name, step):
            import wandb

            self._send(step, {name: wandb.Table(columns=[*columns], data=rows)})

    def alert(self, what: str, text: str, level: Level) -> None:
        if self.run:
            self._ask(self.run.alert, f"{self.name}: {what}"[:TITLE], text, level=level)

    def close(self, error: BaseException | None = None) -> None:
        """End the leg; error: what the run ended with."""
        error = None if isinstance(error, Pruned) else error  # which is a good end
        if self.run and isinstance(error, Preempted) and not error.by_hand:
            self.alert("preempted", str(error), "INFO")
        elif self.run and isinstance(error, Exception) and not isinstance(error, Preempted):
            self.alert("failed", f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000], "ERROR")
        if self.run and isinstance(error, Preempted) and not error.by_hand:
            self._ask(self.run.mark_preempting)  # so that a sweep gives the trial to the next agent
        if self.run and self.best:
            self._ask(self.run.log, {}, step=self.at, commit=True)  # else the last row would set the summary after this
        if self.run and self.best:
            self._ask(self.run.summary.update, self.best)
        if self.run and self._ask(self.run.finish, exit_code=exit_code(error)):
            self._write_marks(closed=True)
            self._say_where()
            leave_wandb()

    # ------------------------------------------------------------------------------------------ rows, once

    def _lacks(self, name: str, step: int) -> bool:
        return bool(self.run) and name != "step" and step > max(self.floor, self.sent.get(name, -1))

    def _send(self, step: int, values: dict[str, Any]) -> None:
        for name in values.keys() - self.defined:
            if not self.run:
                return
            self.defined.add(name)
            self._ask(self.run.define_metric, name, step_metric="step", summary=self._summary(name))
        self.at = max(self.at, step)
        if self.run and values and self._ask(self.run.log, {"step": step} | values, step=self.at):
            self.sent |= dict.fromkeys(values, step)

    def _summary(self, name: str) -> str | None:
        """How W&B is to sum a metric up; None: by its last value."""
        if name == self.monitor.removeprefix("-"):
            return "min" if self.monitor.startswith("-") else "max"
        return "min" if name.endswith(("/loss", "_loss")) else None

    def _read_marks(self) -> None:
        """What W&B has of earlier legs. The files of the last one say so, for its process may have been killed."""
        stored = json.loads(self.sent_file.read_text()) if self.sent_file.exists() else {}
        own = Path(self.run.settings.sync_dir)
        last = last_folder(self.sent_file, stored)
        left = [last] if last else folders(own.parent, self.run.id)
        self.sent = stored.get("sent", {})
        for folder in left:
            if folder != own:
                self.sent |= {name: max(step, self.sent.get(name, -1)) for name, step in written(folder).items()}
        if self.run.settings.mode == ONLINE and (not stored.get("closed") or unsent(self.sent_file.parent.parent)):
            self.sent, self.floor = {}, int(self.run.starting_step) - 1  # what W&B's server has
        self._write_marks(closed=False)

    def _write_marks(self, *, closed: bool) -> None:
        where = {"project": self.run.project, "entity": self.run.entity, "folder": self.run.settings.sync_dir}
        write_json(self.sent_file, where | {"closed": closed, "sent": self.sent})

    # ------------------------------------------------------------------------------------------ W&B itself

    def _ask(self, call: Callable, *arguments: Any, **named: Any) -> bool:
        """A W&B that is gone costs a line, not the run: a scheduler that ends a job ends W&B's process with it."""
        try:
            call(*arguments, **named)
        except Exception as error:
            self.run = None
            leave_wandb()
            reason, file = type(error).__name__, self.sent_file.parent.parent / "metrics.jsonl"
            print(f"emohead: W&B does not answer ({reason}); {file} has all figures", file=sys.stderr)
            return False
        return True

    def _say_where(self) -> None:
        if not self.say or not self.sent:
            return
        if self.run.settings.mode == ONLINE:
            self.say(f"W&B: {self.run.url}")
            return
        import wandb

        parent = Path(self.run.settings.sync_dir).parent
        self.say(f"to send the run to W&B: {sync_command(parent, self.run.id, wandb.__version__)}")


def exit_code(error: BaseException | None) -> int:
    """The exit code of a run that ended so, as W&B is told: all but 0 is a run that failed or was stopped."""
    if isinstance(error, Preempted):
        return error.exit_code
    if error is None:
        return 0
    return 1 if isinstance(error, Exception) else INTERRUPTED


def wandb_settings(
    config: TrackingConfig, run: Path, environ: Mapping[str, str], *, stage: str
) -> tuple[dict[str, Any], list[str]]:
    """The arguments for `wandb.init`, and a line for each variable of W&B that they override.

    W&B's own variables count unless the configuration says something else; W&B reads those that are None here by
    itself. Only the run's id is always ours, or an agent's: every resume goes on with the same run.
    """
    told = []
    for key, variable in VARIABLES.items():
        value = getattr(config, key)
        shown = ",".join(value) if isinstance(value, list) else value
        if value and environ.get(variable, shown) != shown:
            told.append(f"tracking.{key}={shown} is used, not {variable}={environ[variable]}")
    if "WANDB_RUN_ID" in environ and not trial(environ):
        told.append(f"{run / 'wandb' / 'id'} is used, not WANDB_RUN_ID={environ['WANDB_RUN_ID']}")
    chosen = mode(config, environ)
    return {
        "project": config.project or environ.get("WANDB_PROJECT") or PROJECT,
        "entity": config.entity or None,
        "group": config.group or environ.get("WANDB_RUN_GROUP") or group_of(run, stage, environ),
        "tags": config.tags or None,
        "notes": config.notes or None,
        "job_type": config.job_type or environ.get("WANDB_JOB_TYPE") or stage,
        "name": environ.get("WANDB_NAME") or run.name,
        "dir": environ.get("WANDB_DIR") or run,
        "mode": chosen,
        "resume": "allow" if chosen == ONLINE else None,  # offline, the id makes it one run at `wandb sync`
    }, told


def group_of(run: Path, stage: str, environ: Mapping[str, str]) -> str | None:
    """The folder around a trial of a sweep, or around the run of a chain (mead of runs/mead/emotion); else None."""
    folder = run.absolute().parent.name
    if trial(environ):
        return folder
    return folder if run.name == stage and folder not in ("", "runs") else None


def start_run(run: Path, config: TrackingConfig, settings: dict[str, Any], *, stage: str) -> Any:
    """Start or go on with the W&B run of a run folder; None if W&B is off."""
    given, told = wandb_settings(config, run, os.environ, stage=stage)
    for line in told:
        print(f"emohead: {line}", file=sys.stderr)
    if given["mode"] == DISABLED:
        return None
    id_file = run / "wandb" / "id"
    if not id_file.exists():
        id_file.parent.mkdir(parents=True, exist_ok=True)
        id_file.write_text(trial(os.environ) or secrets.token_hex(8))
    return start_wandb(given | {"id": id_file.read_text().strip(), "config": settings})


def start_wandb(given: dict[str, Any]) -> Any:
    """Start a W&B run; offline, if its server does not answer. Raises UserError if it does not let us in."""
    from wandb.errors import AuthenticationError, CommError, UsageError

    try:
        return init_wandb(given)
    except (UsageError, AuthenticationError, ValueError) as error:  # the last of a setting that W&B does not take
        reason = " ".join(str(error).split())[:200].rstrip(".")
        remedy = "or set tracking.wandb=offline" if given["mode"] == ONLINE else "correct it, or WANDB_…, or tracking"
        raise UserError(f"W&B ({given['mode']})", reason, remedy) from None
    except CommError as error:
        if trial(os.environ):
            raise Failure(f"W&B does not answer, which a trial of a sweep needs ({type(error).__name__})") from None
        leave_wandb()  # the process that holds the run's id
        print("emohead: W&B's server does not answer; this run goes on offline", file=sys.stderr)
        return init_wandb(given | {"mode": OFFLINE, "resume": None})


def init_wandb(given: dict[str, Any]) -> Any:
    """`wandb.init`, whose process outlives a scheduler's signals: they go to all processes of a job."""
    import wandb

    own: dict[str, Any] = {"silent": True, "x_transaction_log_flush_interval": FLUSH}
    known = wandb.Settings.model_fields  # versions before 0.31 lack the second
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return wandb.init(
            **given,
            allow_val_change=True,  # a resumed run may have another host, job or setting of `trainer`
            settings=wandb.Settings(**{name: value for name, value in own.items() if name in known}),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_wandb() -> None:
    """End W&B's process now: left to the interpreter's exit, one that is gone prints a traceback there."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):  # what it had to say of figures, `finish` has said
        wandb.teardown()
