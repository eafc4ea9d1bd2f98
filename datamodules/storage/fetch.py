"""Ranges of bytes from a URL: http(s) by urllib3, everything else (`s3://`, `gs://`, …) by fsspec.

Faults that may pass (no connection, a stall, an answer cut short, HTTP 429 and 5xx) are tried again, each time after
twice the wait; others (no such file, no permission) are reported at once. Connections belong to one process: after a
fork new ones are made.
"""

import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError

from ...models.errors import UserError

SLOWEST = 10_000  # bytes a second, on average after the first `stall` seconds: below it an answer counts as stalled
LARGEST_WHOLE = 64_000_000  # bytes of a file that is read through for a range, if a server knows no ranges
PART = 64 << 20  # bytes that fsspec is asked for at a time, all of which it holds in memory
PASSING_STATUS = (408, 425, 429)  # and all from 500 on
REDIRECTS = urllib3.Retry(
    total=None, connect=0, read=0, redirect=5, status=0, other=0, respect_retry_after_header=False
)

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long a failing server is waited for; the defaults outlast about a minute."""

    attempts: int = 8
    first_wait: float = 0.5  # seconds, doubled after each attempt
    longest_wait: float = 30.0  # seconds
    stall: float = 30.0  # seconds without a byte, or until connected


class PassingError(Exception):
    """Worth another attempt, after `wait` seconds if the server asks for that."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


class Fetcher(ABC):
    """Reads from the URLs of one kind of server."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._client: Any = None
        self._process = -1

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None, "_process": -1}

    def fetch(self, url: str, offset: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from `offset` (None: the whole file), fewer only at the end of the file.

        Raises FileNotFoundError at once if there is no such file, UserError for everything else that is wrong.
        """
        return self._patiently(url, lambda: b"".join(self.pieces(url, offset, size)))

    def stream(self, url: str, offset: int, size: int, take: Callable[[bytes], None]) -> None:
        """Hand the bytes that `fetch` returns to `take`, piece by piece: by one request, if there is no fault.

        After a fault only the rest is asked for. A server without ranges is read through up to the range.
        """
        done = 0

        def go_on() -> None:
            nonlocal done
            if done < size:
                for piece in self.pieces(url, offset + done, size - done, through=True):
                    done += len(piece)
                    take(piece)

        self._patiently(url, go_on)

    def _patiently(self, url: str, attempt_once: Callable[[], T]) -> T:
        patience, started, problem = self.patience, time.monotonic(), ""
        wait = patience.first_wait * (0.75 + os.getpid() % 64 / 128)  # so that workers do not all ask again at once
        for attempt in range(1, patience.attempts + 1):
            try:
                return attempt_once()
            except PassingError as error:
                problem = " ".join(str(error).split())[:300]
                if attempt < patience.attempts:
                    time.sleep(min(max(wait, error.wait), patience.longest_wait))
                wait *= 2
        seconds = time.monotonic() - started
        raise UserError(
            url,
            problem,
            f"tried {patience.attempts} times in {seconds:.0f} s; see to the server or the network, then "
            "run the same command again",
        )

    def client(self) -> Any:
        """The connections of this process."""
        if self._process != os.getpid():
            self._client, self._process = self.connect(), os.getpid()
        return self._client

    @abstractmethod
    def connect(self) -> Any:
        """Whatever holds connections."""

    @abstractmethod
    def pieces(self, url: str, offset: int, size: int | None, *, through: bool = False) -> Iterator[bytes]:
        """One attempt of `fetch`, in pieces; raises PassingError if another is worth it.

        `through`: a file that cannot be read by ranges is read through up to the range, however large it is.
        """


def cut(pieces: Iterable[bytes], offset: int, size: int | None) -> Iterator[bytes]:
    """The bytes [offset, offset + size) of what comes in pieces; the rest is not waited for."""
    left = size
    for piece in pieces:
        part = piece[offset:]
        offset = max(0, offset - len(piece))
        if left is not None:
            part = part[:left]
            left -= len(part)
        if part:
            yield part
        if left == 0:
            return


