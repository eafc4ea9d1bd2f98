"""A web server on loopback that knows range requests, and that fails as real ones do when it is told to."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from emohead.datamodules.storage.fetch import Patience

QUICK = Patience(attempts=4, first_wait=0.01, longest_wait=0.05, stall=0.25)
CONTENT = np.random.default_rng(0).bytes(100_000)


class RangeServer(ThreadingHTTPServer):
    """Serves a folder. `plan` holds how the next requests fail, one after the other; `log` what was asked for."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.plan: list[str] = []
        self.log: list[tuple[str, str | None]] = []  # path, Range
        self.sent = 0  # bytes of bodies
        self.always = ""
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, address: Any) -> None:
        """Say nothing of clients that went away."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # which would hold every body back for 40 ms
    server: RangeServer

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        with self.server.lock:
            self.server.log.append((self.path, asked))
            failure = self.server.plan.pop(0) if self.server.plan else self.server.always
        if failure.isdigit():
            return self.answer(int(failure), b"no", {"Retry-After": "0"} if failure == "503" else {})
        path = self.server.folder / unquote(self.path).lstrip("/")
        if not path.is_file():
            return self.answer(404, b"no such file")
        length = path.stat().st_size
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
        if span is None or failure == "whole":
            return self.answer(200, path.read_bytes(), failure=failure)
        first, last = int(span[1]), min(int(span[2]), length - 1)
        if first >= length:
            return self.answer(416, b"", {"Content-Range": f"bytes */{length}"})
        if failure == "shifted":
            first, last = first + 1, last + 1
        header = {"Content-Range": f"bytes {first}-{last}/{length}"}
        with open(path, "rb") as file:
            file.seek(first)
            body = file.read(last + 1 - first)
        self.answer(206, bytes(b ^ 1 for b in body) if failure == "garbled" else body, header, failure=failure)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, failure: str = "") -> None:
        if failure == "closed":
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if failure == "truncated":
            body, self.close_connection = body[: len(body) // 2], True
        if failure == "stalled":
            self.wfile.write(body[:10])
            time.sleep(1.0)
            self.close_connection = True
        elif failure == "dripping":
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        else:
            with self.server.lock:  # before it is sent: whoever has got it may ask
                self.server.sent += len(body)
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep the tests quiet."""


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    server = RangeServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
