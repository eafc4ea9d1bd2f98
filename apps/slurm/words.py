"""What is typed behind `emohead slurm`: options of sbatch, a double dash, and what the job is to do."""

import difflib
import sys
from collections.abc import Iterable

from ...models.errors import UserError

DASHES = "--"


def check_name(name: str, valid: Iterable[str], *, where: str, problem: str) -> None:
    """Raises UserError with the nearest valid name if a name is none of them."""
    names = sorted(valid)
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1)
        raise UserError(where, problem, f"did you mean {nearest[0]}?" if nearest else f"give one of {', '.join(names)}")


def before_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    """Options of sbatch, and what comes behind `--`; without one, all words are of the second kind."""
    if DASHES not in words:
        return [], words
    at = words.index(DASHES)
    check_options(words[:at])
    return words[:at], words[at + 1 :]


def check_options(options: list[str], *, taken: tuple[str, ...] = ()) -> None:
    """Refuse what is no option of sbatch, nor the value of one, and options that are `taken`: set by us."""
    valued = False  # whether the word before may have this one as its value
    for word in options:
        if not word.startswith("-") and not valued:
            raise UserError(f"'{word}'", "is no option of sbatch", "what the job is to do comes behind --")
        valued = word.startswith("-") and "=" not in word
        if word.startswith("-") and word.partition("=")[0] in taken:
            raise UserError(word, "is set by this command")


def gpus_per_node(options: list[str]) -> int:
    """How many GPUs a node is asked for; 0 if none. Raises UserError if that is not the same for each node."""
    gpus, option = "", ""
    for word in options:
        name, equals, value = (option + word).partition("=")
        if name == "--gpus" or word.startswith("-G"):
            raise UserError(word, "leaves open how many GPUs a node has", "say --gpus-per-node=4")
        if name == "--gpus-per-node" and equals:
            gpus = value.rpartition(":")[2]  # 4, a100:4
        for kind in value.split(",") if name == "--gres" else []:  # gpu, gpu:4, gpu:a100:4, beside others: nvme:100
            if kind == "gpu" or kind.startswith(("gpu:", "gpu=")):
                gpus = kind.partition("(")[0].replace("=", ":").rpartition(":")[2].replace("gpu", "1")
        option = f"{word}=" if word in ("--gpus-per-node", "--gres") else ""
    if gpus and not gpus.isdecimal():
        raise UserError(gpus, "is no number of GPUs for each node", "say --gpus-per-node=4")
    return int(gpus or 0)


def tasks_of(options: list[str]) -> list[str]:
    """The option that makes one process for each GPU, if there are any."""
    gpus = gpus_per_node(options)
    return [f"--ntasks-per-node={gpus}"] if gpus else []


def missing(error: UserError, *, dry_run: bool) -> None:
    """Raise it; a dry run, which may be on another machine than the data, only tells of it."""
    if not dry_run:
        raise error
    print(f"emohead: {error}", file=sys.stderr)
