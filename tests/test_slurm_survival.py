"""Jobs on two nodes of a real cluster are preempted in every possible way; they come back and end as they should."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from emohead.models.checkpoint import load_checkpoint
from emohead.trainers.all_stages import STAGES

from .cluster import DEADLINE, field, job_states, scontrol
from .survival import rows, settings

SOAK = bool(os.environ.get("EMOHEAD_SOAK"))
STEPS = 100
Cluster = dict[str, str]


def submit(cluster: Cluster, demo: Path, stage: str, run: Path, *options: str) -> str:
    """Submit a stage on two nodes, a process on each; returns the job's id."""
    given = [*settings(demo, stage), f"trainer.max_steps={STEPS}", "trainer.val_every=50", "tracking.wandb=offline"]
    given += ["trainer.checkpoint_every=10", "data.num_workers=0", "data.batch_size=4", f"run={run}"]
    sbatch = ["--nodes", "2", "--cpus-per-task", "1", "--output", run.parent / "job.out"]
    sbatch += [option for option in options if option.startswith("--")]
    given += [option for option in options if not option.startswith("--")]
    command = [sys.executable, "-m", "emohead.apps.cli", "slurm", "train", *sbatch]
    command += ["--", stage, "-c", demo / stage / "config.yaml", *given]
    done = subprocess.run(list(map(str, command)), cwd=run.parent, env=cluster, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def ranks(run: Path) -> list[int]:
    """The processes of a run on both nodes."""
    found = subprocess.run(["pgrep", "-f", f"cli train .*run={run} "], capture_output=True, text=True).stdout.split()
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in found if Path(f"/proc/{pid}").exists()}
    return [int(pid) for pid, name in names.items() if b"apps.cli" in name and b"srun" not in name]


def wait(condition, what: str, run: Path) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what}: {(run.parent / 'job.out').read_text()[-3000:]}"
        time.sleep(0.1)


def go_on(cluster: Cluster, job: str, run: Path) -> None:
    """Wait until a job is in the queue again; a requeued job would wait two minutes there."""
    wait(lambda: field(cluster, job, "JobState") == "PENDING", "not requeued", run)
    scontrol(cluster, "update", f"jobid={job}", "starttime=now")


def disturb(cluster: Cluster, job: str, run: Path, way: str) -> None:
    if way == "requeue":
        scontrol(cluster, "requeue", job)
    elif way == "one task":
        os.kill(ranks(run)[-1], signal.SIGTERM)
    else:
        subprocess.run(["scancel", f"--signal={way}", job], env=cluster, check=True, timeout=60)


def ended_as_it_should(cluster: Cluster, job: str, run: Path, stage: str, restarts: int) -> None:
    log = (run.parent / "job.out").read_text()
    assert list(job_states(cluster, job).values()) == ["COMPLETED"], log[-3000:]
    assert int(field(cluster, job, "Restarts")) == restarts
    assert list(rows(run)) == list(range(1, STEPS + 1)), "a step is missing"
    assert list(rows(run, "val")) == [50, 100]
    names = {path.name.split("-")[-1] for path in (run / "wandb").glob("offline-run-*")}
    assert names == {(run / "wandb" / "id").read_text()}, "one W&B run"
    provenance = load_checkpoint(run / "export" / f"{STAGES[stage].kind}.safetensors").provenance
    assert provenance["steps"] in (50, STEPS), "the better of the two"
    assert "Traceback" not in log


@pytest.mark.parametrize("stage", STAGES if SOAK else ["motion"])
def test_preempted_at_random_moments_a_job_of_two_nodes_finishes(
    stage: str, demo: Path, tmp_path: Path, cluster: Cluster
) -> None:
    draws = random.Random(stage)
    ways = ["USR1", "one task", "requeue", "TERM", "USR2"] if SOAK else ["USR1", "one task", "requeue"]
    run = tmp_path / "run"
    job = submit(cluster, demo, stage, run)
    for number, way in enumerate(ways):
        last = max(rows(run), default=0)
        wait(lambda last=last: max(rows(run), default=0) > last, f"does not go on after {number} restarts", run)
        time.sleep(draws.uniform(0, 0.3))
        disturb(cluster, job, run, way)
        go_on(cluster, job, run)
    ended_as_it_should(cluster, job, run, stage, restarts=len(ways))


def test_the_end_of_its_time_finds_a_job_saved(demo: Path, tmp_path: Path, cluster: Cluster) -> None:
    run = tmp_path / "run"
    endless = ["trainer.max_steps=100000", "trainer.val_every=100000"]
    job = submit(cluster, demo, "motion", run, "--time=2", "--signal=CONT@1", "trainer.save_before=80", *endless)
    wait(lambda: len(rows(run)) > 0, "does not start", run)
    go_on(cluster, job, run)
    assert "seconds of the job are left" in (run.parent / "job.out").read_text()
    saved = max(rows(run))
    wait(lambda: max(rows(run)) > saved, "does not go on", run)
    subprocess.run(["scancel", job], env=cluster, check=True, timeout=60)
    assert list(job_states(cluster, job).values()) == ["CANCELLED"]
    assert list(rows(run)) == list(range(1, max(rows(run)) + 1)), "a step is missing"
    assert field(cluster, job, "Restarts") == "1"


def lose(rank: int, way: str) -> None:
    """Have a process die, freeze, or find no more memory."""
    if way == "memory":
        size = int(Path(f"/proc/{rank}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(rank, resource.RLIMIT_AS, (size, size))
    else:
        os.kill(rank, {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[way])


@pytest.mark.parametrize("way", ["kill", "stop", "memory"] if SOAK else ["kill"])
def test_a_job_does_not_outlive_one_of_its_ranks(way: str, demo: Path, tmp_path: Path, cluster: Cluster) -> None:
    run = tmp_path / "run"
    job = submit(cluster, demo, "motion", run, "trainer.max_steps=100000", "trainer.checkpoint_every=100000")
    wait(lambda: len(rows(run)) > 1, "does not start", run)
    (second,) = (pid for pid in ranks(run) if b"SLURM_PROCID=1" in Path(f"/proc/{pid}/environ").read_bytes())
    lose(second, way)
    began = time.monotonic()
    assert list(job_states(cluster, job).values()) == ["FAILED"]
    assert time.monotonic() - began < 60
    log = (run.parent / "job.out").read_text()
    if way == "memory":
        assert "out of memory" in log
    else:
        assert "rank 1 (host n1)" in log
        (lost,) = {entry["node"] for entry in map(json.loads, (run / "lost_nodes.jsonl").read_text().splitlines())}
        assert lost == "n1"


def test_a_cancelled_job_stays_cancelled(demo: Path, tmp_path: Path, cluster: Cluster) -> None:
    run = tmp_path / "run"
    job = submit(cluster, demo, "motion", run)
    wait(lambda: len(rows(run)) > 1, "does not start", run)
    subprocess.run(["scancel", job], env=cluster, check=True, timeout=60)
    assert list(job_states(cluster, job).values()) == ["CANCELLED"]
    assert field(cluster, job, "Restarts") == "0"
