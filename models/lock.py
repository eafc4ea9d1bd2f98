"""Locks on folders and files that one process at a time may write, on one machine or on several that share a disk."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import UserError
from .files import fitting

BEAT = 10.0  # seconds after which an owner touches its lock
SILENCE = 4 * BEAT  # seconds without a touch after which an owner on another machine is taken to be dead
SETTLES = 0.2  # seconds that two who take over the same lock need to see who was last


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock."""

    host: str
    pid: int
    born: str  # its boot, name space of process ids and start in ticks: process ids are used again
    job: str  # SLURM's; a job that is requeued takes over its own lock on any node

    @classmethod
    def here(cls) -> "Owner":
        return cls(socket.gethostname(), os.getpid(), _born(os.getpid()), os.environ.get("SLURM_JOB_ID", ""))

    @property
    def in_sight(self) -> bool:
        """Whether this process sees all processes where the owner is, so that it knows whether the owner lives."""
        here = Owner.here()
        return bool(here.born) and (self.host, self.born.split()[:2]) == (here.host, here.born.split()[:2])

    @property
    def lives(self) -> bool | None:
        """None: it cannot be seen from here."""
        here = Owner.here()
        if self.in_sight:
            return self != here and _born(self.pid) == self.born
        return False if self.job and self.job == here.job else None


@contextlib.contextmanager
def locked(path: Path, name: str = "", what: Path | None = None) -> Iterator[None]:
    """Hold the lock of a folder (a file `.lock` in it) or, with `name`, of a file in it, until the block ends.

    The lock of a process that has died is taken over. That of one on another machine is watched first: an owner touches
    its lock all the time. Raises UserError, about `what`, if another process holds it.
    """
    there = path.is_dir()
    path.mkdir(parents=True, exist_ok=True)
    file = path / fitting(f".{name}" if name else "", ".lock")
    owner = Owner.here()
    _take(file, owner, what or path / name)
    done = threading.Event()
    threading.Thread(target=_beat, args=(file, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        if _read(file) == owner:
            file.unlink(missing_ok=True)
        if not there:
            with contextlib.suppress(OSError):  # something was written into it
                path.rmdir()


def held(path: Path) -> bool:
    """Whether a living process holds the lock of a folder, as far as that can be told at once; nothing is written.

    The lock of a process on another machine counts as held if it was touched lately by this machine's clock.
    """
    owner = _read(path / ".lock")
    if owner is None:
        return False
    if owner.in_sight:
        return _born(owner.pid) == owner.born
    return time.time() - _time(path / ".lock") / 1e9 < SILENCE


def _take(file: Path, owner: Owner, what: Path) -> None:
    aside = file.with_name(f"{file.name[:200]}.{owner.pid}")
    aside.write_text(json.dumps(asdict(owner)) + "\n", encoding="utf-8")
    try:
        os.link(aside, file)  # there at once, with its content
        return
    except FileExistsError:
        _take_over(file, aside, owner, what)
    finally:
        aside.unlink(missing_ok=True)


def _take_over(file: Path, aside: Path, owner: Owner, what: Path) -> None:
    before = _read(file)
    if before is not None and (before.lives or (before.lives is None and _touched(file, before, what))):
        where = "" if before.host == owner.host else f" on {before.host}"
        raise UserError(what, f"process {before.pid}{where} is at it", "wait for it, or end it first")
    aside.replace(file)
    time.sleep(SETTLES)
    if _read(file) != owner:
        raise UserError(what, "another process is at it", "wait for it, or end it first")


def _touched(file: Path, owner: Owner, what: Path) -> bool:
    """Whether the lock's time changes while it is watched; clocks of two machines are not compared."""
    told = f"{what} is locked by process {owner.pid} on {owner.host}; watching it for {SILENCE:.0f} s"
    print(f"emohead: {told}", file=sys.stderr)
    first, end = _time(file), time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(1.0)
        if _time(file) != first:
            return True
    return False


def _time(file: Path) -> int:
    try:
        with open(file, "rb") as opened:  # NFS looks anew when a file is opened; else it may tell what it remembers
            return os.fstat(opened.fileno()).st_mtime_ns
    except OSError:
        return 0


def _beat(file: Path, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(file)


def _read(file: Path) -> Owner | None:
    """The owner that a lock names; None if it names none, as when its writer died in the middle."""
    try:
        return Owner(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _born(pid: int) -> str:
    """Boot, name space and start of a process; empty if there is no such process or nothing is told of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = rest[18]
    except (OSError, IndexError):
        return ""
    return "" if state in "ZX" else f"{boot} {space} {ticks}"  # one that has died may wait for its parent to notice
