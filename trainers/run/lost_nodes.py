"""`lost_nodes.jsonl` in a run folder: the nodes on which a rank died or stood still, leg by leg.

A node that did so in two legs of a run is not asked for again: `emohead slurm train` excludes it.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from .cluster import job

LOST = "lost_nodes.jsonl"
BORNE = 1  # legs that a node may end


def own_node() -> str | None:
    """The name by which SLURM knows this node, if this process belongs to a job."""
    return os.environ.get("SLURMD_NODENAME") if job() else None


def note_lost(run: Path, nodes: Iterable[str]) -> None:
    """Write down nodes that ended this leg of a job; several ranks may. Outside of a job nothing is written."""
    if (number := job()) is None:
        return
    where = {"job": number, "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0), "time": round(time.time(), 1)}
    lines = "".join(json.dumps({"node": node} | where) + "\n" for node in nodes)
    with contextlib.suppress(OSError):  # what ends the run is told all the same, and it may be this disk
        file = os.open(run / LOST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, lines.encode())  # in one piece: others append too
        finally:
            os.close(file)


def lost_often(run: Path) -> list[str]:
    """The nodes that ended more legs of a run than BORNE."""
    legs: dict[str, set[tuple[str, int]]] = {}
    try:
        lines = (run / LOST).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError):  # cut off, or by hand
            entry = json.loads(line)
            legs.setdefault(entry["node"], set()).add((entry["job"], entry["restarts"]))
    return sorted(node for node, ended in legs.items() if len(ended) > BORNE)
