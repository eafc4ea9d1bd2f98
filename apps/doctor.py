"""`emohead doctor`: names the faults of a run before it takes a GPU, and what to write instead."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..trainers.doctor.examine import examine
from ..trainers.doctor.finding import Finding

COLOURS = {"ok": "green", "warning": "yellow", "wrong": "bold red"}
LONGEST = 10_000  # characters of a line in a log


def diagnose(stage: str, files: list[Path], overrides: list[str]) -> int:
    """Print what all checks found, and return how many settings are wrong."""
    findings = examine(stage, files, overrides)
    console = Console()
    table = as_table(findings)
    if not console.is_terminal:  # in a job's log a line stays a line, so that it can be copied
        unlimited = console.options.update(width=LONGEST)
        console.width = max(console.width, console.measure(table, options=unlimited).maximum)
    console.print(table)
    return sum(finding.state == "wrong" for finding in findings)


def as_table(findings: list[Finding]) -> Table:
    table = Table()
    for column in ("check", "", "found", "write instead"):
        table.add_column(column, overflow="fold")
    for f in findings:
        table.add_row(f.check, Text(f.state, COLOURS[f.state]), Text(f.found), Text(f.remedy))
    return table
