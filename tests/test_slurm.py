"""`emohead slurm` and the scripts in slurm/, on a real cluster of two nodes on this machine."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from emohead.models.checkpoint import load_checkpoint

from .cluster import DEADLINE, SCRIPTS, field, job_states, scontrol
from .conftest import emohead
from .talking_clips import snapshot

STAGES = ("emotion", "motion", "face", "distill")


# Stands in for emohead if only the layout of jobs matters: says what it was given, writes what a stage exports, and
# does once what $PRETEND says.
PRETENDER = """#!/usr/bin/env bash
if [ "$1" = doctor ]; then
  [[ "$PRETEND" != ill && "$PRETEND" != "ill on $SLURMD_NODENAME" ]] || { echo "ill with $SLURM_NTASKS"; exit 2; }
  exit 0
fi
if [ "$1" = sweep ]; then
  echo "worker $SLURM_ARRAY_TASK_ID: $*"
  [ -n "${SLURM_RESTART_COUNT:-}" ] || exit 75
  while [ "$1" != --launch ]; do shift; done
  exec $2 "$0" train face "run=trial-$SLURM_ARRAY_TASK_ID" "${@:3}"
fi
layout="task $SLURM_PROCID of $SLURM_NTASKS, $SLURM_CPUS_PER_TASK CPUs, ${SLURM_GPUS_ON_NODE:-0} GPUs"
echo "$layout, $MASTER_ADDR: $*"
if [ "$1" = prepare ]; then
  [[ "$*" != *"--pass pack"* ]] || { mkdir -p "$4" && touch "$4/manifest.json"; }
  exit 0
fi
if [ "$PRETEND" = "broken $2" ] && mkdir broken 2>/dev/null; then
  until [ -e break ]; do sleep 0.1; done
  exit 1
