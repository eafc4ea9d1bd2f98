"""Checks of `emohead doctor` on the machine: devices, driver, port, login at W&B, packages.

GPUs are counted by NVML and described by nvidia-smi, a process of its own: no CUDA context is made.
"""

import errno
import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires

import torch
from packaging.requirements import Requirement

from ...datamodules.batch import batch_bytes
from ...datamodules.module import DataFacts
from ...datamodules.stream.memory import room_for_sharing
from ...models.versions import installed
from ..engines.precision import FIRST_BFLOAT16, emulated_on_cpu, settled
from ..run.cluster import in_slurm_step
from ..run.cpu import usable_cores
from ..stage import StageConfig
from ..tracking import ONLINE, TrackingConfig, has_key, mode
from .finding import Finding, State
from .slurm import number

PACKAGES = ("torch", "pytorch-lightning", "deepspeed")
PATIENCE = 5  # seconds for nvidia-smi

# ---------------------------------------------------------------------------------------------- devices


def devices(config: StageConfig) -> list[Finding]:
    """Processes against the GPUs or cores of this machine; in a job SLURM has been asked."""
    c = config.trainer
    if "SLURM_JOB_ID" in os.environ:
        return []
    gpus = torch.cuda.device_count()
    if c.accelerator in ("gpu", "cuda") and not gpus:
        problem = f"trainer.accelerator={c.accelerator}, but there is no GPU here"
        if shutil.which("sbatch"):  # a login node
            return [Finding("devices", "warning", problem, f"start it as a job: sbatch --gpus-per-node {c.devices}")]
        return [Finding("devices", "wrong", problem, "trainer.accelerator=cpu")]
    if c.accelerator != "cpu" and gpus:
        if gpus >= c.devices:
            return [Finding("devices", "ok", f"processes: {c.devices}, GPUs: {gpus}")]
        problem = f"trainer.devices={c.devices}, but there are {gpus} GPUs here"
        return [Finding("devices", "wrong", problem, f"trainer.devices={gpus}")]
    cores, wanted = usable_cores(), c.devices * (config.data.num_workers + 1)
    told = f"processes: {c.devices}, workers of each: {config.data.num_workers}, CPU cores: {cores}"
    if wanted <= cores:
        return [Finding("devices", "ok", told)]
    fewer = cores // c.devices - 1 if c.devices > 0 else 0
    remedy = f"data.num_workers={fewer}" if fewer >= 0 else f"trainer.devices={cores}"
    return [Finding("devices", "warning", f"{told}, which they share", remedy)]


# ---------------------------------------------------------------------------------------------- GPU


@dataclass
class Driver:
    """The answer of nvidia-smi about this machine."""

    version: str
    cuda: tuple[int, int]  # the newest version that it runs; (0, 0): unknown
    gpus: list[tuple[str, tuple[int, int]]]  # name, compute capability


def driver(config: StageConfig) -> list[Finding]:
    """NVIDIA's driver against the build of torch, and the precision against the GPUs."""
    seen = nvidia_smi()
    if seen is None:
        return no_gpu(config)
    if config.trainer.accelerator == "cpu":
        return [Finding("GPU", "ok", f"not used: trainer.accelerator=cpu; {described(seen)}"), *cpu_arithmetic(config)]
    if torch.version.cuda is None:
        problem = f"torch {torch.__version__} is a build without CUDA, so that the CPU is used; {described(seen)}"
        state: State = "warning" if config.trainer.accelerator == "auto" else "wrong"
        remedy = f"pip install torch=={torch.__version__.split('+')[0]}, a build with CUDA"
        return [Finding("GPU", state, problem, remedy), *cpu_arithmetic(config)]
    built = tuple(map(int, torch.version.cuda.split(".")[:2]))
    if (0, 0) < seen.cuda < (built[0], 0):
        problem = (
            f"driver {seen.version} runs CUDA {seen.cuda[0]}.{seen.cuda[1]}, torch is built for {torch.version.cuda}"
        )
        return [Finding("GPU", "wrong", problem, f"a newer driver, or a build of torch for CUDA {seen.cuda[0]}")]
    found = [Finding("GPU", "ok", f"{described(seen)}, torch for CUDA {torch.version.cuda}, NCCL {nccl()}")]
    old = [name for name, capability in seen.gpus if capability < FIRST_BFLOAT16]
    if old and config.trainer.precision in ("bf16-mixed", "auto"):
        problem = f"{old[0]} has no bfloat16 arithmetic: trainer.precision={config.trainer.precision} is slow there"
        found.append(Finding("GPU", "warning", problem, "trainer.precision=16-mixed"))
    return found


def no_gpu(config: StageConfig) -> list[Finding]:
    c = config.trainer
    if count := torch.cuda.device_count():  # of another maker, or without nvidia-smi
        return [Finding("GPU", "ok", f"GPUs: {count}, which nvidia-smi does not describe")]
    if c.accelerator == "cpu":
        return [Finding("GPU", "ok", "none here, none wanted"), *cpu_arithmetic(config)]
    if "SLURM_JOB_ID" in os.environ and number("SLURM_GPUS_ON_NODE"):
        problem = "the job has GPUs, but nvidia-smi finds none here"
        state: State = "wrong"
        if c.accelerator == "auto":
            problem, state = f"{problem}: the CPU is used", "warning"
        return [Finding("GPU", state, problem, "a node whose driver works, or trainer.accelerator=cpu")]
    if c.accelerator == "auto":
        told = "none here: the CPU is used, as with trainer.accelerator=cpu. Is that expected?"
        return [Finding("GPU", "ok", told), *cpu_arithmetic(config)]
    return []  # `devices` or `job` has said so


