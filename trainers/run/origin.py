"""Where a run comes from: what W&B's configuration of it and the provenance of its exports both say."""

import os
import re
import shlex
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]  # the folder that emohead is imported from
GIT_TIMEOUT = 20  # seconds
SLURM = ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "STEP_ID", "RESTART_COUNT", "JOB_NODELIST", "CLUSTER_NAME")


def origin(inputs: dict[str, str], data: list[dict[str, Any]]) -> dict[str, Any]:
    """The lineage of a run, as plain containers.

    Args:
        inputs: kind of an export that it started from -> its SHA-256.
        data: what `TalkingFaceData.provenance` says; `sha256` is over the checksums of the manifest.

    Returns:
        Both, with host, command line and, where there are any, git commit and SLURM's ids.
    """
    found: dict[str, Any] = {"inputs": inputs, "data": public(data), "host": socket.gethostname()}
    found["command"] = shlex.join([Path(sys.argv[0]).name, *map(without_secrets, sys.argv[1:])])
    slurm = {name.lower(): os.environ[f"SLURM_{name}"] for name in SLURM if f"SLURM_{name}" in os.environ}
    parts = {"git": checkout(CHECKOUT), "slurm": slurm}
    return found | {name: part for name, part in parts.items() if part}


def without_secrets(text: str) -> str:
    """Text whose addresses have neither user and password nor a query, which may hold a signature."""
    return re.sub(r"(\w+://)(?:[^/@\s]*@)?([^?\s,\]]*)(?:\?[^\s,\]]*)?", r"\1\2", text)


def public(config: Any) -> Any:
    """A configuration as containers, its addresses without secrets: exports are passed on."""
    if isinstance(config, dict):
        return {key: public(value) for key, value in config.items()}
    if isinstance(config, list):
        return [public(value) for value in config]
    return without_secrets(config) if isinstance(config, str) else config


@cache
def checkout(folder: Path) -> dict[str, Any] | None:
    """Commit of a git checkout, and whether its files differ from it; None for a folder that is none, as of a wheel.

    A repository that merely lies around the folder, as around a virtual environment, does not count.
    """
    if not (folder / ".git").exists():
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "dirty": bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # of a hook
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT, env=environment)
    except (OSError, subprocess.SubprocessError):  # no git
        return None
    return done.stdout.strip() if done.returncode == 0 else None
