"""The commands below `emohead runs`. What they do is in runs.py and runs_compare.py, imported when one of them runs."""

from pathlib import Path
from typing import Annotated

import typer

from ..models.errors import UserError
from .arguments import File, Json, WithDefault, examples

runs = typer.Typer(
    cls=WithDefault,
    help="Look at run folders: emohead runs DIR, or emohead runs compare A B.",
    epilog=examples("emohead runs runs/", "emohead runs compare runs/face runs/face-wide --out compare.html"),
    no_args_is_help=True,
)


@runs.command("list", epilog=examples("emohead runs runs/", "emohead runs list runs/ --json"))
def runs_list(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Searched through for run folders.")],
    json: Json = False,
) -> None:
    """Status, steps, best metric, parents and hours of every run below DIR. `emohead runs DIR` means this one."""
    if not folder.is_dir():
        raise UserError(folder, "no such folder", "give one that holds run folders, such as runs/")
    from .runs import show_runs

    show_runs(folder, json=json)


@runs.command(
    "compare",
    epilog=examples(
        "emohead runs compare runs/face runs/face-wide",
        "emohead runs compare runs/face runs/face-wide --out compare.html",
    ),
)
def runs_compare(
    folders: Annotated[list[Path], typer.Argument(metavar="A B...", help="Two or more run folders.")],
    out: Annotated[File, typer.Option(help="Page with the curves too, one .html that opens offline.")] = None,
    json: Json = False,
) -> None:
    """The configuration keys that differ between runs, and their final metrics side by side."""
    if len(folders) < 2:
        raise UserError("runs compare", "one run folder", "give two or more")
    from .runs_compare import compare

    compare(folders, out=out, json=json)
