"""What a check of a setting found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "wrong"]


@dataclass
class Finding:
    check: str  # what was looked at, a word or two
    state: State  # wrong: training would fail, or do something else than it says
    found: str
    remedy: str = ""  # what to write instead, or to do


def refusal(check: str, error: Exception, otherwise: str = "correct that value") -> Finding:
    """What a UserError says: its words up to the first semicolon are the problem, the rest is the remedy.

    `otherwise` is the remedy where the error names none.
    """
    problem, _, remedy = " ".join(str(error).split()).partition("; ")
    return Finding(check, "wrong", problem, remedy or otherwise)
