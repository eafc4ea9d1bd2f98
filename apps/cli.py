"""The `emohead` command. Each command imports what it needs when it runs, so that `--help` answers at once."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from ..models.errors import Failure, UserError, printable
from ..models.files import FULL, OF_THE_DISK
from ..models.ranges import MAX_SEED
from ..models.versions import version_of
from .arguments import examples
from .facemodel_commands import facemodel
from .prepare_commands import prepare
from .runs_commands import runs
from .shards_commands import shards
from .slurm_commands import slurm
from .sweep_commands import sweep
from .train_commands import training
from .use_commands import using
from .wandb_commands import wandb_commands

# The packages that commands import, by the extra of pyproject.toml that installs them.
EXTRAS = {
    "train": "pytorch_lightning lightning_fabric omegaconf deepspeed open_clip torchvision torchmetrics wandb fsspec",
    "prepare": "ai_edge_litert",
    "sweep": "optuna jsonschema",
}
INTERRUPTED = 128 + signal.SIGINT  # exit code after Ctrl-C, as shells expect it


def interrupt(number: int, frame: Any) -> NoReturn:
    """Ctrl-C: a second one, of an impatient user, does not disturb the tidying up after the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


class Commands(typer.core.TyperGroup):
    """All commands together: Ctrl-C in any of them is one line and exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("emohead: stopped by Ctrl-C; the same command goes on", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    help="Train emotional talking faces: portrait + speech + emotion (text, image or audio) -> video.",
    epilog="Start with: emohead demo --out runs/demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},  # of all commands below, too
)
# A group without a name adds its commands to those of `emohead` itself.
app.add_typer(training)
app.add_typer(using)
app.add_typer(runs, name="runs")
app.add_typer(prepare, name="prepare")
app.add_typer(shards, name="shards")
app.add_typer(facemodel, name="facemodel")
app.add_typer(sweep, name="sweep")
app.add_typer(wandb_commands, name="wandb")
app.add_typer(slurm, name="slurm")


def tell_version(asked: bool) -> None:
    if asked:
        typer.echo(version_of("emohead"))
        raise typer.Exit


@app.callback()
def options(
    asked: Annotated[
        bool, typer.Option("--version", callback=tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options of no command."""


@app.command(epilog=examples("emohead demo --out runs/demo", "emohead demo --quick --out runs/quick"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, runs, videos and report.html.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of corpus and training.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Less of everything, in a quarter of the time; says what it does not show.")
    ] = False,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Two steps of each stage: shows that the chain works, not what it learns.")
    ] = False,
) -> None:
    """The whole chain on a made-up corpus, on a CPU, in minutes: corpus, four stages, videos, report.

    It says at the start how long it will take here. After Ctrl-C the same command resumes.
    """
    if quick and tiny:
        raise UserError("demo", "--quick and --tiny are two sizes", "give one of them")
    from .demo import run_demo
    from .demo_plan import FULL, QUICK, TINY

    run_demo(out, seed=seed, plan=TINY if tiny else QUICK if quick else FULL)


def main() -> None:
    """Entry point: a wrong input is one line and exit code 2."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in a shell's background
        signal.signal(signal.SIGINT, interrupt)
    try:
        app(standalone_mode=True)
    except UserError as error:
        print(f"emohead: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # while the command was loaded
        sys.exit(INTERRUPTED)
    except Failure as failure:
        leave(" ".join(str(failure).split()), 1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((name for name, packages in EXTRAS.items() if package in packages.split()), None)
        if extra is None:
            raise
        leave(f"this command needs {package}: pip install 'emohead[{extra}]'", 2)
    except OSError as error:
        if error.errno not in OF_THE_DISK or not (error.filename or error.errno in FULL):
            raise
        told = f"{printable(error.filename or 'the disk')}: {os.strerror(error.errno)}"
        if error.errno in FULL:
            leave(f"{told}; what was finished is kept, the same command goes on when there is room", 1)
        leave(told, 2)


def leave(told: str, code: int) -> NoReturn:
    """At once: an orderly exit would wait for the other ranks."""
    sys.stdout.flush()
    print(f"emohead: {told}", file=sys.stderr, flush=True)
    os._exit(code)


if __name__ == "__main__":
    main()
