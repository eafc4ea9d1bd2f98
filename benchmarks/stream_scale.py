"""The cost of a very large data set: start, the first batch, resuming far in, memory of a worker.

    python benchmarks/stream_scale.py --shards 10000 --clips 100

Makes a data set of as many clips as asked for in a temporary folder. All its tars are one small real tar under many
names (hard links), all its indexes one real index whose keys do not matter here; the manifest is written in full. So
every read does what it does on real data, while the disk holds a few MB.
"""

import argparse
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from emohead.datamodules.config import DataConfig
from emohead.datamodules.dataset.manifest import load_manifest, publish
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.datamodules.module import TalkingFaceData
from emohead.datamodules.sample import Clip, ClipInfo
from emohead.models.face_model import FaceModel

SIZE, FRAMES = 64, 250  # pixels a side; 10 s, so that an index holds as many ranges as a real one


def make_clip(number: int, frames: int = FRAMES) -> Clip:
    rng = np.random.default_rng(number)
    image = cv2.resize(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8), (SIZE, SIZE))
    info = ClipInfo(key=f"clip{number:06d}", dataset="scale", identity="id", split="train", frames=frames, size=SIZE)
    return Clip(
        info=info,
        frames=np.broadcast_to(image, (frames, SIZE, SIZE, 3)).copy(),
        speech=rng.normal(0, 0.01, frames * 640).astype(np.float32),
        motion=rng.normal(size=(frames, 16)).astype(np.float32),
        identity=rng.normal(size=8).astype(np.float32),
        landmarks=rng.uniform(0, SIZE, (frames, 68, 2)).astype(np.float16),
    )


def make_data_set(folder: Path, shards: int, clips: int, frames: int = FRAMES) -> None:
    """One shard of `clips` clips under `shards` names."""
    rng = np.random.default_rng(0)
    bases = [rng.normal(0, 0.1, (n, 68, 3)) for n in (8, 10)]
    with ShardWriter(folder, size=SIZE, clips_per_shard=clips) as writer:
        for number in range(clips):
            writer.write(make_clip(number, frames))
        manifest = writer.close(FaceModel(rng.normal(0, 0.3, (68, 3)), *bases, np.arange(68), kind="landmark"))
    first = manifest.shards[0]
    manifest.shards = [replace(first, name=f"train-{number:06d}.tar") for number in range(shards)]
    manifest.splits["train"].clips *= shards
    for shard in manifest.shards[1:]:
        for ending in (".tar", ".index.json"):
            os.link(folder / first.name.replace(".tar", ending), folder / shard.name.replace(".tar", ending))
    publish(folder, manifest)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def memory(process: int | str = "self") -> dict[str, float]:
    """MB of a process: all it maps (rss), and the part that it shares with no other (own)."""
    found = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        found[name] = int(value) / 1024
    return {"rss": found["Rss:"], "own": found["Private_Clean:"] + found["Private_Dirty:"]}


class Position:
    """As much of a trainer as the data module asks for: one process, `num_batches` done."""

    global_rank, world_size = 0, 1

    def __init__(self, num_batches: int) -> None:
        self.num_batches = num_batches
        self.lightning_module = self


def measure(folder: Path, *, stage: str, workers: int, batches: int) -> None:
    index = folder / "train-000000.index.json"
    manifest_mb = (folder / "manifest.json").stat().st_size / 1e6
    print(f"manifest.json       {manifest_mb:8.1f} MB  read in {timed(lambda: load_manifest(folder))[1]:6.2f} s")
    config = DataConfig([str(folder)], batch_size=12, num_workers=workers)
    data, seconds = timed(lambda: TalkingFaceData(stage, config))
    print(f"data module                       made in {seconds:6.2f} s, {data.train_source.num_clips:,} clips")
    _, parse = timed(lambda: json.loads(index.read_bytes()))
    data.readers[0].shard(0)
    _, opened = timed(lambda: data.readers[0].shard(1))
    size = index.stat().st_size / 1e6
    print(f"one index           {size:8.1f} MB  opened in {opened * 1e3:.1f} ms; plain json.loads {parse * 1e3:.1f} ms")
    data.readers[0]._open.clear()
    total = data.train_source.num_clips // 12
    for done in (0, total // 2, total - 1, 37 * total + 12_345):
        data.trainer = Position(done)  # type: ignore[assignment]
        stream, seconds = timed(lambda: iter(data.train_dataloader()))
        _, first = timed(lambda stream=stream: next(stream))
        print(f"batch {done:>12,}: workers started in {seconds:.2f} s, first batch after {first:.2f} s")
        del stream
    stream = iter(data.train_dataloader())
    for part in range(1, 6):
        _, seconds = timed(lambda: [None for _ in itertools.islice(stream, batches // 5)])
        print(f"{part * batches // 5 * 12:,} samples, {batches // 5 * 12 / seconds:,.0f} a second ({stage})")
        for worker in stream._workers:
            m, files = memory(worker.pid), len(os.listdir(f"/proc/{worker.pid}/fd"))
            print(f"  worker: {m['rss']:.0f} MB resident, {m['own']:.0f} MB of its own, {files} open files")
    print(f"trainer: {memory()['rss']:.0f} MB resident")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--clips", type=int, default=100, help="of a shard")
    parser.add_argument("--stage", default="face")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=1000)
    options = parser.parse_args()
    print(f"before any data: {memory()['rss']:.0f} MB resident (Python and its libraries)")
    folder = Path(tempfile.mkdtemp(prefix="stream-scale-"))
    try:
        make_data_set(folder, options.shards, options.clips)
        measure(folder, stage=options.stage, workers=options.workers, batches=options.batches)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
