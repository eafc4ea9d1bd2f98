"""Who works on a trial: a file for each, held by one worker at a time, on any machine.

A worker links its lease into place, which only one can, and touches it all the time. The lease of a worker that has
died is renamed away, which only one can, and taken anew. One on another machine, whose process cannot be seen, counts
as dead when nobody has touched it for a while; clocks of two machines are never compared.
"""

import contextlib
import json
import os
import secrets
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from ...models.lock import BEAT, SILENCE, Owner


class Held(NamedTuple):
    """What stands in a lease."""

    owner: Owner | None  # None: it is not readable, as a disk may leave it after a power cut
    token: str  # of this one lease
    touched: int  # ns


class Lease:
    """The right to work on one trial."""

    def __init__(self, path: Path, token: str, beat: float) -> None:
        self.path, self.token = path, token
        self.lost = threading.Event()  # another worker took this one for dead
        self._done = threading.Event()
        threading.Thread(target=self._beat, args=(beat,), daemon=True).start()

    def release(self) -> None:
        self._done.set()
        if self._mine():
            self.path.unlink(missing_ok=True)

    def _mine(self) -> bool:
        try:
            held = read(self.path)
        except OSError:  # of a disk that does not answer: nobody has taken it
            return True
        return held is not None and held.token == self.token

    def _beat(self, beat: float) -> None:
        while not self._done.wait(beat):
            if not self._mine():
                self.lost.set()
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)


class Leases:
    """The leases of a sweep, as one worker sees them."""

    def __init__(self, folder: Path, *, beat: float = BEAT, silence: float = SILENCE) -> None:
        self.folder, self.beat, self.silence = folder, beat, silence
        # A job that is requeued has another life than before, so its id says nothing of who is alive.
        self.owner = replace(Owner.here(), job="")
        self.seen: dict[str, tuple[int, float]] = {}  # token -> time of its last touch, and when that was seen first
        self.alive: set[str] = set()  # tokens that were seen to be touched
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, number: int) -> Lease | None:
        """The lease of a trial; None if another worker has it."""
        path = self.path(number)
        try:
            held = read(path)
        except OSError:
            return None
        if held and not (self.is_dead(held) and self._clear(path, held)):
            return None
        token = secrets.token_hex(8)
        aside = path.with_name(f"{path.name}.{token}")
        aside.write_text(json.dumps({"owner": asdict(self.owner), "token": token}) + "\n", encoding="utf-8")
        try:
            os.link(aside, path)  # there at once, with its content
        except FileExistsError:
            return None
        finally:
            aside.unlink(missing_ok=True)
        return Lease(path, token, self.beat)

    def is_dead(self, held: Held) -> bool:
        """Whether the holder of a lease is known to have died."""
        if held.owner and held.owner.lives is not None:
            return not held.owner.lives and held.owner != self.owner
        touched, since = self.seen.setdefault(held.token, (held.touched, time.monotonic()))
        if touched != held.touched:
            self.seen[held.token] = (held.touched, time.monotonic())
            self.alive.add(held.token)
            return False
        return time.monotonic() - since > self.silence

    def undecided(self, number: int) -> bool:
        """Whether more time must pass until it is known if the worker of a running trial lives."""
        try:
            held = read(self.path(number))
        except OSError:
            return True
        if held is None or self.is_dead(held):
            return True
        return (held.owner is None or held.owner.lives is None) and held.token not in self.alive

    def path(self, number: int) -> Path:
        return self.folder / f"{number:04d}"

    def _clear(self, path: Path, held: Held) -> bool:
        """Rename a dead lease away, which one worker can; False if another was faster."""
        doomed = path.with_name(f"{path.name}.{secrets.token_hex(8)}.dead")
        try:
            path.rename(doomed)
        except FileNotFoundError:
            return False
        now = read(doomed)
        mistaken = now is not None and now.token != held.token  # one that was taken in this moment
        if mistaken:
            with contextlib.suppress(OSError):
                os.link(doomed, path)
        doomed.unlink(missing_ok=True)
        return not mistaken


def read(path: Path) -> Held | None:
    """A lease; None if there is none. Raises OSError if the disk does not answer."""
    try:
        with open(path, encoding="utf-8") as file:  # NFS looks anew when a file is opened
            touched = os.fstat(file.fileno()).st_mtime_ns
            try:
                content = json.load(file)
                return Held(Owner(**content["owner"]), content["token"], touched)
            except (ValueError, TypeError, KeyError):
                return Held(None, f"unreadable since {touched}", touched)
    except FileNotFoundError:
        return None
