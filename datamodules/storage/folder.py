"""The folder of a data set: a local one, or one at an address (`https://…`, `s3://…`), which may be cached."""

import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ...models.errors import UserError
from .cache import Cache
from .fetch import Fetcher, FsspecFetcher, HttpFetcher, Patience


class OpenFile(ABC):
    """A file that ranges are read of."""

    @abstractmethod
    def read(self, offset: int, size: int, *, fresh: bool = False) -> bytes:
        """`size` bytes from `offset`, fewer only at the end of the file; `fresh` does not ask the cache.

        Raises OSError if a disk fails, UserError if a server does.
        """


class Folder(ABC):
    """A folder of files, by name."""

    name: str  # the last part of its address

    @abstractmethod
    def address(self, name: str) -> str:
        """A file as messages call it."""

    @abstractmethod
    def read(self, name: str, content: str | None = None) -> bytes:
        """A whole small file, from the cache if `content` names what it belongs to; raises FileNotFoundError."""

    @abstractmethod
    def open(self, name: str, content: str) -> OpenFile:
        """Open a file to read ranges of it; raises OSError. `content` identifies its bytes: its checksum."""

    def forget(self, content: str) -> None:  # noqa: B027 (only a cache has something to forget)
        """Drop a cached small file that turned out to be damaged."""


# ---------------------------------------------------------------------------------------------- local


class LocalFile(OpenFile):
    """`os.pread` at offsets: may be used after a fork."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if "file" in self.__dict__:
            os.close(self.file)

    def read(self, offset: int, size: int, *, fresh: bool = False) -> bytes:
        return os.pread(self.file, size, offset)


class LocalFolder(Folder):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name

    def address(self, name: str) -> str:
        return str(self.path / name)

    def read(self, name: str, content: str | None = None) -> bytes:
        return (self.path / name).read_bytes()

    def open(self, name: str, content: str) -> OpenFile:
        return LocalFile(self.path / name)


# ---------------------------------------------------------------------------------------------- remote


@dataclass
class RemoteFile(OpenFile):
    """Ranges of a URL: just what is asked for, or whole blocks that a cache then holds."""

    url: str
    content: str
    fetcher: Fetcher
    cache: Cache | None

    def read(self, offset: int, size: int, *, fresh: bool = False) -> bytes:
        if size == 0:
            return b""
        if self.cache is None:
            return self._fetch(offset, size)
        if fresh:
            for block in range(offset // self.cache.block, -(-(offset + size) // self.cache.block)):
                self.cache.forget(self.content, block)
        return self.cache.read(self.content, offset, size, self._fetch)

    def _fetch(self, offset: int, size: int) -> bytes:
        try:
            return self.fetcher.fetch(self.url, offset, size)
        except FileNotFoundError:
            raise UserError(self.url, "no such file", "copy the whole data set there") from None


class RemoteFolder(Folder):
    def __init__(self, url: str, fetcher: Fetcher, cache: Cache | None) -> None:
        self.url, self.fetcher, self.cache = url.rstrip("/"), fetcher, cache
        self.name = self.url.rpartition("/")[2]

    def address(self, name: str) -> str:
        return f"{self.url}/{quote(name) if isinstance(self.fetcher, HttpFetcher) else name}"

    def read(self, name: str, content: str | None = None) -> bytes:
        url = self.address(name)
        if self.cache is None or content is None:
            return self.fetcher.fetch(url)
        return self.cache.whole(content, lambda: self.fetcher.fetch(url))

    def open(self, name: str, content: str) -> OpenFile:
        return RemoteFile(self.address(name), content, self.fetcher, self.cache)

    def forget(self, content: str) -> None:
        if self.cache is not None:
            self.cache.forget(content)


def is_url(address: Path | str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", str(address)) is not None


def open_folder(address: Path | str, cache: Cache | None = None, patience: Patience | None = None) -> Folder:
    """The folder at a path or URL; nothing is read yet."""
    url = str(address)
    if not is_url(address):
        return LocalFolder(Path(address))
    if url.startswith("file://"):
        return LocalFolder(Path(unquote(urlsplit(url).path)))
    patience = patience or Patience()
    if url.startswith(("http://", "https://")):
        return RemoteFolder(url, HttpFetcher(patience), cache)
    return RemoteFolder(url, FsspecFetcher(url, patience), cache)
