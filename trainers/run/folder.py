"""A run folder as it lies there: which stage, how far, how good, what it started from, what it took.

Everything is read from small files, and nothing is written or waited for. Lightning, which takes seconds to import, is
so only for run folders that were trained before legs were written down.
"""

import json
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ...models.lock import held
from .curves import best_of, read_metrics
from .legs import LEGS, Leg, last_step, newest_file, read_legs
from .pruning import VERDICT

DEPTH = 6  # folders below the one that is searched
PATIENCE = 5  # seconds for squeue
SIGNS = ("checkpoints", LEGS, "metrics.jsonl")  # beside config.yaml, one of them makes a folder a run folder
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING")  # states of a SLURM job that is to start


@dataclass(frozen=True)
class RunFacts:
    folder: Path
    stage: str
    status: str  # running, queued, done, preempted, interrupted, failed, pruned, killed; unknown: no leg, no export
    error: str  # of one that failed
    step: int
    max_steps: int | None
    monitor: str  # the metric below, such as val/loss; empty: unknown
    best: float | None
    best_step: int | None
    parents: dict[str, str]  # key of the configuration -> export that it started from
    hours: dict[str, float]  # GPU, CPU -> hours of all legs, a device each; a CPU process counts as one device
    estimated: bool  # whether a leg was killed, so that its end is a guess
    legs: int
    started: float | None  # of the first leg, seconds since 1970
    wandb: str  # id of the W&B run; empty: none


def find_runs(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Run folders at or below a folder, by name; links are not followed, and nothing below a run or a data set."""
    if is_run(folder):
        yield folder
    elif depth and not (folder / "manifest.json").is_file():
        with os.scandir(folder) as entries:
            below = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
        for name in below:
            if os.access(folder / name, os.R_OK | os.X_OK):
                yield from find_runs(folder / name, depth - 1)


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and any((folder / sign).exists() for sign in SIGNS)


def facts_of(folders: Iterable[Path]) -> list[RunFacts]:
    """What there is to say of some run folders; SLURM is asked once for all of them."""
    legs = {folder: read_legs(folder) for folder in folders}
    waited_for = {found[-1].job for found in legs.values() if found and found[-1].job and found[-1].how != "done"}
    queue = states_of_jobs(sorted(waited_for))
    return [_facts(folder, found, queue) for folder, found in legs.items()]


def _facts(folder: Path, legs: list[Leg], queue: dict[str, str]) -> RunFacts:
    config = read_config(folder)
    stage, monitor, parents = (legs[-1].stage, legs[-1].monitor, legs[-1].parents) if legs else declared(folder, config)
    status = status_of(folder, legs, queue)
    hours, estimated = hours_of(folder, legs, running=status == "running")
    metric = monitor.removeprefix("-")
    best = best_of(metrics_of(folder).get(metric, []), less=monitor.startswith("-"))
    ended = legs[-1].last_step if legs and status != "running" else None
    wandb = folder / "wandb" / "id"
    return RunFacts(
        folder=folder,
        stage=stage,
        status=status,
        error=legs[-1].error if legs and status == "failed" else "",
        step=last_step(folder) if ended is None else ended,
        max_steps=trainer.get("max_steps") if isinstance(trainer := config.get("trainer"), dict) else None,
        monitor=metric,
        best=best[1] if best else None,
        best_step=best[0] if best else None,
        parents=parents,
        hours=hours,
        estimated=estimated,
        legs=len(legs),
        started=legs[0].started if legs else None,
        wandb=wandb.read_text().strip() if wandb.is_file() else "",
    )


def status_of(folder: Path, legs: list[Leg], queue: dict[str, str]) -> str:
    """How a run stands. A leg without an end was killed, unless its process lives or SLURM says that its job runs."""
    if held(folder):
        return "running"
    if (folder / VERDICT).is_file() and not (legs and legs[-1].how == "done"):  # which was gone on with by hand
        return "pruned"
    if not legs:
        return "done" if any((folder / "export").glob("*.safetensors")) else "unknown"
    last, state = legs[-1], queue.get(legs[-1].job, "")
    if last.how != "done" and state in WAITING:
        return "queued"
    if last.ended is None:
        return "running" if state == "RUNNING" else "killed"
    return last.how


def hours_of(folder: Path, legs: list[Leg], *, running: bool) -> tuple[dict[str, float], bool]:
    """Hours of the devices in all legs, by GPU and CPU, and whether one of them is a guess."""
    hours: dict[str, float] = defaultdict(float)
    estimated = False
    for leg in legs:
        now, guess = time.time(), leg.estimated
        if leg.ended is None and not (running and leg is legs[-1]):
            now, guess = newest_file(folder, beaten=True), True
        hours["CPU" if leg.accelerator == "cpu" else "GPU"] += leg.devices * leg.seconds(now) / 3600
        estimated |= guess
    return dict(hours), estimated


def states_of_jobs(jobs: list[str]) -> dict[str, str]:
    """SLURM's word for each of the jobs that it still knows; empty where there is no SLURM or it does not answer."""
    if not jobs:
        return {}
    command = ["squeue", "--noheader", "--jobs", ",".join(jobs), "--format", "%i %T"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(line.split() for line in shown.splitlines() if len(line.split()) == 2)


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml as plain containers; empty if it cannot be read."""
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return {}
    return content if isinstance(content, dict) else {}


def metrics_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    path = folder / "metrics.jsonl"
    return read_metrics(path) if path.is_file() else {}


def declared(folder: Path, config: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """Stage, monitor and parents of a run without legs, as its checkpoint and its stage say; empty if unknown."""
    from ..all_stages import STAGES

    for manifest in sorted((folder / "checkpoints").glob("step-*/manifest.json"), reverse=True):
        try:
            stage = STAGES[json.loads(manifest.read_text())["stage"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        starts = {start.key: OmegaConf.select(OmegaConf.create(config), start.key) for start in stage.starts_from}
        return stage.name, stage.monitor, {key: file for key, file in starts.items() if file}
    return "", "", {}
