"""`emohead runs`: a table of the run folders below a folder."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..trainers.run.folder import RunFacts, facts_of, find_runs
from .json_output import only_json, print_json
from .tables import print_table

COLOURS = {"running": "green", "queued": "cyan", "failed": "bold red", "killed": "red", "done": "bold"}


def show_runs(folder: Path, *, json: bool) -> None:
    """Print what there is to say of all runs at or below a folder."""
    with only_json(json):
        runs = facts_of(find_runs(folder))
    if json:
        print_json([as_document(run) for run in runs])
        return
    if not runs:
        print(f"emohead: no run folders at or below {folder}", file=sys.stderr)
        return
    print_table(as_table(folder, runs))
    if any(run.estimated for run in runs):
        print("~ a leg was killed: its end is taken from the newest file of the run folder")
    for run in runs:
        if run.error:
            print(f"{name_of(run.folder, folder)}: {run.error}")


def as_document(run: RunFacts) -> dict[str, Any]:
    return asdict(run) | {"folder": str(run.folder)}


def as_table(folder: Path, runs: list[RunFacts]) -> Table:
    table = Table()
    for column in ("run", "stage", "status", "step", "best", "started from", "hours", "W&B"):
        table.add_column(column, overflow="fold", justify="right" if column in ("step", "hours") else "left")
    for run in runs:
        best = f"{run.monitor} {run.best:.4g} at {run.best_step}" if run.best is not None else "–"
        parents = ", ".join(parent_name(Path(file), folder) for file in run.parents.values())
        cells = (steps_of(run), best, parents or "–", hours_of(run), run.wandb or "–")
        status = Text(run.status, COLOURS.get(run.status, ""))
        table.add_row(name_of(run.folder, folder), run.stage or "–", status, *map(Text, cells))
    return table


def steps_of(run: RunFacts) -> str:
    return f"{run.step}/{run.max_steps if run.max_steps is not None else '?'}"


def hours_of(run: RunFacts) -> str:
    """Hours of all legs, such as "12.5 GPU"; with ~ if a leg's end is a guess."""
    told = ", ".join(f"{hours:.3g} {kind}" for kind, hours in run.hours.items())
    return f"~{told}" if run.estimated else told or "–"


def name_of(run: Path, folder: Path) -> str:
    """A run folder as seen from the one that was searched."""
    return os.path.relpath(run, folder) if run != folder else run.name or str(run)


def parent_name(export: Path, folder: Path) -> str:
    """The run folder of an export, if it lies below the one that was searched; else the file."""
    run = export.parent.parent if export.parent.name == "export" else export
    inside = Path(os.path.abspath(run)).is_relative_to(os.path.abspath(folder))
    return os.path.relpath(run, folder) if inside else str(export)