def cpu_arithmetic(config: StageConfig) -> list[Finding]:
    """Settings that are slow on this CPU, or do not work on it at all."""
    c, found = config.trainer, []
    if slow := emulated_on_cpu(c.precision):
        found.append(Finding("CPU", "warning", slow, "trainer.precision=auto"))
    elif c.precision == "auto":
        found.append(Finding("CPU", "ok", f"trainer.precision=auto is {settled('auto', 'cpu')} for a new run here"))
    compiler = os.environ.get("CXX", "g++")
    if c.compile and not shutil.which(compiler):
        problem = f"trainer.compile=true needs a C++ compiler on a CPU, and there is no {compiler}"
        found.append(Finding("CPU", "wrong", problem, "install g++, or trainer.compile=false"))
    elif c.compile:
        problem = "trainer.compile=true on a CPU takes minutes to start, and some processors give NaN (torch 2.13)"
        found.append(Finding("CPU", "warning", problem, "trainer.compile=false"))
    return found


def nvidia_smi() -> Driver | None:
    """None if there is no such program, no driver or no GPU."""
    listed = told("--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")
    gpus = [tuple(part.strip() for part in line.split(",")) for line in listed.splitlines()]
    known = [(g[0], whole(g[1])) for g in gpus if len(g) == 3]
    if not known:
        return None
    newest = re.search(r"CUDA[^:]*Version: *([\d.]+)", told())
    return Driver(gpus[0][2], whole(newest[1]) if newest else (0, 0), known)


def told(*options: str) -> str:
    try:
        return subprocess.run(["nvidia-smi", *options], capture_output=True, text=True, timeout=PATIENCE).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def whole(text: str) -> tuple[int, int]:
    """A version as two numbers; (0, 0) if the text is no version."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def described(seen: Driver) -> str:
    names = [name for name, _ in seen.gpus]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) + f", driver {seen.version}"


def nccl() -> str:
    return ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "not built in"


# ---------------------------------------------------------------------------------------------- port


def port() -> list[Finding]:
    """Whether MASTER_PORT can be bound on the first node."""
    given = os.environ.get("MASTER_PORT")
    if given is None or (in_slurm_step() and os.environ["SLURM_PROCID"] != "0"):
        return []
    remedy = "unset MASTER_PORT: a free one is found"
    if not given.isdigit() or not 0 < int(given) < 65536:
        return [Finding("port", "wrong", f"MASTER_PORT={given} is no port", remedy)]
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", int(given)))
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound ({error.strerror})"
        return [Finding("port", "wrong", f"MASTER_PORT={given} {reason}", remedy)]
    return [Finding("port", "ok", f"MASTER_PORT={given} is free")]


# ---------------------------------------------------------------------------------------------- W&B and packages


def shared_memory(stage: str, config: StageConfig, facts: DataFacts) -> list[Finding]:
    """Whether the workers of a rank find room to share their batches with the trainer."""
    c, room, workers = config.trainer, room_for_sharing(), config.data.num_workers
    own = max(1, config.data.batch_size // max(1, c.nodes * c.devices))
    sizes = {"size": facts.size, "motion_dim": facts.motion_dim, "identity_dim": facts.identity_dim}
    batch = batch_bytes(stage, batch_size=own, num_frames=config.data.window_frames, **sizes)
    wanted = batch * workers * (config.data.prefetch + 1)
    if room is None or not workers or room >= wanted:
        return []
    problem = (
        f"/dev/shm has {room / 1e6:.0f} MB free, batches of all workers take {wanted / 1e6:.0f} MB: pipes are slower"
    )
    return [Finding("shared memory", "warning", problem, "docker run --shm-size=8g, or data.num_workers=0")]


def tracking(config: TrackingConfig) -> list[Finding]:
    """Whether W&B can log in."""
    chosen = mode(config, os.environ)
    if chosen != ONLINE or has_key():
        return [Finding("W&B", "ok", chosen)]
    problem = "tracking.wandb=online, but neither WANDB_API_KEY nor an entry in ~/.netrc"
    return [Finding("W&B", "wrong", problem, "tracking.wandb=offline (`wandb sync` sends it later), or `wandb login`")]


def packages(*, deepspeed: bool) -> list[Finding]:
    """Installed versions against the range that this version of emohead wants."""
    try:
        needed = {need.name: need.specifier for need in map(Requirement, requires("emohead") or [])}
    except PackageNotFoundError:
        problem = "emohead is not installed, so nothing says what it needs"
        return [Finding("packages", "warning", problem, "pip install -e .")]
    found = []
    for name in PACKAGES:
        wanted, held = needed[name], installed(name)
        remedy = f"pip install '{name}{wanted}'"
        if held is None:
            state: State = "wrong" if deepspeed or name != "deepspeed" else "warning"
            found.append(Finding("packages", state, f"{name} is not installed", remedy))
        elif not wanted.contains(held, prereleases=True):
            problem = f"{name} {held}, emohead wants {wanted}"
            found.append(Finding("packages", "warning", problem, remedy))
    return found or [Finding("packages", "ok", ", ".join(f"{name} {installed(name)}" for name in PACKAGES))]
