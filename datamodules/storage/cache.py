"""A cache of remote bytes on a local disk, bounded in bytes and shared by the processes of a machine.

Blocks are files named after the content they belong to (the checksum of the tar), so data that was prepared again is
never mixed with what was there before. A block is written aside and renamed. The bound is kept by one lock file, which
holds the bytes in use: a process adds to it before it writes. If the sum would pass the bound, it deletes the blocks
that were longest unused. A process that has an evicted block open reads on.
"""

import fcntl
import hashlib
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...models.errors import UserError
from ...models.files import PARTIAL, written_aside

BLOCK = 4 << 20  # bytes: a clip is 2 to 7 MB, and an answer of 4 MB takes longer than the wait for its first byte
MAX_OPEN = 64  # block files a process keeps open
KEEP = 0.9  # share of the bound that is left in use by an eviction, so that the next ones need none
NAME_DIGITS = 40  # hexadecimal, of the checksum that a file is named by
USAGE, USAGE_BYTES = "usage", 32  # the lock file, and what is read of it


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
        for block in range(offset // self.block, -(-(offset + size) // self.block)):
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

    def _path(self, content: str, block: int | str) -> Path:
        name = hashlib.sha256(content.encode()).hexdigest()[:NAME_DIGITS]  # a plain file name, whatever `content` is
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
