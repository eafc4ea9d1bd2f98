"""The job that a run is: which processes belong to it, how long it may take, how it comes back.

Under SLURM every task of a job step is a rank. Anywhere else the first process starts the others of its machine, or
torchrun has started all of them.
"""

import os
import re
import subprocess
import sys
from datetime import datetime

from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.plugins.environments import ClusterEnvironment

from ...models.errors import UserError
from ..lightning_private import rank_zero_only
from ..stage import TrainerConfig

TASKS = "emohead slurm train sets both, srun takes --nodes and --ntasks-per-node"
STARTED_BY = "EMOHEAD_STARTED_BY"  # the process that started this one as a rank
LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR")
REQUEUE_TIMEOUT = 60  # seconds for a command of SLURM


class SlurmEnvironment(SLURMEnvironment):
    """Lightning's, without its requeueing, and with a port of its own for each step and each start of a job."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @property
    def main_port(self) -> int:
        if "MASTER_PORT" in os.environ:
            return int(os.environ["MASTER_PORT"])
        parts = [int(os.environ.get(f"SLURM_{name}", 0)) for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
        return 10_000 + (parts[0] * 101 + parts[1] * 7 + parts[2] * 13) % 20_000


def forget_leftovers() -> None:
    """Drop what another launch left in the shell: a process would take itself for a rank that nobody waits for."""
    started = os.environ.get(STARTED_BY) == str(os.getppid())
    if started or in_slurm_step() or TorchElasticEnvironment.detect():
        return
    if left := drop_launch():
        print(f"emohead: {', '.join(left)} of another launch not used", file=sys.stderr)


def drop_launch() -> list[str]:
    """Take the variables of a launch out of the environment; their names."""
    rank_zero_only.rank = 0  # Lightning has read them when it was imported
    return [name for name in LAUNCH if os.environ.pop(name, None) is not None]


def in_slurm_step() -> bool:
    """Whether this process is a task that srun started; a batch script's own shell is none."""
    return "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ and "SLURM_NTASKS" in os.environ


def in_shell_of_step() -> bool:
    """Whether `srun --pty` has started a shell, task 0 of its step, in which this was called: by hand, thus once."""
    return os.environ["SLURM_PROCID"] == "0" and "SLURM_PTY_PORT" in os.environ


def environment(config: TrainerConfig) -> ClusterEnvironment:
    """Who starts the processes. Raises UserError if a launch has another shape than the configuration.

    Each process of such a launch would take itself for the only one, and all would write one run folder.
    """
    shape, wanted = f"trainer.nodes={config.nodes} trainer.devices={config.devices}", config.nodes * config.devices
    alone = config.strategy == "ddp" and wanted == 1
    if TorchElasticEnvironment.detect():  # also as a task of a job step
        processes = int(os.environ["WORLD_SIZE"])
        if processes != wanted:
            remedy = "torchrun takes --nnodes and --nproc-per-node"
            raise UserError(shape, f"make {wanted} processes, torchrun has started {processes}", remedy)
        return by_itself() if alone else TorchElasticEnvironment()
    if in_slurm_step() and not (alone and in_shell_of_step()):
        tasks = int(os.environ["SLURM_NTASKS"])
        if tasks != wanted:
            raise UserError(shape, f"make {wanted} processes, the job step has {tasks} tasks", TASKS)
        if alone:
            return by_itself()
        layout = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
        if any(count != config.devices for count in counts(layout)):
            raise UserError(
                f"trainer.devices={config.devices}", f"the nodes of the job step have {layout} tasks", TASKS
            )
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(config.devices))  # Lightning refuses --ntasks alone
        return SlurmEnvironment()
    if alone:
        return by_itself()
    if config.nodes > 1:
        raise UserError(f"trainer.nodes={config.nodes}", "several nodes need emohead slurm train, srun or torchrun")
    return LightningEnvironment()


def by_itself() -> ClusterEnvironment:
    """Of a run of one process, whoever has started it: Lightning would read its rank from what another launch left."""
    drop_launch()
    return LightningEnvironment()


def counts(layout: str) -> list[int]:
    """Tasks of each kind of node: "2(x3),1" -> [2, 1]."""
    return [int(part) for part in re.sub(r"\(x\d+\)", "", layout).split(",") if part.isdigit()]


def job() -> str | None:
    """The id by which SLURM knows this job, if it is one."""
    if not in_slurm_step():
        return None
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def end_of_job() -> float | None:
    """When SLURM will end this job, as time.time(); None if it has no limit or there is no job."""
    number = job()
    if number is None:
        return None
    if "SLURM_JOB_END_TIME" in os.environ:
        return float(os.environ["SLURM_JOB_END_TIME"])
    try:
        return datetime.fromisoformat(_field(number, "EndTime")).timestamp()
    except (ValueError, OSError, subprocess.SubprocessError):  # "Unknown", or no answer
        return None


def requeue() -> bool:
    """Ask SLURM to start this job again; False if there is no job, it has been cancelled, or SLURM does not do it.

    It never fails: a container has no scontrol, a busy controller may not answer. The script of the job then asks, by
    the exit code of a run that is to go on.
    """
    number = job()
    try:
        if number is None or _field(number, "JobState") != "RUNNING":
            return False
        command = ["scontrol", "requeue", number]
        return subprocess.run(command, capture_output=True, text=True, timeout=REQUEUE_TIMEOUT).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _field(number: str, name: str) -> str:
    """A field of `scontrol show job`."""
    command = ["scontrol", "--oneliner", "show", "job", number]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=REQUEUE_TIMEOUT).stdout
    fields = dict(part.split("=", 1) for part in shown.split() if "=" in part)
    return fields.get(name, "")
