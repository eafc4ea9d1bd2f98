"""Exports of finished runs as W&B artifacts, with the graph of what each was made from.

W&B makes such edges only online. So a run that was tracked offline is sent with `wandb sync` first; then this adds its
artifacts to it. The plan needs no network; only `send` talks to W&B.

Each kind of export is one artifact (emotion, motion, talker, ...), a version of it for each run. An alias made of the
SHA-256 of the weights names the version, so that a run finds its parents by checksum, whoever pushed them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import CommError, UsageError

from ...models.checkpoint import load_checkpoint
from ...models.errors import UserError
from ..tracking import ONLINE, has_key
from .wandb_files import sync_command, unsent
from .wandb_run import PROJECT, init_wandb, leave_wandb

SHOWN = 16  # digits of a checksum in an alias


@dataclass(frozen=True)
class Export:
    """An artifact to be."""

    path: Path
    kind: str  # its name; its type is "model"
    sha256: str
    metadata: dict[str, Any]

    def aliases(self, run_id: str) -> list[str]:
        return ["latest", alias(self.sha256), f"run-{run_id}"]


@dataclass(frozen=True)
class Push:
    """What one run folder adds to its W&B run."""

    run: Path
    run_id: str
    project: str
    entity: str | None
    exports: list[Export]
    parents: dict[str, str]  # kind of an export that it was made from -> its SHA-256

    def edges(self) -> list[str]:
        """The parents as W&B's names for them."""
        return [f"{kind}:{alias(checksum)}" for kind, checksum in sorted(self.parents.items())]


def alias(checksum: str) -> str:
    return f"sha256-{checksum[:SHOWN]}"


def plan(runs: list[Path]) -> list[Push]:
    """What to send, parents before children.

    Raises UserError: a folder without a finished run, without a W&B run, or with offline folders not sent yet.
    """
    waiting = [plan_one(run) for run in runs]
    ordered: list[Push] = []
    while waiting:
        made = {export.sha256 for push in waiting for export in push.exports}
        # One is free always, unless runs hold copies of the same weights; then their order does not matter.
        free = next((push for push in waiting if not made & set(push.parents.values())), waiting[0])
        waiting.remove(free)
        ordered.append(free)
    return ordered


def plan_one(run: Path) -> Push:
    id_file, marks_file = run / "wandb" / "id", run / "wandb" / "sent.json"
    if not (id_file.is_file() and marks_file.is_file()):
        raise UserError(run, "has no W&B run", "train with tracking.wandb=offline or online")
    run_id, marks = id_file.read_text().strip(), json.loads(marks_file.read_text())
    files = sorted((run / "export").glob("*.safetensors"))
    if not files:
        raise UserError(run, "has no export yet", "finish the run first")
    if left := unsent(run):
        command = sync_command(left[0].parent, run_id, wandb.__version__)
        raise UserError(run, f"{len(left)} of its W&B folders are not sent yet", f"first: {command}")
    exports: list[Export] = []
    parents: dict[str, str] = {}
    for file in files:
        checkpoint = load_checkpoint(file)
        metadata = {"sha256": checkpoint.sha256, "config": checkpoint.config, "provenance": checkpoint.provenance}
        exports.append(Export(file, checkpoint.kind, checkpoint.sha256, metadata))
        parents |= checkpoint.provenance.get("inputs", {})
    return Push(run, run_id, marks.get("project") or PROJECT, marks.get("entity") or None, exports, parents)


def push_runs(planned: list[Push], say: Callable[[str], None]) -> None:
    """Send what was planned; say: is told of each artifact, and of parents that W&B does not have."""
    if not has_key():
        raise UserError("W&B", "there is no key to log in with", "`wandb login`, or set WANDB_API_KEY")
    for push in planned:
        try:
            send(push, say)
        except (CommError, UsageError) as error:
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise UserError(push.run, f"W&B did not take it ({reason})", "try again where there is network") from None
        finally:
            leave_wandb()


def send(push: Push, say: Callable[[str], None]) -> None:
    """Go on with the W&B run of a folder, and add its artifacts and edges."""
    given = {"id": push.run_id, "project": push.project, "entity": push.entity, "dir": str(push.run)}
    run = init_wandb(given | {"mode": ONLINE, "resume": "must"})
    for name in push.edges():
        try:
            run.use_artifact(name)
        except (CommError, ValueError):  # no such version there
            say(f"{push.run}: W&B has no {name}; push the run that made it, then this one again")
    for export in push.exports:
        artifact = wandb.Artifact(export.kind, type="model", metadata=export.metadata)
        artifact.add_file(str(export.path), name=export.path.name)
        run.log_artifact(artifact, aliases=export.aliases(push.run_id)).wait()
        say(f"{export.path} -> {export.kind}:{alias(export.sha256)}")
    run.finish()
