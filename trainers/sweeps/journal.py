"""The record of a sweep: Optuna's journal, a file that workers on many machines append to, kept twice.

Optuna reads a journal line by line and takes no half one: a writer that dies in the middle of a line, or a disk that
loses its end, would make the file useless to all. So each line goes into two files, one after the other, and before
anything is written both are cut to their last whole line and the shorter one is filled up from the other.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from ...models.errors import UserError

JOURNAL, COPY = "journal.log", "journal.copy.log"
GRACE = 10  # seconds after which the lock of a writer that was killed is broken
BLOCK = 1 << 16


class TwofoldJournal(JournalFileBackend):
    """Optuna's journal in a file, and a copy of it. Its lock needs no more of a file system than O_EXCL."""

    def __init__(self, folder: Path) -> None:
        self.path, self.copy = folder / JOURNAL, folder / COPY
        self.lock = JournalFileOpenLock(str(self.path), grace_period=GRACE)
        super().__init__(str(self.path), self.lock)
        if not whole(self.path, self.copy):
            self._append(b"")

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._append(lines)

    def _append(self, lines: bytes) -> None:
        """Mend both files if need be, and add lines to them."""
        self.lock.acquire()
        mark = self._mark()
        try:
            if not whole(self.path, self.copy):
                mend(self.path, self.copy)
            # The copy first: a journal that lacks what its copy has is filled up, and nobody has seen the line yet.
            for path in (self.copy, self.path) if lines else ():
                _add(path, lines)
        finally:
            if self._mark() == mark:  # else this one stood still for so long that another broke its lock
                with contextlib.suppress(RuntimeError):
                    self.lock.release()

    def _mark(self) -> tuple[int, int] | None:
        """What tells this lock from one that another has made since."""
        try:
            status = os.stat(f"{self.path}.lock")
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns


def open_storage(folder: Path) -> JournalStorage:
    """The storage of a sweep's folder. Raises UserError if both files are damaged in the middle."""
    try:
        return JournalStorage(TwofoldJournal(folder))
    except (ValueError, KeyError) as error:
        path = folder / JOURNAL
        problem = f"line {damaged_line(path)} is not readable ({' '.join(str(error).split())[:80]})"
        raise UserError(path, problem, f"take {folder / COPY} in its place, if that is whole") from None


def whole(path: Path, copy: Path) -> bool:
    """Whether both files are there, equally long, and end with a line."""
    try:
        ends = [_end(path), _end(copy)]
    except FileNotFoundError:
        return False
    return ends[0] == ends[1] and ends[0][1] in (b"", b"\n")


def mend(path: Path, copy: Path) -> None:
    """Cut both to their last whole line, and fill up the shorter one. For the holder of the lock."""
    for each in (path, copy):
        each.touch()
        _cut(each)
    content, other = path.read_bytes(), copy.read_bytes()
    if other.startswith(content):
        _add(path, other[len(content) :])
        return
    if not content.startswith(other):  # the journal is what all have read
        copy.write_bytes(b"")
        other = b""
    _add(copy, content[len(other) :])


def damaged_line(path: Path) -> int:
    """Number of the first line that is no JSON."""
    with open(path, "rb") as file:
        lines = file.read().splitlines()
    return next((number for number, line in enumerate(lines, start=1) if not _is_json(line)), len(lines))


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _add(path: Path, lines: bytes) -> None:
    with open(path, "ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _end(path: Path) -> tuple[int, bytes]:
    """Length and last byte of a file, which is opened for it: NFS may tell of an older one otherwise."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return size, file.read(1)


def _cut(path: Path) -> None:
    """Drop what follows the last end of a line."""
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        keep = 0
        while end and not keep:
            start = max(0, end - BLOCK)
            file.seek(start)
            keep = start + file.read(end - start).rfind(b"\n") + 1
            keep = 0 if keep == start else keep
            end = start
        file.truncate(keep)
