"""Where the figures and pictures of a run go: metrics.jsonl, samples/, Weights & Biases."""

import contextlib
import json
import math
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...models.files import write_json, written_aside
from ..stage import TrackingConfig
from .preemption import SIGNALS

OFFLINE, DISABLED, PROJECT = "offline", "disabled", "emohead"


class Journal:
    """Where the numbers of a run go: `metrics.jsonl` and, if it is on, one W&B run. Only rank 0 has one.

    A row is of a step and a kind (train or val): {"step": 40, "train/loss": 1.2, ...}. No row is ever there twice:
    those of steps that a resumed run does again are dropped from the file, and not sent to W&B a second time.
    """

    def __init__(self, run: Path, config: TrackingConfig, settings: dict[str, Any]) -> None:
        self.path = run / "metrics.jsonl"
        self.sent_file = run / "wandb" / "sent.json"
        self.wandb = start_wandb(config, run, settings)
        self.sent: dict[str, int] = json.loads(self.sent_file.read_text()) if self.sent_file.exists() else {}

    def forget_after(self, step: int) -> None:
        """Drop lines of steps that a resumed run will do again, and a last one that was cut off."""
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
            with written_aside(self.path) as partial:
                partial.write_text("".join(line + "\n" for line in kept))

    def has(self, kind: str, step: int) -> bool:
        """Whether there is such a row."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return any(_step(line) == step and f'"{kind}/' in line for line in lines)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        row = {f"{kind}/{name}": value for name, value in values.items()}
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step} | row) + "\n")
        self._send(kind, step, row)

    def write_picture(self, name: str, step: int, picture: np.ndarray) -> None:
        if self.wandb:
            import wandb

            self._send(name, step, {f"val/{name}": wandb.Image(picture)})

    def close(self) -> None:
        if self.wandb and self._ask(self.wandb.finish):
            leave_wandb()

    def _send(self, kind: str, step: int, row: dict[str, Any]) -> None:
        """Send a row to W&B once, also if a resumed run makes it again."""
        if not self.wandb or step <= self.sent.get(kind, 0) or not self._ask(self.wandb.log, row, step=step):
            return
        self.sent[kind] = step
        write_json(self.sent_file, self.sent)

    def _ask(self, call: Callable, *arguments: Any, **named: Any) -> bool:
        """A W&B that is gone costs a line, not the run: a scheduler that ends a job ends W&B's process with it."""
        try:
            call(*arguments, **named)
        except Exception as error:
            self.wandb = None
            leave_wandb()
            reason = type(error).__name__
            print(f"emohead: W&B does not answer ({reason}); {self.path} has all figures", file=sys.stderr)
            return False
        return True


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # cut off in the middle
        return math.inf


def wandb_settings(config: TrackingConfig, run: Path, environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The arguments for `wandb.init`, and a line for each variable of W&B that they override.

    W&B's own variables count unless the configuration says something else; only the run's id is always ours: every
    resume goes on with the same run. W&B reads those that are not named here by itself (entity, group, tags, notes).
    """
    id_file = run / "wandb" / "id"
    mode = config.wandb or environ.get("WANDB_MODE") or OFFLINE
    told = []
    for key, value, variable in (("wandb", config.wandb, "WANDB_MODE"), ("project", config.project, "WANDB_PROJECT")):
        if value and environ.get(variable, value) != value:
            told.append(f"tracking.{key}={value} is used, not {variable}={environ[variable]}")
    if "WANDB_RUN_ID" in environ:
        told.append(f"{id_file} is used, not WANDB_RUN_ID={environ['WANDB_RUN_ID']}")
    return {
        "project": config.project or environ.get("WANDB_PROJECT") or PROJECT,
        "name": environ.get("WANDB_NAME") or run.name,
        "dir": environ.get("WANDB_DIR") or run,
        "mode": mode,
        "resume": "allow" if mode == "online" else None,  # offline, the id makes it one run at `wandb sync`
    }, told


def start_wandb(config: TrackingConfig, run: Path, settings: dict[str, Any]) -> Any:
    """One W&B run per run folder: its id is kept there, so that every resume goes on with the same run."""
    given, told = wandb_settings(config, run, os.environ)
    for line in told:
        print(f"emohead: {line}", file=sys.stderr)
    if given["mode"] == DISABLED:
        return None
    import wandb

    id_file = run / "wandb" / "id"
    if not id_file.exists():
        id_file.parent.mkdir(parents=True, exist_ok=True)
        id_file.write_text(secrets.token_hex(8))
    # A scheduler's signal goes to all processes of a job: W&B's own, which starts here, must outlive it to the end.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        own: dict[str, Any] = {
            "id": id_file.read_text().strip(),
            "config": settings,
            "settings": wandb.Settings(silent=True),
        }
        return wandb.init(**given, **own)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_wandb() -> None:
    """End W&B's process now: left to the interpreter's exit, one that is gone prints a traceback there."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):  # what it had to say of figures, `finish` has said
        wandb.teardown()


def write_picture(path: Path, picture: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB -> a PNG, written aside and renamed."""
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    with written_aside(path) as partial:
        partial.write_bytes(encoded.tobytes())
