"""Runs that are disturbed: started as a user starts them, stopped at a moment, compared with an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PREEMPTED = 75
DEADLINE = 600  # seconds for a run, on whatever machine


def settings(demo: Path, stage: str) -> list[str]:
    """A few steps of a stage of the tiny chain, with all that it can have, on one thread a process."""
    common = ["trainer.max_steps=8", "trainer.log_every=1", "trainer.val_every=4", "trainer.checkpoint_every=2"]
    common += ["trainer.threads=1", "data.batch_size=8", "data.num_workers=1", "tracking.wandb=disabled"]
    common += ["trainer.precision=32-true", "trainer.accelerator=cpu", "trainer.timeout=300"]
    if stage == "face":
        common += [f"perceptual.emotion={demo / 'emotion/export/emotion.safetensors'}"]
        common += ["adversary.start=1", "adversary.r1_every=2"]
    return common


def start(demo: Path, stage: str, run: Path, *overrides: str, group: bool = False) -> subprocess.Popen:
    """Start a run, in a process group of its own if `group`."""
    command = [sys.executable, "-m", "emohead.apps.cli", "train", stage, "-c", demo / stage / "config.yaml"]
    command += [*settings(demo, stage), f"run={run}", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    at_hand = {"start_new_session": True, "preexec_fn": hear_interrupts} if group else {}
    return subprocess.Popen(list(map(str, command)), env=environment, **pipes, **at_hand)


def hear_interrupts() -> None:
    """Called in a child, to act as at a terminal: a shell's background processes and their children ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """Wait for the end of a run, which must have this exit code; returns what it printed."""
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == code, f"{process.returncode} instead of {code}:\n{output}"
    return output


def rows(run: Path, kind: str = "train") -> dict[int, dict]:
    """The rows of metrics.jsonl by step; none of them twice."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    found = [row for row in parsed if any(name.startswith(f"{kind}/") for name in row)]
    steps = [row["step"] for row in found]
    assert steps == sorted(set(steps)), f"{kind} rows of steps {steps}"
    return {row["step"]: row for row in found}


def losses(run: Path) -> dict[int, dict[str, float]]:
    """The values that a step computed, without its time and speed."""
    kept = ("_loss", "/loss", "logit", "penalty")
    return {step: {k: v for k, v in row.items() if k.endswith(kept)} for step, row in rows(run).items()}


def wait_for_step(process: subprocess.Popen, run: Path, step: int) -> None:
    end = time.monotonic() + DEADLINE
    while max(rows(run), default=0) < step:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, f"step {step} was not reached"
        time.sleep(0.02)


def children(process: subprocess.Popen) -> list[int]:
    """Processes that a run has started and that are ranks too; a worker that reads data is none."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in found if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes()]


def kill(process: subprocess.Popen) -> None:
    """SIGKILL for all ranks and their workers, as a node that fails."""
    for child in children(process):
        os.kill(child, signal.SIGKILL)
    process.kill()
    process.communicate()
