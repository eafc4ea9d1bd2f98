"""A real SLURM cluster of two nodes on this machine, and what its jobs are doing."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "slurm"
DEADLINE = 900  # seconds for a job


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell that uses the cluster."""
    if os.geteuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "setpriv"))):
        pytest.skip("needs root and the packages slurm-wlm and munge")
    folder = Path("/var/tmp") / f"emohead-test-{os.getpid()}"  # short: the path of a socket may have 107 characters
    environment = os.environ | {"EMOHEAD_CLUSTER": str(folder), "EMOHEAD_CLUSTER_PORT": "17100"}
    environment["EMOHEAD_CLUSTER_GPUS"] = "2"
    command = tmp_path_factory.mktemp("command") / "emohead"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m emohead.apps.cli "$@"\n')
    command.chmod(0o755)
    subprocess.run([SCRIPTS / "local_cluster.sh", "up"], env=environment, check=True, timeout=300)
    yield environment | {"SLURM_CONF": str(folder / "slurm.conf"), "EMOHEAD": str(command)}
    subprocess.run([SCRIPTS / "local_cluster.sh", "down"], env=environment, check=True, timeout=300)
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


def field(cluster: dict[str, str], job: str, name: str) -> str:
    """A field of `scontrol show job`."""
    command = ["scontrol", "--oneliner", "show", "job", job]
    shown = subprocess.run(command, env=cluster, capture_output=True, text=True).stdout
    return dict(part.split("=", 1) for part in shown.split() if "=" in part).get(name, "")


def scontrol(cluster: dict[str, str], *arguments: str) -> None:
    subprocess.run(["scontrol", *arguments], env=cluster, check=True, capture_output=True, timeout=60)
