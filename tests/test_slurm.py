"""The scripts in slurm/, on a real cluster of two nodes on this machine."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import emohead
from .talking_clips import snapshot

SCRIPTS = Path(__file__).parent.parent / "slurm"
DEADLINE = 180  # seconds for a job


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell that uses the cluster."""
    if os.geteuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "setpriv"))):
        pytest.skip("needs root and the packages slurm-wlm and munge")
    folder = Path("/var/tmp") / f"emohead-test-{os.getpid()}"  # short: the path of a socket may have 107 characters
    environment = os.environ | {"EMOHEAD_CLUSTER": str(folder), "EMOHEAD_CLUSTER_PORT": "17100"}
    command = tmp_path_factory.mktemp("command") / "emohead"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m emohead.apps.cli "$@"\n')
    command.chmod(0o755)
    subprocess.run([SCRIPTS / "local_cluster.sh", "up"], env=environment, check=True, timeout=120)
    yield environment | {"SLURM_CONF": str(folder / "slurm.conf"), "EMOHEAD": str(command)}
    subprocess.run([SCRIPTS / "local_cluster.sh", "down"], env=environment, check=True, timeout=120)
    assert not folder.exists()


def job_states(cluster: dict[str, str], job: str) -> dict[str, str]:
    """Tasks of a job and their states, once all have ended; a job that cannot end fails the test."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        shown = subprocess.run(["scontrol", "--oneliner", "show", "job", job], env=cluster, capture_output=True).stdout
        fields = [
            dict(part.split("=", 1) for part in line.split() if "=" in part) for line in shown.decode().split("\n")
        ]
        states = {field["JobId"]: field["JobState"] for field in fields if field}
        if states and not {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"} & set(states.values()):
            return states
        time.sleep(0.2)
    raise AssertionError(f"job {job} has not ended: {shown.decode()}")


def test_passes_as_arrays_make_the_set_that_one_command_makes(
    tmp_path: Path, people: Path, cluster: dict[str, str]
) -> None:
    options = ["--size", "64", "--codec", "mjpeg"]
    assert emohead("prepare", "folder", people, tmp_path / "alone", *options).returncode == 0
    script = [
        SCRIPTS / "prepare.sbatch",
        "2",
        "--cpus-per-task",
        "1",
        "--",
        "folder",
        people,
        tmp_path / "set",
        *options,
    ]
    (tmp_path / "elsewhere").mkdir()
    submitted = subprocess.run(script, cwd=tmp_path / "elsewhere", env=cluster, capture_output=True, text=True)
    assert submitted.returncode == 0, submitted.stderr
    jobs = dict(line.split() for line in submitted.stdout.splitlines())
    assert list(jobs) == ["track", "fit", "pack"]
    logs = lambda: "\n".join(path.read_text() for path in (tmp_path / "elsewhere").glob("*.out"))  # noqa: E731
    for name, number in (("track", 2), ("fit", 1), ("pack", 2)):
        states = job_states(cluster, jobs[name])
        assert list(states.values()) == ["COMPLETED"] * number, logs()
    assert snapshot(tmp_path / "set") == snapshot(tmp_path / "alone")


def test_a_stage_is_trained_as_a_job(tmp_path: Path, demo: Path, cluster: dict[str, str]) -> None:
    run = tmp_path / "run"
    stage = ["emotion", "-c", demo / "emotion" / "config.yaml", f"run={run}", "trainer.max_steps=2"]
    command = ["sbatch", "--parsable", "--cpus-per-task", "1", SCRIPTS / "train.sbatch", *stage]
    submitted = subprocess.run(command, cwd=tmp_path, env=cluster, capture_output=True, text=True)
    assert submitted.returncode == 0, submitted.stderr
    states = job_states(cluster, submitted.stdout.strip())
    assert list(states.values()) == ["COMPLETED"], "\n".join(path.read_text() for path in tmp_path.glob("*.out"))
    assert (run / "export" / "emotion.safetensors").is_file()
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2


@pytest.mark.parametrize("arguments", [[], ["two"], ["2", "folder", "in"], ["2", "--qos", "x", "--"]])
def test_wrong_use_of_the_preparation_says_how_to_use_it(arguments: list[str]) -> None:
    result = subprocess.run([SCRIPTS / "prepare.sbatch", *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert "slurm/prepare.sbatch PARTS" in result.stderr
