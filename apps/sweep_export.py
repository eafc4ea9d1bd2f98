"""`emohead sweep export`: the trials of a sweep to W&B, which has them in one group."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import wandb

from ..models.errors import Failure, UserError
from ..trainers.run.wandb_files import sync_command, unsent
from ..trainers.run.wandb_push import plan, push_runs
from ..trainers.sweeps.study import read_folder
from ..trainers.sweeps.summary import summarise
from ..trainers.tracking import has_key

ENDED = ("done", "ended early", "failed")


def export_sweep(path: Path, *, dry_run: bool, say: Callable[[str], None]) -> None:
    """Send what trials that have ended wrote offline, then the exports of those that ran to their end.

    Raises:
        UserError: there is no sweep, no trial of it was tracked, or no key to log in with.
        Failure: `wandb sync` failed.
    """
    folder = read_folder(path)
    rows = [row for row in summarise(folder, folder.open()).rows if row.state in ENDED]
    tracked = [row for row in rows if (folder.run(row.number) / "wandb" / "id").is_file()]
    if not tracked:
        raise UserError(path, "no trial that has ended was tracked by W&B", "tracking.wandb=offline is the default")
    commands = [command for row in tracked for command in sync_of(folder.run(row.number))]
    done = [folder.run(row.number) for row in tracked if row.state == "done"]
    if dry_run:
        for command in commands:
            say(command)
        say(f"emohead wandb push {' '.join(map(str, done))}")
        return
    if not has_key():
        raise UserError("W&B", "there is no key to log in with", "`wandb login`, or set WANDB_API_KEY")
    for number, command in enumerate(commands, start=1):
        say(f"{number} of {len(commands)}: {command}")
        if subprocess.run(["sh", "-c", command]).returncode:
            raise Failure(f"{command}: failed; the same command goes on with those that were not sent")
    push_runs(plan(done), say)


def sync_of(run: Path) -> list[str]:
    """The `wandb sync` of a run folder, if it has offline folders that were not sent."""
    left = unsent(run)
    return [sync_command(left[0].parent, (run / "wandb" / "id").read_text().strip(), wandb.__version__)] if left else []