fi
if [ "$PRETEND" = "preempted $2" ] && [ -z "${SLURM_RESTART_COUNT:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit 75
fi
if [ "$PRETEND" = "leaving $2" ] && [ -z "${SLURM_RESTART_COUNT:-}" ]; then
  exit 75
fi
if [ "$PRETEND" = saving ]; then
  trap 'sleep 1; echo saved; exit 75' TERM USR1
  touch "ready-$SLURM_PROCID"
  while true; do sleep 0.1; done
fi
run=$(sed 's/.*run=\\([^ ]*\\).*/\\1/' <<<"$*")
mkdir -p "$run/export"
touch "$run/export/${2/distill/talker}.safetensors"
"""


@pytest.fixture
def pretender(cluster: dict[str, str], tmp_path: Path) -> dict[str, str]:
    command = tmp_path / "pretender"
    command.write_text(PRETENDER)
    command.chmod(0o755)
    return cluster | {"EMOHEAD": str(command), "PRETEND": ""}


def submit(*words: object, folder: Path, env: dict[str, str]) -> dict[str, str]:
    """The names and ids of the jobs that `emohead slurm` submits."""
    command = [sys.executable, "-m", "emohead.apps.cli", "slurm", *map(str, words)]
    submitted = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert submitted.returncode == 0, submitted.stderr
    return dict(line.split() for line in submitted.stdout.splitlines())


def log_of(folder: Path, job: str) -> str:
    """What a job has printed."""
    (path,) = folder.glob(f"*-{job}.out")
    return path.read_text()


def ended(cluster: dict[str, str], job: str, folder: Path) -> str:
    """The state in which a job ends, and its output if that is not COMPLETED."""
    state = " ".join(job_states(cluster, job).values())
    if state != "COMPLETED":
        print("\n".join(path.read_text() for path in folder.rglob("*.out")))
    return state


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def in_the_queue_again(cluster: dict[str, str], job: str) -> bool:
    """Also, no daemon is left of the job's first run, whose end SLURM would take for that of the second."""
    waits = field(cluster, job, "Restarts") == "1" and field(cluster, job, "JobState") == "PENDING"
    daemon = f"slurmstepd: .{field(cluster, job, 'JobId')}[.]"
    return waits and subprocess.run(["pgrep", "-f", daemon], capture_output=True).returncode == 1


def go_on(cluster: dict[str, str], job: str) -> None:
    """Start a job as soon as it is in the queue again, where it would wait two minutes."""
    wait_for(lambda: in_the_queue_again(cluster, job))
    scontrol(cluster, "update", f"jobid={job}", "starttime=now")


def test_passes_as_arrays_make_the_set_that_one_command_makes(
    tmp_path: Path, people: Path, cluster: dict[str, str]
) -> None:
    options = ["--size", "64", "--codec", "mjpeg"]
    assert emohead("prepare", "folder", people, tmp_path / "alone", *options).returncode == 0
    (tmp_path / "elsewhere").mkdir()
    words = ["prepare", 2, "--cpus-per-task", 1, "--", "folder", people, tmp_path / "set", *options]
    jobs = submit(*words, folder=tmp_path / "elsewhere", env=cluster)
    assert list(jobs) == ["track", "fit", "pack"]
    logs = lambda: "\n".join(path.read_text() for path in (tmp_path / "elsewhere").glob("*.out"))  # noqa: E731
    for name, number in (("track", 2), ("fit", 1), ("pack", 2)):
        states = job_states(cluster, jobs[name])
        assert list(states.values()) == ["COMPLETED"] * number, logs()
    assert snapshot(tmp_path / "set") == snapshot(tmp_path / "alone")


def test_a_stage_is_trained_as_a_job(tmp_path: Path, demo: Path, cluster: dict[str, str]) -> None:
    stage = ["emotion", "-c", demo / "emotion" / "config.yaml", "run=run", "trainer.max_steps=2"]
    options = ["--cpus-per-task", 1, "--ntasks-per-node", 2]  # of which the doctor is to know
    jobs = submit("train", *options, "--", *stage, folder=tmp_path, env=cluster)
    assert ended(cluster, jobs["emotion"], tmp_path) == "COMPLETED"
    assert (tmp_path / "run" / "export" / "emotion.safetensors").is_file()
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2


def test_a_stage_is_trained_on_two_nodes(tmp_path: Path, demo: Path, cluster: dict[str, str]) -> None:
    stage = ["emotion", "-c", demo / "emotion" / "config.yaml", "run=run", "trainer.max_steps=2"]
    jobs = submit("train", "--nodes", 2, "--cpus-per-task", 1, "--", *stage, folder=tmp_path, env=cluster)
    assert ended(cluster, jobs["emotion"], tmp_path) == "COMPLETED"
    assert (tmp_path / "run" / "export" / "emotion.safetensors").is_file()
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2


@pytest.mark.parametrize(
    ("options", "tasks", "gpus"),
    [
        (["--cpus-per-task", "2"], (1, 1), 0),
        (["--cpus-per-task", "1", "--ntasks-per-node", "2"], (1, 2), 0),
        (["--cpus-per-task", "1", "--nodes", "2", "--gpus-per-node", "2"], (2, 2), 2),
        (["--cpus-per-task=1", "--gres=gpu:2"], (1, 2), 2),
    ],
)
def test_nodes_and_gpus_of_a_job_are_those_of_the_run(
    tmp_path: Path, pretender: dict[str, str], options: list[str], tasks: tuple[int, int], gpus: int
) -> None:
    jobs = submit("train", *options, "--", "face", "run=run", folder=tmp_path, env=pretender)
    assert ended(pretender, jobs["face"], tmp_path) == "COMPLETED"
    nodes, each = tasks
    said = f"{gpus} GPUs, 127.0.0.1: train face run=run trainer.nodes={nodes} trainer.devices={each}"
    said += " trainer.accelerator=gpu" if gpus else ""  # it must not fall back to the CPU
    cpus = 2 // each
    expected = [f"task {rank} of {nodes * each}, {cpus} CPUs, {said}" for rank in range(nodes * each)]
    assert sorted(log_of(tmp_path, jobs["face"]).splitlines()) == expected


def test_the_script_given_to_sbatch_finds_the_gpus(tmp_path: Path, pretender: dict[str, str]) -> None:
    options = ["--cpus-per-task", "2", "--nodes", "2", "--gpus-per-node", "2"]
    command = ["sbatch", "--parsable", *options, SCRIPTS / "train.sbatch", "face", "run=run"]
    job = subprocess.run(command, cwd=tmp_path, env=pretender, capture_output=True, check=True).stdout.decode().strip()
    assert ended(pretender, job, tmp_path) == "COMPLETED"
    log = log_of(tmp_path, job)
    assert log.count("trainer.nodes=2 trainer.devices=2") == 4
    assert "each process has 1 of its node's 2 CPUs" in log


def test_a_job_that_the_doctor_stops_starts_no_training(tmp_path: Path, pretender: dict[str, str]) -> None:
    env = pretender | {"PRETEND": "ill"}
    jobs = submit("train", "--cpus-per-task", 1, "--", "face", "run=run", folder=tmp_path, env=env)
    assert ended(pretender, jobs["face"], tmp_path) == "FAILED"
    assert "train face" not in log_of(tmp_path, jobs["face"])


def test_options_of_srun_have_a_place(tmp_path: Path, pretender: dict[str, str]) -> None:
    env = pretender | {"EMOHEAD_SRUN": f"--cpu-bind=none --error={tmp_path}/errors"}
    jobs = submit("train", "--cpus-per-task", 1, "--", "face", "run=run", folder=tmp_path, env=env)
    assert ended(pretender, jobs["face"], tmp_path) == "COMPLETED"
    assert (tmp_path / "errors").exists()


def test_the_doctor_looks_at_every_node(tmp_path: Path, pretender: dict[str, str]) -> None:
    env = pretender | {"PRETEND": "ill on n1"}
    options = ["--nodes", 2, "--ntasks-per-node", 2, "--cpus-per-task", 1]
    jobs = submit("train", *options, "--", "face", "run=run", folder=tmp_path, env=env)
    assert ended(pretender, jobs["face"], tmp_path) == "FAILED"
    log = log_of(tmp_path, jobs["face"])
    assert "ill with 4" in log, "as many processes as the training has"
    assert "train face" not in log


def test_a_run_without_scontrol_is_put_back_by_its_job(tmp_path: Path, pretender: dict[str, str]) -> None:
    env = pretender | {"PRETEND": "leaving face"}
    job = submit("train", "--cpus-per-task", 1, "--", "face", "run=run", folder=tmp_path, env=env)["face"]
    go_on(pretender, job)
    assert ended(pretender, job, tmp_path) == "COMPLETED"
    assert (tmp_path / "run" / "export" / "face.safetensors").is_file()


@pytest.mark.parametrize("signals", [["TERM", "--batch"], ["USR1", "--full"], ["USR1"]], ids=" ".join)
def test_a_signal_leaves_time_to_save(tmp_path: Path, pretender: dict[str, str], signals: list[str]) -> None:
    env = pretender | {"PRETEND": "saving"}
    options = ["--cpus-per-task", 1, "--ntasks-per-node", 2]
    job = submit("train", *options, "--", "face", "run=run", folder=tmp_path, env=env)["face"]
    wait_for(lambda: all((tmp_path / f"ready-{rank}").exists() for rank in (0, 1)))
    subprocess.run(["scancel", "--signal", *signals, job], env=env, check=True)
    if signals == ["TERM", "--batch"]:  # of which the processes hear nothing
        subprocess.run(["scancel", "--signal", "USR1", job], env=env, check=True)
    wait_for(lambda: field(pretender, job, "JobState") == "PENDING")  # exit code 75: it is to go on
    subprocess.run(["scancel", job], env=env, check=True)
    assert log_of(tmp_path, job).count("saved\n") == 2


def test_the_whole_chain_is_one_command(tmp_path: Path, demo: Path, cluster: dict[str, str]) -> None:
    steps = ["trainer.max_steps=2", "data.batch_size=4", "data.num_workers=0", "tracking.wandb=disabled"]
    sizes = [
        "face:network.size=64",
        "face:network.channels=[16,16,16,8]",
        "face:discriminator.channels=[8,16,16,16,16]",
    ]
    sizes += ["distill:network.face.size=64", "distill:network.face.channels=[16,16,8,8]"]
    words = ["--config=debug", "--cpus-per-task=1", f"data.shards=[{demo / 'data'}]", *steps, *sizes]
    jobs = submit("pipeline", "out", *words, folder=tmp_path, env=cluster)
    assert tuple(jobs) == STAGES
    assert submit("pipeline", tmp_path / "out", *words, folder=demo, env=cluster) == {}  # queued or running
    for stage in STAGES:
        assert ended(cluster, jobs[stage], tmp_path) == "COMPLETED"
    talker = load_checkpoint(tmp_path / "out" / "talker.safetensors", kind="talker")
    assert talker.provenance["steps"] == 2
    assert set(talker.provenance["inputs"]) == {"emotion", "motion", "face"}
    assert submit("pipeline", "out", *words, folder=tmp_path, env=cluster) == {}  # finished


def test_a_chain_begins_with_the_videos_and_is_repaired(tmp_path: Path, pretender: dict[str, str]) -> None:
    env = pretender | {"PRETEND": "broken emotion"}
    (tmp_path / "videos").mkdir()
    (tmp_path / "mine.yaml").touch()
    words = ["--cpus-per-task=1", "face:trainer.max_steps=5", "seed=3", "face:mine.yaml", "distill:--nodes=2"]
    command = ["out", *words, "--", 2, "--cpus-per-task", 1, "--", "folder", "videos", "data", "--size", 64]
    jobs = submit("pipeline", *command, folder=tmp_path, env=env)
    assert list(jobs) == ["track", "fit", "pack", *STAGES]
    assert submit("pipeline", *command, folder=tmp_path, env=env) == {}
    (tmp_path / "break").touch()
    assert ended(env, jobs["emotion"], tmp_path) == "FAILED"
    again = submit("pipeline", *command, folder=tmp_path, env=env)
    assert list(again) == ["emotion", "motion", "distill"]
    assert ended(env, again["distill"], tmp_path) == "COMPLETED"
    assert job_states(env, jobs["motion"]) == {jobs["motion"]: "CANCELLED"}
    assert (tmp_path / "out" / "talker.safetensors").exists()
    assert submit("pipeline", *command, folder=tmp_path, env=env) == {}

    logs = {path.name.split("-")[0]: path.read_text() for path in (tmp_path / "out" / "logs").glob("*.out")}
    base, data = tmp_path / "out", f"data.shards=[{tmp_path / 'data'}]"
    given = f"train face -c face-base run={base / 'face'} {data} trainer.max_steps=5 seed=3 -c mine.yaml"
    assert given in logs["face"]
    assert f"emotion={base / 'emotion' / 'export' / 'emotion.safetensors'}" in logs["motion"]
    assert "trainer.nodes=2" in logs["distill"]


def test_a_preempted_stage_keeps_those_that_wait_for_it(tmp_path: Path, pretender: dict[str, str]) -> None:
    env = pretender | {"PRETEND": "preempted emotion"}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").touch()
    words = ["pipeline", "out", "--cpus-per-task=1", "data.shards=[data]"]
    jobs = submit(*words, folder=tmp_path, env=env)
    wait_for(lambda: in_the_queue_again(env, jobs["emotion"]))
    assert submit(*words, folder=tmp_path, env=env) == {}
    go_on(env, jobs["emotion"])
    assert ended(env, jobs["distill"], tmp_path) == "COMPLETED"


def test_workers_of_a_sweep_train_as_jobs_do_and_come_back(tmp_path: Path, pretender: dict[str, str]) -> None:
    (tmp_path / "lr.yaml").touch()
    words = ["sweep", "lr.yaml", "--tasks", 2, "--cpus-per-task=1", "--ntasks-per-node=2", "--", "seed=3"]
    job = submit(*words, folder=tmp_path, env=pretender)["sweep"]
    for task in (f"{job}_1", f"{job}_2"):
        go_on(pretender, task)
    assert list(job_states(pretender, job).values()) == ["COMPLETED"] * 2
    folder = tmp_path / "runs" / "sweeps" / "lr"
    shape = "trainer.nodes=1 trainer.devices=2"
    for number in (1, 2):
        lines = (folder / "logs" / f"{job}_{number}.out").read_text().splitlines()
        first, again, *trial = [line for line in lines if not line.startswith("slurmstepd")]  # of the requeue
        assert first == again
        assert first.startswith(f"worker {number}: sweep lr.yaml --out {folder} seed=3 --launch srun --export ALL ")
        assert first.endswith(
            f"--nodes 1 --ntasks 2 --ntasks-per-node 2 --cpus-per-task 1 --kill-on-bad-exit=1 {shape}"
        )
        said = f"of 2, 1 CPUs, 0 GPUs, 127.0.0.1: train face run=trial-{number} {shape}"
        assert sorted(trial) == [f"task {rank} {said}" for rank in (0, 1)]
