"""Arguments and options that several commands take, and the examples below their help."""

from pathlib import Path
from typing import Annotated

import typer

Codec = Annotated[str, typer.Option(help="mjpeg: fast random frames; h264: a fifth of the disk.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
Out = Annotated[Path, typer.Argument(help="Folder for the data set.")]


def examples(*commands: str) -> str:
    return "Examples:\n\n" + "\n\n".join(commands)
