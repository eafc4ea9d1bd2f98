"""`emohead slurm prepare`: each of the three passes as an array of jobs that follow on each other."""

from dataclasses import dataclass
from pathlib import Path

from ...models.errors import UserError
from .job import Job, Slurm, job_name, log_option
from .words import before_dashes, check_name, check_options, missing

PASSES = ("track", "fit", "pack")
KINDS = ("folder", "hdtf", "mead")
USE = "write: PARTS [sbatch's options --] folder|hdtf|mead SRC OUT [emohead prepare's options]"


@dataclass(frozen=True)
class Preparation:
    """A data set to prepare."""

    parts: int  # of the passes track and pack
    options: list[str]  # for sbatch
    arguments: list[str]  # of `emohead prepare`: kind, source, data set, options

    @property
    def source(self) -> Path:
        return Path(self.arguments[1])

    @property
    def data(self) -> Path:
        return Path(self.arguments[2]).resolve()

    @property
    def finished(self) -> bool:
        return (self.data / "manifest.json").is_file()


def read_preparation(words: list[str]) -> Preparation:
    """Raises UserError where words are no PARTS [options --] KIND SRC OUT ..."""
    if not words or not words[0].isdecimal() or int(words[0]) < 1:
        raise UserError(f"'{words[0]}'" if words else "prepare", "wanted is a number of parts", USE)
    options, arguments = before_dashes(words[1:])
    check_options(options, taken=("--array", "-a"))
    if len(arguments) < 3 or any(word.startswith("-") for word in arguments[:3]):
        raise UserError("prepare", f"{len(arguments[:3])} of kind, source and data set are named", USE)
    check_name(arguments[0], KINDS, where=arguments[0], problem="no such kind of source")
    return Preparation(int(words[0]), options, arguments)


def submit_preparation(words: list[str], *, dry_run: bool) -> None:
    """Submit the three passes: PARTS, [options of sbatch, --,] arguments of `emohead prepare`."""
    preparation = read_preparation(words)
    check_source(preparation, dry_run=dry_run)
    submit_passes(preparation, Slurm(dry_run=dry_run))


def check_source(preparation: Preparation, *, dry_run: bool) -> None:
    """Whether what is to be prepared is there; a data set that is finished needs it no more."""
    if not preparation.finished and not preparation.source.exists():
        missing(UserError(preparation.source, "no such file or folder", "give what is to be prepared"), dry_run=dry_run)


def submit_passes(preparation: Preparation, slurm: Slurm, *, logs: Path | None = None) -> str:
    """Submit the three passes, each after the one before has ended well; returns the id of the last.

    Logs lie in the folder `logs`, or where sbatch's options say, or in the current folder.
    """
    after: list[str] = []
    for name in PASSES:
        parts = 1 if name == "fit" else preparation.parts
        job = Job(
            name,
            job_name(name, preparation.data.name, preparation.data),
            "prepare.sbatch",
            [*preparation.options, f"--array=1-{parts}", *([log_option(logs, f"{name}-%A_%a.out")] if logs else [])],
            [*preparation.arguments, "--pass", name],
            after,
        )
        after = [slurm.submit(job)]
    return after[0]
