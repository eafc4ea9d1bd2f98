"""The settings of a run, checked and settled before it starts."""

import os
import sys
from difflib import get_close_matches
from pathlib import Path

import torch

from ...datamodules.config import FREE, uneven_batch
from ...models.errors import UserError
from ...models.ranges import out_of_range
from ..config import as_dict, load_config
from ..engines.precision import PRECISIONS, emulated_on_cpu, settled
from ..lightning_private import rank_zero_only
from ..stage import StageConfig
from ..tracking import trial, wrong_tracking
from .checkpoints import Checkpoints

CHECKPOINTS = "checkpoints"
CHOICES: dict[str, tuple] = {
    "precision": PRECISIONS,
    "strategy": ("ddp", "deepspeed"),
    "zero_stage": (0, 1, 2, 3),
    "accelerator": ("auto", "cpu", "gpu", "cuda"),
}


def report(line: str) -> None:
    print(f"emohead: {line}", file=sys.stderr, flush=True)


def wrong_settings(config: StageConfig) -> list[UserError]:
    """Values that make no sense, each with the nearest one that does."""
    c, found = config.trainer, []
    for key, values in CHOICES.items():
        if getattr(c, key) not in values:
            near = get_close_matches(str(getattr(c, key)), map(str, values), n=1, cutoff=0.0)[0]
            problem = f"is none of {', '.join(map(str, values))}"
            found.append(UserError(f"trainer.{key}={getattr(c, key)}", problem, f"trainer.{key}={near}"))
    if c.cuda_graphs and not c.compile:
        problem = "is about compiled blocks, and trainer.compile=false"
        found.append(UserError("trainer.cuda_graphs=true", problem, "trainer.compile=true too"))
    found += wrong_tracking(config.tracking, os.environ)
    found += [error for error in out_of_range(config) if not error.where.startswith("data.")]  # the data says its own
    size, parts = config.data.batch_size, c.nodes * c.devices * c.accumulate
    if min(c.nodes, c.devices, c.accumulate, size) >= 1:
        uneven = uneven_batch(size, parts, "trainer.nodes * trainer.devices * trainer.accumulate")
        found += [uneven] if uneven else []
    return found


def settle_devices(config: StageConfig) -> None:
    """Put this machine's number of GPUs in place of trainer.devices=-1 (or auto, which is read as that)."""
    c = config.trainer
    if c.devices == -1:
        c.devices = max(1, torch.cuda.device_count()) if c.accelerator != "cpu" else 1


def check(config: StageConfig) -> None:
    """Raises UserError if a value makes no sense."""
    for error in wrong_settings(config):
        raise error


def check_device(config: StageConfig) -> None:
    """Raises UserError if training is to be on GPUs that this process cannot use: none of them, or too few."""
    c = config.trainer
    if c.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={c.accelerator}", why_no_gpu(), "trainer.accelerator=cpu, or auto")
    seen = torch.cuda.device_count() if c.accelerator != "cpu" and torch.cuda.is_available() else c.devices
    if seen < c.devices:
        problem, remedy = f"this process sees {seen} of {c.devices} GPUs", f"trainer.devices={seen}"
        if "SLURM_JOB_ID" in os.environ:
            remedy = f"--gpus-per-node={c.devices}, for --gpus-per-task and --gpu-bind hide the others from a process"
        raise UserError(f"trainer.devices={c.devices}", problem, remedy)


def why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is a build for CPUs only"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # such as a driver that is too old
        return " ".join(str(error).split())[:200]
    return "there is no GPU here"


def run_folder(config: StageConfig, name: str) -> Path:
    """Where the run is kept; a trial that `wandb agent` has started is kept in a folder of its own within."""
    folder, own = Path(config.run or f"runs/{name}"), trial(os.environ)
    return folder / own if own else folder


def settle_precision(config: StageConfig, run: Path) -> None:
    """Put a precision in place of auto: the one that the run folder has, on whatever machine, or this machine's."""
    c = config.trainer
    if c.precision == "auto":
        if Checkpoints(run / CHECKPOINTS).steps():
            c.precision, why = load_config(type(config), [run / "config.yaml"], []).trainer.precision, "as before"
        else:
            c.precision, why = settled(c.precision, c.accelerator), "chosen for this machine"
        if rank_zero_only.rank == 0:
            report(f"{run}: trainer.precision={c.precision}, {why}")
    slow = emulated_on_cpu(c.precision) if c.accelerator == "cpu" or not torch.cuda.is_available() else None
    if slow and rank_zero_only.rank == 0:
        report(f"{run}: {slow}")


def check_same_run(config: StageConfig, run: Path) -> None:
    """A run folder goes on with what it was started with; only what changes no sample and no step may change."""
    if not Checkpoints(run / CHECKPOINTS).steps():
        return
    started, now = as_dict(load_config(type(config), [run / "config.yaml"], [])), as_dict(config)
    for name in FREE:
        started["data"][name] = now["data"][name]
    for key in started.keys() - {"trainer", "tracking", "run"}:
        if started[key] != now[key]:
            raise UserError(run, f"was started with another '{key}'", "set run= to a new folder, or delete this one")
