"""`emohead doctor` before a run: all its checks in order, and those of the configuration and the run folder.

A check is a function that returns findings. None starts CUDA, reads weights or writes more than an empty file that is
gone at once, so all of them together take seconds and may run on a login node.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...datamodules.module import DataFacts
from ...models.errors import UserError
from ..all_stages import find_stage
from ..config import load_config
from ..run.checkpoints import Checkpoints
from ..run.settings import CHECKPOINTS, check_same_run, run_folder, settle_devices, wrong_settings
from ..stage import Stage, StageConfig
from .disk import checkpoint_bytes
from .finding import Finding, refusal
from .inputs import data, inputs
from .machine import devices, driver, packages, port, shared_memory, tracking
from .slurm import job

OF_ONE_MACHINE = ("/tmp", "/var/tmp", "/dev/shm")
GIGABYTE = 1e9


def examine(name: str, files: list[Path], overrides: list[str]) -> list[Finding]:
    """All findings about a run that `emohead train` would start with these arguments.

    Raises UserError if there is no such stage.
    """
    stage_type = find_stage(name)
    try:
        config: Any = load_config(stage_type.config_type, files, overrides)
    except UserError as error:
        return [refusal("configuration", error), *packages(deepspeed=False)]
    settle_devices(config)
    run = run_folder(config, name)
    found_inputs = inputs(stage_type, config)
    found_data, facts = data(stage_type, config)
    found_folder = folder(config, run)
    if anything_wrong(found_inputs):  # of which the networks' sizes are told
        facts = None
    return [
        *settings(config),
        *batch(stage_type, config),
        *found_inputs,
        *found_data,
        *found_folder,
        *([] if anything_wrong(found_folder) else space(stage_type, config, run, facts)),
        *job(config),
        *devices(config),
        *(shared_memory(name, config, facts) if facts else []),
        *driver(config),
        *port(),
        *tracking(config.tracking),
        *packages(deepspeed=config.trainer.strategy == "deepspeed"),
    ]


def anything_wrong(findings: list[Finding]) -> bool:
    return any(finding.state == "wrong" for finding in findings)


# ---------------------------------------------------------------------------------------------- configuration


def settings(config: StageConfig) -> list[Finding]:
    """Values that train refuses, and some that have no effect."""
    c = config.trainer
    found = [refusal("settings", error) for error in wrong_settings(config)]
    if c.offload and c.strategy != "deepspeed":
        problem = f"trainer.offload=true has no effect with trainer.strategy={c.strategy}"
        found.append(Finding("settings", "warning", problem, "trainer.strategy=deepspeed"))
    elif c.offload and not c.zero_stage:
        problem = "trainer.offload=true has no effect with trainer.zero_stage=0"
        found.append(Finding("settings", "warning", problem, "trainer.zero_stage=2"))
    engine = f"deepspeed, ZeRO {c.zero_stage}" if c.strategy == "deepspeed" else c.strategy
    return found or [Finding("settings", "ok", f"{c.precision}, {engine}, {c.max_steps} steps")]


def batch(stage_type: type[Stage], config: Any) -> list[Finding]:
    """How the global batch is shared out."""
    c, size = config.trainer, config.data.batch_size
    parts = c.nodes * c.devices * c.accumulate
    if parts < 1 or size % parts:  # said already
        return []
    whole = f"{size} clips, {size // parts} at once in each process (processes: {c.nodes * c.devices})"
    return [Finding("batch", "ok", whole), *(Finding(c.check, "warning", *c[1:]) for c in stage_type.cautions(config))]


# ---------------------------------------------------------------------------------------------- run folder


def folder(config: Any, run: Path) -> list[Finding]:
    """Whether the run folder can be written, and the configuration is the one that the run was started with."""
    parent = existing(run)
    try:
        if not parent.is_dir():
            raise NotADirectoryError(f"{parent} is no folder")
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        return [Finding("run folder", "wrong", f"{run}: cannot be written ({error})", "run=FOLDER that can be written")]
    found = []
    if config.trainer.nodes > 1 and any(parent.resolve().is_relative_to(folder) for folder in OF_ONE_MACHINE):
        problem = f"{run}: most nodes have a {parent.resolve()} of their own, and all need the same run folder"
        found.append(Finding("run folder", "warning", problem, "run=FOLDER on a file system that the nodes share"))
    try:
        check_same_run(config, run)
    except UserError as error:
        return [*found, refusal("run folder", error)]
    steps = Checkpoints(run / CHECKPOINTS).steps()
    if steps and steps[-1] >= config.trainer.max_steps:
        problem = f"{run}: has done its {config.trainer.max_steps} steps; train would only export it"
        return [*found, Finding("run folder", "warning", problem, "run=FOLDER for a new run")]
    return [*found, Finding("run folder", "ok", f"{run}: " + (f"goes on from step {steps[-1]}" if steps else "new"))]


def space(stage_type: type[Stage], config: Any, run: Path, facts: DataFacts | None) -> list[Finding]:
    """Free disk against what the checkpoints will still take, plus one more that is being written."""
    c = config.trainer
    free = shutil.disk_usage(existing(run)).free
    try:
        size = checkpoint_bytes(stage_type, config, facts) if facts else None
    except UserError as error:
        return [refusal("network", error)]
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, AssertionError, IndexError) as error:
        problem = f"cannot be made as configured ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        return [Finding("network", "wrong", problem, f"start from a shipped configuration: -c {stage_type.name}-debug")]
    if size is None:
        return [Finding("disk", "ok", f"{gigabytes(free)} free; what checkpoints take is told once the rest is right")]
    kept = max(0, c.keep_last) + max(0, c.keep_best)
    count = max(0, kept - len(Checkpoints(run / CHECKPOINTS).steps())) + 1
    need = count * size.checkpoint + size.frozen + size.export
    what = f"{gigabytes(size.checkpoint)} x {count} for checkpoints, and the export"
    told = f"{gigabytes(free)} free, {gigabytes(need)} needed: {what}"
    if need > free:
        return [
            Finding("disk", "wrong", told, "run=FOLDER on a larger disk, or trainer.keep_last=1 trainer.keep_best=0")
        ]
    return [Finding("disk", "ok", told)]


def existing(path: Path) -> Path:
    """A path, or the nearest one above it that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if os.path.exists(p))


def gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.3g} GB"