class HttpFetcher(Fetcher):
    """http:// and https://"""

    def connect(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(maxsize=4)

    def pieces(self, url: str, offset: int, size: int | None, *, through: bool = False) -> Iterator[bytes]:
        headers = {"Accept-Encoding": "identity"}
        if size is not None:
            headers["Range"] = f"bytes={offset}-{offset + size - 1}"
        started = time.monotonic()
        try:
            response = self.client().request(
                "GET", url, headers=headers, preload_content=False, timeout=self.patience.stall, retries=REDIRECTS
            )
            try:
                yield from self._answer(url, response, offset, size, started, through)
            except BaseException:
                response.close()  # what it may still send belongs to no other request
                raise
            response.release_conn()
        except LocationValueError as error:
            raise UserError(url, f"no valid address ({error})", "correct data.shards") from None
        except HTTPError as error:
            reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
            raise PassingError(f"{type(reason).__name__} ({reason})") from None

    def _answer(
        self, url: str, response: Any, offset: int, size: int | None, started: float, through: bool
    ) -> Iterator[bytes]:
        _check_status(url, response)
        if response.status == 416:
            return  # the file ends before the range
        if size is None:
            yield from self._body(response, _length(response), started)
        elif response.status == 206:
            yield from self._body(response, _range_length(response, offset, size), started)
        else:  # 200: the whole file, from a server that knows no ranges
            length = _length(response)
            if not through and (length is None or length > max(LARGEST_WHOLE, size)):
                raise UserError(
                    url,
                    "its server sends the whole file where a range is asked for",
                    "have shards read whole (data.cache=DIR data.read_ahead=always), or serve the data with a server "
                    "that knows range requests (nginx, S3, …)",
                )
            yield from cut(self._body(response, length, started), offset, size)
            response.close()

    def _body(self, response: Any, length: int | None, started: float) -> Iterator[bytes]:
        """The body, of `length` bytes if that is known."""
        received = 0
        while part := response.read1(1 << 20):
            received += len(part)
            yield part
            if time.monotonic() - started > self.patience.stall + received / SLOWEST:
                raise PassingError(f"stalled: {received} bytes in {time.monotonic() - started:.0f} s")
        if length is not None and received != length:
            raise PassingError(f"the answer was cut short: {received} of {length} bytes")


def _check_status(url: str, response: Any) -> None:
    status = response.status
    if status in (404, 410):
        raise FileNotFoundError(url)
    if status in PASSING_STATUS or status >= 500:
        wait = response.headers.get("Retry-After", "")
        raise PassingError(f"HTTP {status}", wait=float(wait) if wait.isdigit() else 0.0)
    if status in (401, 403):
        raise UserError(url, f"HTTP {status}, not allowed", "check the address and who may read it")
    if status not in (200, 206, 416):
        raise UserError(url, f"HTTP {status}", "check the address")


def _length(response: Any) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _range_length(response: Any, offset: int, size: int) -> int:
    """Bytes that the answer must have; refuses an answer for another range than the one asked for."""
    header = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", header.strip())
    if not found:
        raise PassingError(f"HTTP 206 with Content-Range {header!r}")
    first, last = int(found[1]), int(found[2])
    stop = offset + size if found[3] == "*" else min(offset + size, int(found[3]))
    if (first, last + 1) != (offset, stop):
        raise PassingError(f"asked for bytes {offset}-{stop - 1}, answered with {first}-{last}")
    return stop - offset


class FsspecFetcher(Fetcher):
    """Any other URL, through fsspec's file system for it, whose own settings and timeouts hold."""

    def __init__(self, root: str, patience: Patience) -> None:
        super().__init__(patience)
        self.root = root

    def connect(self) -> Any:
        import fsspec  # takes a while, and most runs read local folders

        try:
            return fsspec.core.url_to_fs(self.root)[0]
        except (ImportError, ValueError) as error:
            raise UserError(self.root, error, "install what reads such addresses, or copy the data") from None

    def pieces(self, url: str, offset: int, size: int | None, *, through: bool = False) -> Iterator[bytes]:
        system = self.client()
        path = system._strip_protocol(url)
        try:
            if size is None:
                yield system.cat_file(path)
                return
            end = min(offset + size, int(system.info(path)["size"]))
            for start in range(offset, end, PART):
                stop = min(start + PART, end)
                data = system.cat_file(path, start=start, end=stop)
                if len(data) != stop - start:
                    raise PassingError(f"the answer was cut short: {len(data)} of {stop - start} bytes")
                yield data
        except PassingError:
            raise
        except FileNotFoundError:
            raise FileNotFoundError(url) from None
        except PermissionError as error:
            raise UserError(url, f"not allowed ({error})", "check the address and who may read it") from None
        except Exception as error:  # each back end has errors of its own
            raise PassingError(f"{type(error).__name__} ({error})") from None
