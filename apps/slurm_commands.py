"""The commands below `emohead slurm`. What they do is in slurm/, which is imported when one of them runs."""

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from .arguments import File, Number, Words, examples

slurm = typer.Typer(
    help="Submit jobs to a SLURM cluster. Options of sbatch are passed on; the scripts that run are part of emohead.",
    no_args_is_help=True,
)


class Passing(typer.core.TyperCommand):
    """A command that keeps words as they are typed, but for its own options before the first double dash.

    --dry-run is taken wherever it stands: whoever puts it at the end does not want jobs.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        dry_run = [word for word in args if word == DRY_RUN][:1]
        args = [word for word in args if word != DRY_RUN]
        end = args.index("--") if "--" in args else len(args)
        flags = dict.fromkeys(ctx.help_option_names, True)
        flags |= {name: getattr(p, "is_flag", False) for p in self.params for name in p.opts if name.startswith("-")}
        own, words = dry_run, iter(args[:end])
        others: list[str] = []
        for word in words:
            name, equals, _ = word.partition("=")
            (own if name in flags else others).append(word)
            if not flags.get(name, True) and not equals:
                own += [value for value in [next(words, None)] if value is not None]
        return super().parse_args(ctx, [*own, "--", *others, *args[end:]])


DRY_RUN = "--dry-run"
DryRun = Annotated[bool, typer.Option(DRY_RUN, help="Print the commands of sbatch, one a line; submit nothing.")]


def passed(meaning: str) -> Any:
    """The words that a command passes on. Capitals, since help takes small letters in brackets for a colour."""
    return typer.Argument(metavar="WORDS", show_default=False, help=meaning)


TrainWords = Annotated[Words, passed("[OPTIONS OF SBATCH --] STAGE [ARGUMENTS OF emohead train]")]
PrepareWords = Annotated[
    Words, passed("PARTS [OPTIONS OF SBATCH --] folder|hdtf|mead SRC OUT [OPTIONS OF emohead prepare]")
]
PipelineWords = Annotated[Words, passed("[[STAGE:]WORD ...] [-- WORDS OF emohead slurm prepare]")]
SweepWords = Annotated[Words, passed("[OPTIONS OF SBATCH] [-- KEY=VALUE --seed=N ...]")]


@slurm.command(
    "train",
    cls=Passing,
    epilog=examples(
        "emohead slurm train --gpus-per-node=4 --time=24:00:00 -- face -c face-base 'data.shards=[data/mine]'",
    ),
)
def slurm_train(words: TrainWords = None, dry_run: DryRun = False) -> None:
    """Train one stage as a job.

    One process for each GPU of --gpus-per-node, on each of --nodes; trainer.nodes and trainer.devices follow. Out of
    time or preempted, it saves, goes back into the queue and goes on. Prints the stage and the job's id.
    """
    from .slurm.train import submit_training

    submit_training(words or [], dry_run=dry_run)


@slurm.command(
    "prepare",
    cls=Passing,
    epilog=examples(
        "emohead slurm prepare 40 mead MEAD/ data/mead",
        "emohead slurm prepare 40 --cpus-per-task=8 --partition=cpu -- mead MEAD/ data/mead --size 512",
    ),
)
def slurm_prepare(words: PrepareWords = None, dry_run: DryRun = False) -> None:
    """Prepare a data set by three arrays of jobs.

    track in PARTS parts, then fit, then pack in PARTS parts; each part with as many processes as its job has CPUs.
    The same command again goes on where jobs were killed. Prints each pass and its job's id.
    """
    from .slurm.prepare import submit_preparation

    submit_preparation(words or [], dry_run=dry_run)


@slurm.command(
    "pipeline",
    cls=Passing,
    epilog=examples(
        "emohead slurm pipeline runs/mead --gpus-per-node=4 --time=24:00:00 'data.shards=[data/mead]' face:--nodes=2 "
        "face:trainer.max_steps=100000 distill:mine.yaml",
        "emohead slurm pipeline runs/mead --gpus-per-node=1 -- 40 --partition cpu -- mead MEAD/ data/mead --size 256",
    ),
)
def slurm_pipeline(
    out: Annotated[Path, typer.Argument(help="Folder for runs, logs and talker.safetensors.", show_default=False)],
    words: PipelineWords = None,
    config: Annotated[str, typer.Option(help="Size of the shipped configurations: debug, small, base ...")] = "base",
    dry_run: DryRun = False,
) -> None:
    """Train the whole chain by jobs that follow on each other, from videos or prepared data to talker.safetensors.

    A WORD is meant for all stages, or behind STAGE: for one: key=value or FILE.yaml for emohead train, or
    --option=value, with the equals sign, for sbatch. The same command again submits only what is neither finished nor
    queued nor running, so it repairs a chain that broke. Prints each new job's name and id. Logs are in OUT/logs.
    """
    from .slurm.request import read_request

    request = read_request(out, words or [], size=config, dry_run=dry_run)
    from .slurm.pipeline import submit_chain

    submit_chain(request, dry_run=dry_run)


@slurm.command(
    "sweep",
    cls=Passing,
    epilog=examples(
        "emohead slurm sweep sweep.yaml --tasks 8 --at-once 4 --gpus-per-node=1 --time=12:00:00 -- --seed=3 seed=1",
    ),
)
def slurm_sweep(
    file: Annotated[
        Path, typer.Argument(help="YAML file of a sweep, or a shipped name such as motion-base.", show_default=False)
    ],
    words: SweepWords = None,
    tasks: Annotated[int, typer.Option(min=1, help="Workers, each with nodes and GPUs of its own.")] = 1,
    at_once: Annotated[Number, typer.Option(min=1, help="Workers that may run at the same time; default: all.")] = None,
    out: Annotated[File, typer.Option(help="Folder of the sweep; default: runs/sweeps/ and the file's name.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Train the trials of a sweep by an array of jobs.

    Each task trains one trial after the other, on its nodes and GPUs, until none is left; called again, it adds tasks.
    Out of time or preempted, a trial saves and its task goes back into the queue. Logs are in the sweep's folder.
    """
    from .slurm.sweep import submit_sweep

    submit_sweep(file, words or [], tasks=tasks, at_once=at_once, out=out, dry_run=dry_run)
