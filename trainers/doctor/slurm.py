"""Checks of `emohead doctor` on a SLURM job: whether it has the shape of the configuration, and time to save."""

import os
import subprocess
import time
from datetime import datetime

import torch
from lightning_fabric.plugins.environments import TorchElasticEnvironment

from ..run.cluster import counts
from ..stage import StageConfig
from .finding import Finding

PATIENCE = 3  # seconds for squeue


def job(config: StageConfig) -> list[Finding]:
    """Whether a SLURM job has the shape of the configuration; no findings outside of a job."""
    if "SLURM_JOB_ID" not in os.environ:
        return several_nodes(config)
    found = [*tasks(config), *job_gpus(config), *cpus(config), *time_left(config), *main_address(config)]
    c = config.trainer
    shape = f"job {os.environ['SLURM_JOB_ID']}: {c.devices} processes on each node (nodes: {c.nodes})"
    return found or [Finding("SLURM", "ok", shape)]


def tasks(config: StageConfig) -> list[Finding]:
    """Nodes and tasks of the job. A batch script that names no tasks leaves their number to its srun."""
    c = config.trainer
    nodes, total = number("SLURM_JOB_NUM_NODES") or number("SLURM_NNODES"), number("SLURM_NTASKS")
    if nodes is not None and nodes != c.nodes:
        problem = f"trainer.nodes={c.nodes}, the job has {nodes}"
        return [Finding("SLURM", "wrong", problem, f"trainer.nodes={nodes}, or sbatch --nodes {c.nodes}")]
    if total is None:
        return []
    remedy = f"sbatch --nodes {c.nodes} --ntasks-per-node {c.devices}"
    if total != c.nodes * c.devices:
        if c.nodes > 0 and total % c.nodes == 0:
            remedy = f"trainer.devices={total // c.nodes}, or {remedy}"
        problem = f"trainer.nodes={c.nodes} x trainer.devices={c.devices} processes, SLURM_NTASKS={total}"
        return [Finding("SLURM", "wrong", problem, remedy)]
    layout = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE", "")
    if layout and any(count != c.devices for count in counts(layout)):
        problem = f"trainer.devices={c.devices}, but the nodes have {layout} tasks"
        return [Finding("SLURM", "wrong", problem, remedy)]
    return []


def job_gpus(config: StageConfig) -> list[Finding]:
    """GPUs of a node of the job, if training is to be on GPUs."""
    c = config.trainer
    given = given_gpus()
    remedy = f"sbatch --gpus-per-node {c.devices}"
    if c.accelerator != "cpu" and c.devices > 1 and "SLURM_GPUS_PER_TASK" in os.environ:
        problem = "--gpus-per-task hides from each process the GPUs of the others, which NCCL and local ranks need"
        return [Finding("SLURM", "wrong", problem, remedy)]
    if c.accelerator in ("gpu", "cuda") and not given:
        return [Finding("SLURM", "wrong", f"trainer.accelerator={c.accelerator}, the job has no GPUs", remedy)]
    if c.accelerator != "cpu" and given and given < c.devices:
        problem = f"trainer.devices={c.devices}, the job has {given} GPUs a node"
        return [Finding("SLURM", "wrong", problem, f"{remedy}, or trainer.devices={given}")]
    return []


def given_gpus() -> int:
    """GPUs that a node of this job has, as SLURM says or as counted here."""
    listed = [part for part in os.environ.get("SLURM_JOB_GPUS", "").split(",") if part]
    return max(number("SLURM_GPUS_ON_NODE") or 0, len(listed)) or torch.cuda.device_count()


def cpus(config: StageConfig) -> list[Finding]:
    """CPUs of a task: one for the process, one for each of its workers."""
    wanted, given = config.data.num_workers + 1, number("SLURM_CPUS_PER_TASK") or 1
    if given >= wanted:
        return []
    problem = f"{given} CPUs a task for the process and data.num_workers={config.data.num_workers}"
    return [Finding("SLURM", "warning", problem, f"sbatch --cpus-per-task {wanted}, or data.num_workers={given - 1}")]


def time_left(config: StageConfig) -> list[Finding]:
    end, save_before = job_end(), config.trainer.save_before
    if end is None or end - time.time() > save_before:
        return []
    left = max(0, int(end - time.time()))
    problem = f"{left} s are left of the job's time, at trainer.save_before={save_before} s a run saves and leaves"
    remedy = "sbatch --time 24:00:00" + (f", or trainer.save_before={left // 2}" if left > 1 else "")
    return [Finding("SLURM", "wrong", problem, remedy)]


def job_end() -> float | None:
    """When SLURM will end the job, as time.time(); None if the job has no limit or SLURM does not answer.

    It also works in a batch script, before any step has begun.
    """
    if (told := number("SLURM_JOB_END_TIME")) is not None:
        return told
    command = ["squeue", "--noheader", "--jobs", os.environ["SLURM_JOB_ID"], "--format", "%e"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE).stdout
        return datetime.fromisoformat(shown.strip()).timestamp()
    except (ValueError, OSError, subprocess.SubprocessError):  # "N/A", or no answer
        return None


def main_address(config: StageConfig) -> list[Finding]:
    if config.trainer.nodes < 2 or os.environ.get("MASTER_ADDR"):
        return []
    problem = "MASTER_ADDR is not set: the first node's name is taken, which may not resolve on the others"
    return [Finding("SLURM", "warning", problem, "start with emohead slurm train, or export MASTER_ADDR=FIRST_NODE")]


def number(name: str) -> int | None:
    """The number in an environment variable; None if it is missing or holds something else."""
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else None


def several_nodes(config: StageConfig) -> list[Finding]:
    c = config.trainer
    if c.nodes < 2 or TorchElasticEnvironment.detect():
        return []
    gpus = "" if c.accelerator == "cpu" else f" --gpus-per-node {c.devices}"
    problem = f"trainer.nodes={c.nodes}: this is no SLURM job, and train refuses several nodes here"
    remedy = f"emohead slurm train --nodes {c.nodes}{gpus} -- STAGE ..., or torchrun"
    return [Finding("SLURM", "warning", problem, remedy)]
