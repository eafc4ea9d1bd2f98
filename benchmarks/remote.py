"""What a data set at a URL costs: requests and bytes a sample, and samples a second, by ranges and by whole shards.

    python benchmarks/remote.py --shards 32 --rate 100

A web server in a process of its own stands for a store of objects: it answers after some milliseconds, answers only so
many requests a second (the others get 503 and "Retry-After: 1"), and counts both. A node is a process here that
takes its slice of each global batch, with workers and a cache of its own. The data set is that of stream_scale.py: one
real tar under many names, with a checksum of its own for each, so that the cache takes them for different ones.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import shutil
import tempfile
import threading
import time
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from emohead.datamodules.config import DataConfig
from emohead.datamodules.dataset.manifest import load_manifest, publish
from emohead.datamodules.module import TalkingFaceData
from stream_scale import Position, make_data_set, memory

CHUNK = 1 << 20
CASES = [  # nodes, groups, name, cache, data.read_ahead, epochs
    (1, 1, "ranges", "", "auto", 0.25),
    (1, 1, "blocks", "cache", "never", 1),
    (1, 1, "whole shards", "cache", "auto", 1),
    (4, 1, "ranges", "", "auto", 1),
    (4, 1, "blocks", "cache", "never", 2),
    (4, 1, "whole shards", "cache", "auto", 2),
    (4, 4, "whole shards, by groups", "cache", "auto", 2),
    (16, 1, "whole shards", "cache", "always", 0.5),
    (16, 16, "whole shards, by groups", "cache", "auto", 4),
]


class Store(ThreadingHTTPServer):
    """Serves a folder; knows ranges. `/counts` answers with what it counted since it was last asked."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path, latency: float, rate: int) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.latency, self.rate = folder, latency, rate
        self.lock = threading.Lock()
        self.counts = {"requests": 0, "refused": 0, "bytes": 0}
        self.second, self.answered = 0, 0

    def count(self) -> bool:
        """Count a request; False if there are too many in this second."""
        with self.lock:
            second = int(time.monotonic())
            if second != self.second:
                self.second, self.answered = second, 0
            self.answered += 1
            refused = self.answered > self.rate
            self.counts["refused" if refused else "requests"] += 1
            return not refused

    def handle_error(self, request: Any, address: Any) -> None:
        """Say nothing of clients that went away."""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Store

    def do_GET(self) -> None:
        server = self.server
        if self.path == "/counts":
            with server.lock:
                told, server.counts = server.counts, dict.fromkeys(server.counts, 0)
            return self.begin(200, json.dumps(told).encode())
        time.sleep(server.latency)
        if not server.count():
            return self.begin(503, b"slow down", {"Retry-After": "1"})
        path = server.folder / self.path.lstrip("/")
        size = path.stat().st_size
        first, stop, headers = 0, size, {}
        if span := self.headers.get("Range"):
            first, last = map(int, span.removeprefix("bytes=").split("-"))
            stop = min(last + 1, size)
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{size}"
        with server.lock:
            server.counts["bytes"] += stop - first
        self.begin(206 if span else 200, None, headers | {"Content-Length": str(stop - first)})
        with open(path, "rb") as file:
            file.seek(first)
            for start in range(first, stop, CHUNK):
                self.wfile.write(file.read(min(CHUNK, stop - start)))

    def begin(self, status: int, body: bytes | None, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Length": str(len(body or b""))}).items():
            self.send_header(name, value)
        if body is not None and headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: Any) -> None:
        """Keep the table in sight."""


def serve(folder: Path, latency: float, rate: int, port: Any) -> None:
    server = Store(folder, latency, rate)
    port.send(server.server_port)
    server.serve_forever()


class Node(Position):
    """One process of `num_nodes`, alone on its machine."""

    def __init__(self, num_nodes: int) -> None:
        super().__init__(0)
        self.world_size = self.num_nodes = num_nodes


def measure(
    url: str,
    cache: str,
    options: argparse.Namespace,
    read_ahead: str,
    nodes: int,
    groups: int,
    epochs: float,
    gb: float,
) -> list[str]:
    """A row of the table: the first of so many nodes."""
    urllib.request.urlopen(f"{url}/counts").read()
    shutil.rmtree(options.cache, ignore_errors=True)
    own = options.batch
    config = DataConfig([url], batch_size=own * nodes, num_workers=options.workers, window_shards=options.window)
    config.cache, config.cache_gb, config.read_ahead, config.groups = cache, gb, read_ahead, groups
    data = TalkingFaceData(options.stage, config)
    data.trainer = Node(nodes)  # type: ignore[assignment]
    start = time.perf_counter()
    stream = iter(data.train_dataloader())
    next(stream)
    first, peak = time.perf_counter() - start, 0.0
    start = time.perf_counter()
    batches = int(epochs * data.train_source.num_clips) // (own * nodes) - 1
    for number, _ in enumerate(itertools.islice(stream, batches)):
        if number % 50 == 0:
            peak = max(peak, *(memory(worker.pid)["own"] for worker in stream._workers))
    seconds = time.perf_counter() - start
    told = json.load(urllib.request.urlopen(f"{url}/counts"))
    samples = own * (batches + 1)
    held = sum(path.stat().st_size for path in options.cache.glob("??/*")) / 1e9
    return [
        f"{told['requests'] / samples:.3f}",
        f"{told['refused'] / samples:.3f}",
        f"{told['bytes'] / samples / 1e6:.2f}",
        f"{own * batches / seconds:.0f}",
        f"{first:.1f}",
        f"{peak:.0f}",
        f"{held:.2f}",
    ]


def case(words: str) -> tuple[int, str]:
    nodes, _, name = words.partition(":")
    return int(nodes), name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--clips", type=int, default=64, help="of a shard")
    parser.add_argument("--window", type=int, default=8, help="shards that are shuffled into each other")
    parser.add_argument("--stage", default="face")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="samples of a node")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds")
    parser.add_argument("--rate", type=int, default=100, help="requests a second that the store answers")
    parser.add_argument("--only", nargs="+", type=case, metavar="NODES:NAME", help="rows, such as '4:whole shards'")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="remote-"))
    options.cache = work / "cache"
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    folder = work / "data"
    make_data_set(folder, options.shards, options.clips)
    manifest = load_manifest(folder)
    manifest.shards = [replace(s, sha256=hashlib.sha256(s.name.encode()).hexdigest()) for s in manifest.shards]
    publish(folder, manifest)
    server = context.Process(target=serve, args=(folder, options.latency, options.rate, theirs), daemon=True)
    server.start()
    try:
        url, shard = f"http://127.0.0.1:{mine.recv()}", manifest.shards[0].bytes / 1e9
        windows = 2.5 * options.window * shard
        print(f"{options.shards} shards of {options.clips} clips, {shard * 1e3:.1f} MB each; {options.stage}")
        print("| nodes | read by | requests a sample | refused | MB a sample | samples/s | first batch | MB | cache |")
        for nodes, groups, name, cache, ahead, epochs in CASES:
            if options.only and (nodes, name) not in options.only:
                continue
            row = measure(url, cache and str(options.cache), options, ahead, nodes, groups, epochs, windows)
            print("|", " | ".join([str(nodes), name, *row]), "|", flush=True)
    finally:
        server.terminate()
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
