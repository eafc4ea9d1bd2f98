"""`emohead slurm train`: one stage as a job."""

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from omegaconf import OmegaConf

from ...models.errors import UserError
from ..arguments import CONFIGS, STAGE_NAMES
from .job import Job, Slurm, job_name
from .words import before_dashes, check_name, gpus_per_node, tasks_of

KEY = "data.num_workers"
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
    layout = [*tasks_of(options), *cpus_of(options, arguments), *without_lost_nodes(run)]
    return Job(stage, name, "train.sbatch", [*layout, *options], arguments, list(after))


def without_lost_nodes(run: Path) -> list[str]:
    """The option that keeps a run from the nodes on which it was lost twice."""
    if not run.is_dir():
        return []  # a new run, for which nothing need be imported that takes seconds
    from ...trainers.run.lost_nodes import LOST, lost_often

    if not (nodes := lost_often(run)):
        return []
    told = f"{run / LOST}: ranks of this run were lost twice on {', '.join(nodes)}: not asked for again"
    print(f"emohead: {told}; delete the file when they are repaired", file=sys.stderr)
    return [f"--exclude={','.join(nodes)}"]


def cpus_of(options: list[str], arguments: list[str]) -> list[str]:
    """The option that gives each process of a GPU a CPU and one to each of its workers; else the script's counts."""
    workers = workers_of(arguments)
    if workers is None or not gpus_per_node(options) or any(word.startswith("--cpus-per-gpu") for word in options):
        return []
    return [f"--cpus-per-task={workers + 1}"]


def workers_of(arguments: list[str]) -> int | None:
    """`data.num_workers` as the arguments of a training give it; None if they do not.

    Read without the stages, whose import takes seconds: what is wrong with the arguments, the job's doctor says.
    """
    found = None
    for file in config_files(arguments):
        shipped = CONFIGS / f"{file}.yaml"
        try:
            given = OmegaConf.select(OmegaConf.load(file if Path(file).is_file() else shipped), KEY)
        except Exception:  # no file, or no YAML
            continue
        found = given if isinstance(given, int) else found
    for word in arguments:
        key, _, value = word.partition("=")
        found = int(value) if key == KEY and value.isdecimal() else found
    return found


def config_files(arguments: list[str]) -> Iterator[str]:
    """The files among the arguments, in their order."""
    for option, word in pairwise(["", *arguments]):
        if option in ("-c", "--config"):
            yield word
        elif word.startswith("--config="):
            yield word.partition("=")[2]
