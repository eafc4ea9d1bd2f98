"""`emohead sweep status`: how a sweep stands, as a table that follows it while it goes on."""

import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..trainers.sweeps.study import read_folder
from ..trainers.sweeps.summary import Row, Summary, summarise
from .json_output import print_json
from .report_parts import duration
from .tables import LONGEST

REFRESH = 2.0  # seconds
SHOWN = 30  # trials in the table: those that run, then the best
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "left": "yellow"}


def show_status(path: Path, *, json: bool) -> None:
    """In a terminal it is shown anew until the sweep ends; elsewhere once."""
    folder = read_folder(path)
    study = folder.open()
    if json:
        print_json(summarise(folder, study).as_json())
        return
    console = Console()
    summary = summarise(folder, study)
    if not console.is_terminal:
        console.width = LONGEST
        console.print(table(summary), soft_wrap=True)
        return
    with Live(table(summary), console=console, auto_refresh=False) as live:
        while summary.going_on:
            time.sleep(REFRESH)
            summary = summarise(folder, study)
            live.update(table(summary), refresh=True)


def table(summary: Summary) -> Group:
    sweep = summary.folder.sweep
    keys = [parameter.key for parameter in sweep.parameters if parameter.distribution != "constant"]
    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", "state", "step", sweep.metric, *keys, "time"):
        found.add_column(name, justify="left" if name == "state" else "right")
    for row in chosen(summary):
        colour = "bold green" if row is summary.best else COLOURS.get(row.state, "")
        found.add_row(str(row.number), row.state, *cells(row, keys), style=colour)
    return Group(Text(headline(summary)), Text(), found, *(Text(line) for line in below(summary)))


def cells(row: Row, keys: list[str]) -> list[str]:
    values = [row.settings.get(key, "") for key in keys]
    shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    taken = row.where if row.state == "running" else duration(row.seconds) if row.seconds else ""
    return [str(row.step or ""), "" if row.value is None else f"{row.value:.5g}", *shown, taken]


def chosen(summary: Summary) -> list[Row]:
    """Those that are at work, then those that ended, the best first."""
    sign = -1 if summary.folder.sweep.maximize else 1
    at_work = [row for row in summary.rows if row.state in ("running", "left")]
    done = sorted((row for row in summary.rows if row.state == "done"), key=lambda row: sign * (row.value or 0.0))
    rest = [row for row in summary.rows if row.state in ("failed", "ended early")]
    return [*at_work, *done, *rest][:SHOWN]


def headline(summary: Summary) -> str:
    states = ("done", "ended early", "running", "left", "failed", "waiting")
    counts = ", ".join(f"{summary.count(state)} {state}" for state in states if summary.count(state))
    pace = f"; {summary.an_hour:.3g} trials an hour" if summary.an_hour else ""
    left = f", {duration(summary.hours_left * 3600)} left" if summary.hours_left else ""
    return (
        f"{summary.folder.path}: {len(summary.rows)} trials of {summary.folder.sweep.stage.name}: {counts}{pace}{left}"
    )


def below(summary: Summary) -> list[str]:
    lines = [""]
    if summary.best:
        settings = " ".join(f"{key}={value}" for key, value in summary.best.settings.items())
        lines.append(
            f"best: trial {summary.best.number}, {summary.folder.sweep.metric} {summary.best.value:.6g}: {settings}"
        )
    if summary.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in summary.importance.items())
        lines.append(f"what mattered: {shares}")
    lines += [f"trial {row.number} failed: {row.reason}" for row in summary.rows if row.reason]
    if summary.count("left"):
        lines.append("left: begun, and no worker is at it; the next worker goes on with it")
    return lines
