"""`emohead slurm sweep`: trials of a sweep by the tasks of an array."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ...models.errors import UserError
from ..arguments import CONFIGS
from .job import Job, Slurm, job_name, log_option
from .train import cpus_of
from .words import DASHES, before_dashes, check_options, tasks_of

OPTIONS = ("--seed", "--max-failures")  # of emohead sweep, with an equals sign
TAKEN = ("--array", "-a", "--output", "-o")


def submit_sweep(
    file: Path,
    words: list[str],  # [options of sbatch] [--, key=value ...]
    *,
    tasks: int,
    at_once: int | None,
    out: Path | None,
    dry_run: bool,
) -> None:
    """Submit workers of a sweep. Their logs lie in its folder."""
    shipped = CONFIGS / "sweeps" / f"{file}.yaml"
    if not file.is_file() and not shipped.is_file():
        raise UserError(file, "no such file", "give the YAML file of a sweep, and sbatch's options behind it")
    options, overrides = before_dashes(words if DASHES in words else [*words, DASHES])
    check_options(options, taken=TAKEN)
    for word in overrides:
        if "=" not in word or (word.startswith("-") and word.partition("=")[0] not in OPTIONS):
            raise UserError(f"'{word}'", "wanted is key=value", "such as trainer.max_steps=1000")
    label = file.stem
    folder = (out or Path("runs") / "sweeps" / label).resolve()
    if folder.exists() and not folder.is_dir():
        raise UserError(folder, "is a file", "give the folder of the sweep with --out")
    slurm, logs = Slurm(dry_run=dry_run), folder / "logs"
    if not dry_run:
        logs.mkdir(parents=True, exist_ok=True)
    array = f"--array=1-{tasks}" + (f"%{at_once}" if at_once else "")
    trial = [*command_of(file if file.is_file() else shipped), *overrides]
    options = [*tasks_of(options), *cpus_of(options, trial), *options, array, log_option(logs, "%A_%a.out")]
    arguments = [str(file), "--out", str(folder), *overrides]
    slurm.submit(Job("sweep", job_name("sweep", label, folder), "sweep.sbatch", options, arguments))


def command_of(file: Path) -> list[str]:
    """The words of the command of each trial; none if the file is not as it should be, of which the workers tell."""
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
        return [str(word) for word in content["command"]]
    except Exception:  # no YAML, or no command in it
        return []
