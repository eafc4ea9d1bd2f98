"""Arguments and options that several commands take, and the examples below their help."""

from pathlib import Path
from typing import Annotated, Optional

import typer

# Options that may be left out; typer reads these types at run time and knows no other spelling.
Word = Optional[str]  # noqa: UP045
Words = Optional[list[str]]  # noqa: UP045
Number = Optional[int]  # noqa: UP045
File = Optional[Path]  # noqa: UP045
Files = Optional[list[Path]]  # noqa: UP045

Codec = Annotated[str, typer.Option(help="mjpeg: fast random frames; h264: a fifth of the disk.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
Out = Annotated[Path, typer.Argument(help="Folder for the data set.")]


def examples(*commands: str) -> str:
    return "Examples:\n\n" + "\n\n".join(commands)
