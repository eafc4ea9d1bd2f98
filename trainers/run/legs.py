"""`legs.jsonl` in a run folder: one line for each leg of a run, from a start to the end of that process.

Rank 0 writes it, with the lock of the run folder held. A leg that was killed has a start and no end until the next leg
closes its line, with the time of the newest file that it left.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...models.files import written_aside
from .preemption import Preempted
from .pruning import Pruned

if TYPE_CHECKING:  # `emohead runs` reads legs without Lightning, which takes seconds to import
    from ..stage import Stage

LEGS = "legs.jsonl"
OF_A_START = (".lock", "config.yaml", LEGS)  # files that a leg writes when it starts, and never while it trains
SENT_LATER = ("wandb", "export")  # folders that other commands write to, days later
MAX_FILES = 10_000  # that are looked at for the newest


@dataclass
class Leg:
    """A process of a run: when, where, on how much, how far."""

    stage: str
    started: float  # seconds since 1970, as time.time()
    host: str
    pid: int
    devices: int  # processes of all nodes, a device each
    accelerator: str  # cpu or gpu
    first_step: int  # steps done when it started
    monitor: str = ""  # the stage's metric, with - if less is better
    parents: dict[str, str] = field(default_factory=dict)  # key of the configuration -> export that it started from
    job: str = ""  # SLURM's, as squeue writes it
    restarts: int = 0  # how often SLURM had started that job before
    ended: float | None = None  # None: it goes on, or was killed
    how: str = ""  # done, preempted, interrupted (Ctrl-C), failed, pruned or killed; empty: not ended
    error: str = ""  # of one that failed
    estimated: bool = False  # whether `ended` is a guess
    last_step: int | None = None

    def seconds(self, now: float) -> float:
        return max(0.0, (now if self.ended is None else self.ended) - self.started)

    @property
    def own(self) -> bool:
        return (self.host, self.pid) == (socket.gethostname(), os.getpid())


def read_legs(run: Path) -> list[Leg]:
    """All legs of a run, oldest first; none if it was trained before they were written down."""
    try:
        lines = (run / LEGS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    known, found = {item.name for item in fields(Leg)}, []
    for line in lines:
        try:
            found.append(Leg(**{key: value for key, value in json.loads(line).items() if key in known}))
        except (ValueError, TypeError, AttributeError):  # cut off, or by hand
            continue
    return found


def begin_leg(run: Path, stage: "Stage") -> None:
    """Note that this process has begun to train. For rank 0, with the lock of the run folder held."""
    from .cluster import job

    c = stage.config.trainer
    legs = read_legs(run)
    if legs and legs[-1].ended is None:
        close(run, legs[-1], "killed")
        legs[-1].ended, legs[-1].estimated = max(legs[-1].started, newest_file(run)), True
    legs.append(
        Leg(
            stage=stage.name,
            started=time.time(),
            host=socket.gethostname(),
            pid=os.getpid(),
            devices=c.nodes * c.devices,
            accelerator="cpu" if c.accelerator == "cpu" or not torch.cuda.is_available() else "gpu",
            first_step=last_step(run, checkpoints_only=True),
            monitor=stage.monitor,
            parents={start.key: start.file(stage.config) for start in stage.given(stage.config)},
            job=job() or os.environ.get("SLURM_JOB_ID", ""),
            restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        )
    )
    write_legs(run, legs)


@contextmanager
def ending_leg(run: Path) -> Iterator[None]:
    """Note at the end of the block how the leg has ended that this process began within it, if it did."""
    how, told = "done", ""
    try:
        yield
    except Preempted as preempted:
        how = "interrupted" if preempted.by_hand else "preempted"
        raise
    except Pruned:
        how = "pruned"
        raise
    except (KeyboardInterrupt, SystemExit):
        how = "interrupted"
        raise
    except BaseException as error:
        how, told = "failed", " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise
    finally:
        _end(run, how, told)


def _end(run: Path, how: str, error: str) -> None:
    legs = read_legs(run)
    if not legs or not legs[-1].own or legs[-1].ended is not None:
        return
    close(run, legs[-1], how)
    legs[-1].error = error
    try:
        write_legs(run, legs)
    except OSError as full:  # what ended the run is told, and it may be this
        print(f"emohead: {run / LEGS}: {full.strerror}; the end of this leg is not noted there", file=sys.stderr)


def close(run: Path, leg: Leg, how: str) -> None:
    leg.how, leg.ended, leg.last_step = how, round(time.time(), 3), last_step(run)


def write_legs(run: Path, legs: list[Leg]) -> None:
    with written_aside(run / LEGS) as partial:
        partial.write_text("".join(json.dumps(asdict(leg)) + "\n" for leg in legs), encoding="utf-8")


def seconds_so_far(run: Path) -> float:
    """Seconds of all legs of a run, those of one that goes on up to now."""
    return sum(leg.seconds(time.time() if leg.own else newest_file(run, beaten=True)) for leg in read_legs(run))


def last_step(run: Path, *, checkpoints_only: bool = False) -> int:
    """The last step that a run folder knows of: of a checkpoint, or of a row of metrics.jsonl."""
    names = [path.name.removeprefix("step-") for path in (run / "checkpoints").glob("step-*")]
    steps = [int(name) for name in names if name.isdigit()]
    return max([0, *steps] if checkpoints_only else [0, *steps, _last_row(run / "metrics.jsonl")])


def _last_row(path: Path, tail: int = 1 << 16) -> int:
    """The step of the last whole line; 0 if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - tail))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError):  # cut off
            continue
    return 0


def newest_file(run: Path, *, beaten: bool = False) -> float:
    """When the newest file of a run folder was written, in seconds since 1970; 0 if there is none.

    beaten: the lock counts too, which a process touches every few seconds; only if no other has taken it over.
    """
    newest, left = 0.0, MAX_FILES
    for folder, below, names in os.walk(run):
        below[:] = [name for name in below if name not in SENT_LATER]
        for name in names[:left]:
            if folder == str(run) and name in OF_A_START and not (beaten and name == ".lock"):
                continue
            try:
                newest = max(newest, os.lstat(os.path.join(folder, name)).st_mtime)
            except OSError:  # gone by now
                continue
        left -= len(names)
        if left <= 0:
            break
    return newest
