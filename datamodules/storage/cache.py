"""A cache of remote bytes on a local disk, bounded in bytes and shared by the processes of a machine.

Blocks are files named after the content they belong to (the checksum of the tar), so data that was prepared again is
never mixed with what was there before. A block is written aside and renamed. The bound is kept by one lock file, which
holds the bytes in use: a process adds to it before it writes. If the sum would pass the bound, it deletes the blocks
that were longest unused. A process that has an evicted block open reads on.

A file can be read whole, by one request, into the blocks that reading takes it from. One process of the machine does
so, the one that holds its claim: a lock, which the system takes from a process that dies. Others wait for their blocks.
"""

import fcntl
import hashlib
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ...models.errors import UserError
from ...models.files import PARTIAL, written_aside

BLOCK = 4 << 20  # bytes: a clip is 2 to 7 MB, and an answer of 4 MB takes longer than the wait for its first byte
MAX_OPEN = 64  # block files a process keeps open
KEEP = 0.9  # share of the bound that is left in use by an eviction, so that the next ones need none
NAME_DIGITS = 40  # hexadecimal, of the checksum that a file is named by
USAGE, USAGE_BYTES = "usage", 32  # the lock file, and what is read of it
CLAIMS, CLAIM_DIGITS = "claims", 3  # their folder; contents that begin alike share one, so that there are not too many
POLL = 0.02  # seconds between two looks for a block that another process reads

Stream = Callable[[int, int, Callable[[bytes], None]], None]  # offset, bytes, and what takes them piece by piece


