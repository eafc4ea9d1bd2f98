"""The commands below `emohead sweep`. What they do is imported when one of them runs."""

import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer

from ..models.ranges import MAX_SEED
from .arguments import File, Json, WithDefault, Words, examples, literal


class SweepCommands(WithDefault):
    """`emohead sweep FILE` is `emohead sweep run FILE`."""

    default = "run"


sweep = typer.Typer(
    cls=SweepCommands,
    help="Hyperparameter sweeps without a server: FILE starts a worker on a sweep file in W&B's format.",
    epilog=examples(
        "emohead sweep motion-debug --out runs/sweeps/motion",
        "emohead sweep status runs/sweeps/motion",
        "emohead sweep report runs/sweeps/motion",
    ),
    no_args_is_help=True,
)
SweepFolder = Annotated[Path, typer.Argument(help="The folder of a sweep.")]


@sweep.command("run", epilog=examples("emohead sweep motion-debug --out runs/sweeps/motion"))
def run(
    file: Annotated[Path, typer.Argument(help="A sweep file, or a shipped name such as motion-debug.")],
    more: Annotated[
        Words, typer.Argument(help=literal("key=value for every trial, such as 'data.shards=[data/mine]'."))
    ] = None,
    out: Annotated[File, typer.Option(help="The sweep's folder; default: runs/sweeps/NAME.")] = None,
    launch: Annotated[str, typer.Option(help="Words before each trial's command, such as 'srun --nodes 2'.")] = "",
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the draws.")] = 0,
    max_failures: Annotated[int, typer.Option(min=0, help="Trials that may fail before the sweep stops.")] = 3,
) -> None:
    """A worker on a sweep: trains one trial after another. Start as many as you like, on any machine, at any time.

    Killed, preempted or stopped, the same command goes on. Exit code 75 asks for that.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM))  # until it can save
    from ..trainers.sweeps.file import read_sweep
    from ..trainers.sweeps.inputs import check_inputs
    from ..trainers.sweeps.study import begin
    from ..trainers.sweeps.worker import Worker

    path = out or Path("runs/sweeps") / file.stem
    check_inputs(read_sweep(file, more or []))
    folder = begin(file, path, more or [], seed)
    code = Worker(folder, launch=shlex.split(launch), max_failures=max_failures).work()
    if code:
        raise typer.Exit(code)


@sweep.command("status", epilog=examples("emohead sweep status runs/sweeps/motion"))
def status(folder: SweepFolder, json: Json = False) -> None:
    """Trials and their states, the best so far, what mattered, the pace. In a terminal it follows the sweep."""
    from .sweep_status import show_status

    show_status(folder, json=json)


@sweep.command("report", epilog=examples("emohead sweep report runs/sweeps/motion"))
def report(folder: SweepFolder) -> None:
    """Write report.html, which opens offline, and best.yaml, which `emohead train -c` takes, into the folder.

    optuna-dashboard reads the sweep too: optuna-dashboard runs/sweeps/motion/journal.log
    """
    from .sweep_report import write_report

    for path in write_report(folder):
        if path:
            typer.echo(f"wrote {path}")


@sweep.command("export", epilog=examples("emohead sweep export runs/sweeps/motion --dry-run"))
def export(
    folder: SweepFolder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; needs no network.")] = False,
) -> None:
    """Send the trials that have ended to W&B, where they are one group, and the exports of those that are done."""
    from .sweep_export import export_sweep

    export_sweep(folder, dry_run=dry_run, say=typer.echo)
