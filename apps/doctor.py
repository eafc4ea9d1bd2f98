"""`emohead doctor`: names the faults of a run before it takes a GPU, and what to write instead."""

from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ..trainers.doctor.examine import examine
from ..trainers.doctor.finding import Finding
from .json_output import only_json, print_json
from .tables import print_table

COLOURS = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


def diagnose(stage: str, files: list[Path], overrides: list[str], *, json: bool = False) -> int:
    """Print what all checks found, and return how many settings are wrong."""
    with only_json(json):
        findings = examine(stage, files, overrides)
    wrong = sum(finding.state == "wrong" for finding in findings)
    if json:
        print_json({"wrong": wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        print_table(as_table(findings))
    return wrong


def as_table(findings: list[Finding]) -> Table:
    table = Table()
    for column in ("check", "", "found", "write instead"):
        table.add_column(column, overflow="fold")
    for f in findings:
        table.add_row(f.check, Text(f.state, COLOURS[f.state]), Text(f.found), Text(f.remedy))
    return table
