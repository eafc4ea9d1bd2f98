"""A job: what sbatch is told of it, and what squeue says of those that are there."""

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...models.errors import UserError

SCRIPTS = Path(__file__).parent.parent.parent / "slurm"
PATIENCE = 60  # seconds for an answer of SLURM
MARK_LENGTH = 8  # characters at the end of a job's name
LABEL_LENGTH = 40


@dataclass(frozen=True)
class Job:
    part: str  # what is done: a stage, a pass, a sweep
    name: str  # as squeue shows it
    script: str  # in slurm/
    options: list[str] = field(default_factory=list)  # for sbatch; later ones win
    arguments: list[str] = field(default_factory=list)  # of the script
    after: list[str] = field(default_factory=list)  # ids of the jobs that must have ended well


class Queued(NamedTuple):
    """A job of this user that waits or runs."""

    id: str
    pending: bool


def job_name(part: str, label: str, folder: Path) -> str:
    """The name of the job that does a part of the work on a folder.

    squeue shows eight characters: part and label begin there. The end is a mark by which the job is known again.
    """
    short = part if len(part) <= 4 else part[:3]
    label = re.sub(r"[^\w.-]+", "_", label, flags=re.ASCII)[:LABEL_LENGTH]
    return "-".join(filter(None, (short, label, mark(part, folder))))


def mark(part: str, folder: Path) -> str:
    """What the names of all jobs that do this part of the work on this folder end with."""
    return hashlib.sha256(os.fsencode(f"{part} {folder.resolve()}")).hexdigest()[:MARK_LENGTH]


def log_option(folder: Path, pattern: str) -> str:
    """The option of sbatch for a log in a folder; % has a meaning in it, as in %j for the job's id."""
    return f"--output={str(folder).replace('%', '%%')}/{pattern}"


def own_command() -> str:
    """The emohead that jobs are to call: what EMOHEAD says, else this one. Raises UserError if there is none."""
    given = os.environ.get("EMOHEAD")
    if given and " --container-" in f" {os.environ.get('EMOHEAD_SRUN', '')}":  # it lies in the image, not here
        return given
    called = sys.argv[0] if Path(sys.argv[0]).name == "emohead" else ""
    for command in [given] if given else [called, str(Path(sys.executable).with_name("emohead")), "emohead"]:
        if command and (found := shutil.which(command)):
            found = str(Path(found).absolute())
            if "," in found:
                raise UserError(found, "has a comma, which sbatch takes for an end", "set EMOHEAD to a link without")
            return found
    raise UserError(given or "emohead", "no such command", "set EMOHEAD to where emohead is")


class Slurm:
    """The cluster. A dry run prints commands instead of calling them, and needs no SLURM."""

    def __init__(self, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.emohead = own_command()

    def submit(self, job: Job) -> str:
        """Submit a job, print its part and id, and return the id; in a dry run a placeholder."""
        command = self.command(job)
        if self.dry_run:
            print(shlex.join(command))
            return f"ID_OF_{job.part.upper()}"
        number = answer(command).strip().partition(";")[0]
        print(job.part, number, flush=True)
        return number

    def command(self, job: Job) -> list[str]:
        """What sbatch is called with."""
        options = [f"--job-name={job.name}", *job.options]
        if job.after:
            options += [f"--dependency=afterok:{':'.join(job.after)}", "--kill-on-invalid-dep=yes"]
        return ["sbatch", "--parsable", *exporting(options, self.emohead), str(SCRIPTS / job.script), *job.arguments]

    def queue(self) -> dict[str, Queued]:
        """The jobs of this user by the mark at the end of their names."""
        command = ["squeue", "--noheader", "--user", str(os.getuid()), "--format", "%F %T %j"]
        try:
            lines = answer(command).splitlines()
        except UserError as error:
            if not self.dry_run:
                raise
            print(f"emohead: {error.where}: {error.problem}; as if nothing were queued", file=sys.stderr)
            lines = []
        rows = [line.split(None, 2) for line in lines if len(line.split()) > 2]
        return {name.strip()[-MARK_LENGTH:]: Queued(number, state == "PENDING") for number, state, name in rows}

    def cancel(self, number: str) -> None:
        """Take a job out of the queue; it may have left already."""
        command = ["scancel", number]
        if self.dry_run:
            print(shlex.join(command))
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(command, env=outside_of_jobs(), capture_output=True, timeout=PATIENCE)


def exporting(options: list[str], emohead: str) -> list[str]:
    """Options of sbatch that give the job its command, beside all variables or those that the options name."""
    kept, named, words = [], "ALL", iter(options)
    for word in words:
        if word == "--export":
            named = next(words, "ALL")
        elif word.startswith("--export="):
            named = word.partition("=")[2]
        else:
            kept.append(word)
    listed = [] if named in ("NONE", "NIL") else [named]
    return [f"--export={','.join([*listed, f'EMOHEAD={emohead}'])}", *kept]


def answer(command: list[str]) -> str:
    """What a command of SLURM prints. Raises UserError if it does not answer."""
    try:
        done = subprocess.run(command, env=outside_of_jobs(), capture_output=True, text=True, timeout=PATIENCE)
    except FileNotFoundError:
        raise UserError(command[0], "no such command here", "call this where SLURM is, or with --dry-run") from None
    except subprocess.TimeoutExpired:
        raise UserError(command[0], f"no answer within {PATIENCE} seconds", "try again later") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"ends with exit code {done.returncode}"]
        problem = re.sub(r"^(\w+: )?((error|fatal): )?", "", said[-1])
        raise UserError(command[0], f"SLURM refuses ({problem})", "--dry-run shows the commands")
    sys.stderr.write(done.stderr)  # what a site has its users told
    return done.stdout


def outside_of_jobs() -> dict[str, str]:
    """The environment without what describes the job that this may have been called in."""
    return {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith("SLURM_")}
