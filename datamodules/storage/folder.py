"""The folder of a data set: a local one, one at an address (`https://…`, `s3://…`) or a command that prints its files.

All but local ones may be cached.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ...models.errors import UserError
from .cache import Cache
from .fetch import Fetcher, FsspecFetcher, HttpFetcher, Patience
from .pipe import PipeFetcher


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
    def open(self, name: str, content: str, size: int) -> OpenFile:
        """Open a file of `size` bytes to read ranges of it; raises OSError. `content` identifies it: its checksum."""

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

    def open(self, name: str, content: str, size: int) -> OpenFile:
        return LocalFile(self.path / name)


# ---------------------------------------------------------------------------------------------- remote


@dataclass
class RemoteFile(OpenFile):
    """Ranges of a URL: just what is asked for, or whole blocks that a cache then holds.

    If its folder reads files whole, the first use of one has all of it read into the cache by one request.
    """

    url: str
    content: str
    size: int
    folder: "RemoteFolder"

    def read(self, offset: int, size: int, *, fresh: bool = False) -> bytes:
        cache = self.folder.cache
        if size == 0:
            return b""
        if cache is None:
            return self._fetch(offset, size)
        if fresh:
            for block in cache.blocks(offset, size):
                cache.forget(self.content, block)
        if self.folder.whole:
            cache.fill(self.content, self.size, self._stream, needed=cache.blocks(offset, size))
        return cache.read(self.content, offset, size, self._fetch)

    def read_ahead(self) -> None:
        """Read all of the file into the cache, unless another process does so."""
        if self.folder.cache is not None:
            self.folder.cache.fill(self.content, self.size, self._stream)

    def use(self) -> None:
        """Tell the cache that the file is needed for some time."""
        if self.folder.cache is not None:
            self.folder.cache.touch(self.content, self.size)

    def _fetch(self, offset: int, size: int) -> bytes:
        with self._known():
            return self.folder.fetcher.fetch(self.url, offset, size)

    def _stream(self, offset: int, size: int, take: Callable[[bytes], None]) -> None:
        with self._known():
            self.folder.fetcher.stream(self.url, offset, size, take)

    @contextmanager
    def _known(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise UserError(self.url, "no such file", "copy the whole data set there") from None


class RemoteFolder(Folder):
    def __init__(self, url: str, fetcher: Fetcher, cache: Cache | None) -> None:
        self.url, self.fetcher, self.cache = url.rstrip("/"), fetcher, cache
        self.name = self.url.rpartition("/")[2]
        self.whole = False  # whether files are read whole into the cache, see stream/ahead.py

    def address(self, name: str) -> str:
        return f"{self.url}/{quote(name) if isinstance(self.fetcher, HttpFetcher) else name}"

    def read(self, name: str, content: str | None = None) -> bytes:
        url = self.address(name)
        if self.cache is None or content is None:
            return self.fetcher.fetch(url)
        return self.cache.whole(content, lambda: self.fetcher.fetch(url))

    def open(self, name: str, content: str, size: int) -> RemoteFile:
        return RemoteFile(self.address(name), content, size, self)

    def forget(self, content: str) -> None:
        if self.cache is not None:
            self.cache.forget(content)


class PipeFolder(RemoteFolder):
    """The files that a command prints, such as `pipe:curl -sf http://host/data/{}`; `{}` stands for the name of one.

    They are read whole into the cache: a command's output has no ranges.
    """

    def __init__(self, url: str, fetcher: PipeFetcher, cache: Cache | None) -> None:
        if "{}" not in url:
            raise UserError(url, "does not say where the name of a file belongs", "write {} there, as in .../data/{} -")
        super().__init__(url, fetcher, cache)
        self.name = url.partition("{}")[0].rstrip("/").rpartition("/")[2]
        self.whole = True

    def address(self, name: str) -> str:
        if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
            raise UserError(self.url, f"the file name {name!r} does not belong into a command", "rename the file")
        return self.url.replace("{}", name)


def is_url(address: Path | str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|pipe:", str(address)) is not None


def open_folder(address: Path | str, cache: Cache | None = None, patience: Patience | None = None) -> Folder:
    """The folder at a path or URL; nothing is read yet."""
    url = str(address)
    if not is_url(address):
        return LocalFolder(Path(address))
    if url.startswith("file://"):
        return LocalFolder(Path(unquote(urlsplit(url).path)))
    patience = patience or Patience()
    if url.startswith("pipe:"):
        return PipeFolder(url, PipeFetcher(patience), cache)
    if url.startswith(("http://", "https://")):
        return RemoteFolder(url, HttpFetcher(patience), cache)
    return RemoteFolder(url, FsspecFetcher(url, patience), cache)