def digest(content: str) -> str:
    """A plain file name, whatever `content` is."""
    return hashlib.sha256(content.encode()).hexdigest()[:NAME_DIGITS]


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Rising numbers -> (first, stop) of each run of consecutive ones."""
    starts = [n for i, n in enumerate(numbers) if not i or numbers[i - 1] != n - 1]
    stops = [n + 1 for i, n in enumerate(numbers) if i + 1 == len(numbers) or numbers[i + 1] != n + 1]
    return list(zip(starts, stops, strict=True))


class Cache:
    """Blocks by (content, number). `limit` is in bytes, and holds for all processes that use the folder together."""

    def __init__(self, folder: Path | str, limit: int, block: int = BLOCK) -> None:
        self.folder, self.limit, self.block = Path(folder), limit, block
        self._files: dict[Path, int] = {}  # open blocks of this process, the longest unused first
        self._writes = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"data.cache={folder}",
                f"cannot be made ({error.strerror})",
                "name another folder",
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", {}).values():
            os.close(file)

    def whole(self, content: str, fetch: Callable[[], bytes]) -> bytes:
        """A whole small file."""
        path = self._path(content, "whole")
        with suppress(OSError):
            return path.read_bytes()
        with self._claimed(content, path.exists):
            with suppress(OSError):
                return path.read_bytes()
            data = fetch()
            self._store(path, data)
            return data

    def forget(self, content: str, block: int | str = "whole") -> None:
        """Delete a block that turned out to be damaged."""
        path = self._path(content, block)
        if path in self._files:
            os.close(self._files.pop(path))
        path.unlink(missing_ok=True)

    def read(self, content: str, offset: int, size: int, fetch: Callable[[int, int], bytes]) -> bytes:
        """Bytes of a file, fewer only at its end; `fetch(offset, size)` gets what the cache lacks."""
        parts = []
        for block in self.blocks(offset, size):
            first = block * self.block
            start, stop = max(0, offset - first), min(self.block, offset + size - first)
            path = self._path(content, block)
            file = self._open(path)
            if file is not None:
                parts.append(os.pread(file, stop - start, start))
                continue
            data = fetch(first, self.block)
            self._store(path, data)
            parts.append(data[start:stop])
        return b"".join(parts)

    def blocks(self, offset: int, size: int) -> range:
        """The numbers of the blocks that bytes of a file lie in."""
        return range(offset // self.block, -(-(offset + size) // self.block))

    def touch(self, content: str, size: int) -> None:
        """Put off the eviction of a file's blocks."""
        for block in self.blocks(0, size):
            with suppress(OSError):
                os.utime(self._path(content, block))

    def fill(self, content: str, size: int, stream: Stream, needed: range | None = None) -> None:
        """Read what the cache lacks of a file of `size` bytes: one request for each gap, so one if it lacks all.

        If another process does so, wait for the `needed` blocks, or for the claim if that process gave up or died;
        None: do not wait. Blocks may still be missing then, if the file is shorter than it should be.
        """
        wanted = range(0) if needed is None else needed
        lacks = partial(self._lacks, content)
        if not self._writes or (needed is not None and not any(map(lacks, wanted))):
            return
        with self._claimed(content, lambda: not any(map(lacks, wanted))) as claimed:
            missing = [b for b in self.blocks(0, size) if not self._path(content, b).exists()] if claimed else []
            for first, stop in runs(missing):
                offset, end = first * self.block, min(stop * self.block, size)
                stream(offset, end - offset, BlockWriter(self, content, offset, end).take)

    def _lacks(self, content: str, block: int) -> bool:
        path = self._path(content, block)
        return path not in self._files and not path.exists()

    def _path(self, content: str, block: int | str) -> Path:
        name = digest(content)
        return self.folder / name[:2] / f"{name}-{block}"

    def _open(self, path: Path) -> int | None:
        """The open file of a block, None if the cache lacks it."""
        if path in self._files:
            self._files[path] = self._files.pop(path)
            return self._files[path]
        try:
            file = os.open(path, os.O_RDONLY)
            os.utime(file)  # the last use, for evictions
        except OSError:
            return None
        while len(self._files) >= MAX_OPEN:
            os.close(self._files.pop(next(iter(self._files))))
        self._files[path] = file
        return file

    # ------------------------------------------------------------------------------------------ writing and eviction

    def _store(self, path: Path, data: bytes) -> None:
        """Keep a block; a cache that cannot be written is said once and then only read."""
        if not self._writes or len(data) > self.limit:
            return
        own = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}{PARTIAL}")
        try:
            path.parent.mkdir(exist_ok=True)
            with self._locked() as usage:  # all of it, so that an eviction sees every byte that is counted
                self._reserve(usage, len(data))
                with written_aside(path, own) as aside:
                    aside.write_bytes(data)
        except FileNotFoundError:
            pass  # somebody emptied the folder
        except OSError as error:
            self._writes = False
            warnings.warn(f"data.cache={self.folder}: {error.strerror}; reading on without writing to it", stacklevel=2)

    def _reserve(self, usage: int, size: int) -> None:
        text = os.pread(usage, USAGE_BYTES, 0).decode("ascii", "replace").strip()
        used = int(text) if text.isdigit() else self._evict(self.limit)
        if used + size > self.limit:
            used = self._evict(min(int(KEEP * self.limit), self.limit - size))
        os.ftruncate(usage, 0)
        os.pwrite(usage, str(used + size).encode(), 0)

    @contextmanager
    def _claimed(self, content: str, enough: Callable[[], bool]) -> Iterator[bool]:
        """Whether this process is to read a content: not if another one has the claim and `enough` is there."""
        file, claimed = None, True
        try:
            with suppress(OSError):  # in a folder that cannot be written everybody reads on its own
                (self.folder / CLAIMS).mkdir(exist_ok=True)
                file = os.open(self.folder / CLAIMS / digest(content)[:CLAIM_DIGITS], os.O_RDWR | os.O_CREAT, 0o666)
            while file is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not (claimed := not enough()):
                        break
                except OSError:  # a file system without locks
                    break
                time.sleep(POLL)
            yield claimed
        finally:
            if file is not None:
                os.close(file)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        file = os.open(self.folder / USAGE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)

    def _evict(self, limit: int) -> int:
        """Delete the blocks that were longest unused until `limit` bytes are left; returns how many are."""
        blocks = []
        for path in self.folder.glob("??/*"):  # what a killed process left unfinished goes with the rest
            with suppress(FileNotFoundError):
                state = path.stat()
                blocks.append((state.st_mtime_ns, state.st_size, path))
        used = sum(size for _, size, _ in blocks)
        for _, size, path in sorted(blocks):
            if used <= limit:
                break
            path.unlink(missing_ok=True)
            used -= size
        return used


class BlockWriter:
    """Cuts the bytes [offset, end) of a file, as they come, into blocks of a cache; never holds more than one."""

    def __init__(self, cache: Cache, content: str, offset: int, end: int) -> None:
        assert offset % cache.block == 0, offset
        self.cache, self.content, self.offset, self.end = cache, content, offset, end
        self.held = bytearray()

    def take(self, piece: bytes) -> None:
        self.held += piece
        while self.held and len(self.held) >= (size := min(self.cache.block, self.end - self.offset)):
            path = self.cache._path(self.content, self.offset // self.cache.block)
            self.cache._store(path, bytes(self.held[:size]))
            del self.held[:size]
            self.offset += size
