"""The commands below `emohead wandb`. What they do is in trainers/run, which is imported when one of them runs."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import examples

wandb_commands = typer.Typer(help="Exports as Weights & Biases artifacts.", no_args_is_help=True)


@wandb_commands.callback()
def options() -> None:
    """Exports as Weights & Biases artifacts."""


@wandb_commands.command(
    "push",
    epilog=examples("emohead wandb push runs/mead/emotion runs/mead/face", "emohead wandb push runs/mead/distill"),
)
def wandb_push(
    runs: Annotated[list[Path], typer.Argument(help="Run folders that have ended.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; needs no network.")] = False,
) -> None:
    """Add the exports of runs to their W&B runs as artifacts, and what they were made from as their inputs.

    Runs that were tracked offline are sent with `wandb sync` first.
    """
    from ..trainers.run.wandb_push import alias, plan, push_runs

    planned = plan(runs)
    if not dry_run:
        push_runs(planned, typer.echo)
        return
    for push in planned:
        for export in push.exports:
            typer.echo(f"{export.path} -> {export.kind}:{alias(export.sha256)}")
        for name in push.edges():
            typer.echo(f"{push.run} <- {name}")
