"""`emohead slurm train`: one stage as a job."""

from collections.abc import Sequence
from pathlib import Path

from ...models.errors import UserError
from ..arguments import STAGE_NAMES
from .job import Job, Slurm, job_name
from .words import before_dashes, check_name, tasks_of

USE = "write: emohead slurm train [sbatch's options --] STAGE [emohead train's arguments]"


def submit_training(words: list[str], *, dry_run: bool) -> None:
    """Submit a stage: [options of sbatch, --,] STAGE, arguments of `emohead train`."""
    options, arguments = before_dashes(words)
    if not arguments:
        raise UserError("slurm train", "no stage", USE)
    if arguments[0].startswith("-"):
        raise UserError(arguments[0], "comes before the stage", USE)
    check_name(arguments[0], STAGE_NAMES, where=arguments[0], problem="no such stage")
    Slurm(dry_run=dry_run).submit(training(arguments, options))


def training(arguments: list[str], options: list[str], after: Sequence[str] = ()) -> Job:
    """The job of a stage; arguments: the stage and those of `emohead train`; after: ids of jobs that it needs."""
    stage = arguments[0]
    given = [word.partition("=")[2] for word in arguments if word.startswith("run=")]
    run = Path(given[-1] if given and given[-1] else f"runs/{stage}")
    # What tells runs of a stage apart: runs/face-wide -> wide, runs/mead/face -> mead.
    label = run.name.removeprefix(stage).strip("-_.") or run.absolute().parent.name
    name = job_name(stage, label, run)
    return Job(stage, name, "train.sbatch", [*tasks_of(options), *options], arguments, list(after))
