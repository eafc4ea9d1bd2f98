"""The finding of a check of a setting."""

from dataclasses import dataclass
from typing import Literal

from ...models.errors import UserError

State = Literal["ok", "warning", "wrong"]


@dataclass
class Finding:
    check: str  # what was looked at, a word or two
    state: State  # wrong: training would fail, or do something else than it says
    found: str
    remedy: str = ""  # what to write instead, or to do


def refusal(check: str, error: Exception, otherwise: str = "correct that value") -> Finding:
    """An error as a finding; `otherwise` is the remedy if the error names none."""
    if not isinstance(error, UserError):
        return Finding(check, "wrong", in_one_line(error), otherwise)
    return Finding(
        check, "wrong", in_one_line(f"{error.where}: {error.problem}"), in_one_line(error.remedy or otherwise)
    )


def in_one_line(words: object) -> str:
    return " ".join(str(words).split())
