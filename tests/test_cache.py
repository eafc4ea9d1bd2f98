"""The cache of remote blocks: fetched once, bounded, shared by processes, repaired if it is damaged."""

import fcntl
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.storage.cache import Cache
from emohead.datamodules.storage.folder import open_folder
from emohead.models.errors import UserError

from .range_server import CONTENT, QUICK, RangeServer, serving
from .shard_clips import write_clips


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    out = tmp_path_factory.mktemp("cache") / "data"
    write_clips(out, counts={"train": 10, "val": 2})
    with serving(out) as server:
        yield server


def cached_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*"))


def test_what_is_cached_is_fetched_once(server: RangeServer, tmp_path: Path) -> None:
    for turn in range(2):
        cache = Cache(tmp_path / "cache", 10_000_000, block=20_000)
        reader = ClipReader(server.url, files=open_folder(server.url, cache, QUICK))
        for clip in (reader.clip_at(shard, position) for shard in range(3) for position in range(2)):
            clip.frames()
            clip.motion()
        fetched = [path for path, _ in server.log]
        assert len(set(server.log)) == len(server.log) - turn  # the manifest is always fetched
        assert fetched.count("/manifest.json") == turn + 1
    assert not list((tmp_path / "cache").glob("**/*.partial"))


def test_a_data_set_prepared_again_is_not_mixed_with_the_cached_one(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10_000_000)
    with serving(tmp_path) as server:
        for frames in (20, 30):
            shutil.rmtree(tmp_path / "data", ignore_errors=True)
            write_clips(tmp_path / "data", counts={"train": 2}, num_frames=frames)
            url = f"{server.url}/data"
            reader = ClipReader(url, files=open_folder(url, cache, QUICK))
            assert len(reader.motion("clip001")) == frames


def test_a_damaged_cache_is_fetched_again(server: RangeServer, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10_000_000, block=20_000)
    reader = ClipReader(server.url, files=open_folder(server.url, cache, QUICK))
    wanted = reader.motion("clip004")
    blocks = list((tmp_path / "cache").glob("??/*"))
    for block in blocks:
        block.write_bytes(bytes(byte ^ 1 for byte in block.read_bytes()))
    files = open_folder(server.url, Cache(tmp_path / "cache", 10_000_000, block=20_000), QUICK)
    again = ClipReader(server.url, files=files)
    np.testing.assert_array_equal(again.motion("clip004"), wanted)


def test_the_cache_keeps_its_bound_and_the_latest_blocks(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10_000, block=1000)
    fetched: list[int] = []

    def fetch(offset: int, size: int) -> bytes:
        fetched.append(offset)
        return CONTENT[offset : offset + size]

    for offset in range(0, 60_000, 1000):
        assert cache.read("a", offset, 1000, fetch) == CONTENT[offset : offset + 1000]
        assert cached_bytes(tmp_path / "cache") <= 10_000
    fetched.clear()
    other = Cache(tmp_path / "cache", 10_000, block=1000)
    for offset in range(55_000, 60_000, 1000):
        other.read("a", offset, 1000, fetch)
    assert fetched == []
    assert other.read("a", 58_500, 2000, fetch) == CONTENT[58_500:60_500]
    assert fetched == [60_000]
    assert cache.read("b", 0, 20, lambda offset, size: bytes(20_000)) == bytes(20)  # larger than the bound: not kept


def test_reading_goes_on_where_an_open_block_is_evicted(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10_000, block=1000)
    for _ in range(2):  # the second time from the file, which stays open
        cache.read("a", 0, 1000, lambda offset, size: CONTENT[:1000])
    for path in (tmp_path / "cache").glob("??/*"):
        path.unlink()
    assert cache.read("a", 100, 50, lambda offset, size: b"") == CONTENT[100:150]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10_000, block=1000)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("in the way")
    with pytest.warns(UserWarning, match="reading on without writing to it"):
        assert cache.read("a", 0, 10, lambda offset, size: CONTENT[:1000]) == CONTENT[:10]
    assert cache.read("a", 0, 10, lambda offset, size: CONTENT[:1000]) == CONTENT[:10]
    with pytest.raises(UserError, match=r"data\.cache=.*cannot be made"):
        Cache(tmp_path / "cache" / "below", 10_000)


def hammer(folder: str, seed: int) -> None:
    cache = Cache(folder, 20_000, block=1000)
    for number in np.random.default_rng(seed).integers(0, 99, 300):
        offset = int(number) * 1000
        part = cache.read("a", offset + 10, 1200, lambda start, size: CONTENT[start : start + size])
        assert part == CONTENT[offset + 10 : offset + 1210]
        with open(Path(folder) / "usage") as usage:
            fcntl.flock(usage, fcntl.LOCK_EX)
            assert cached_bytes(Path(folder)) <= 20_000


def test_processes_share_a_cache_and_its_bound(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")  # spawned ones would spend the test importing
    context.set_forkserver_preload(["emohead.datamodules.storage.cache"])
    children = [context.Process(target=hammer, args=(str(tmp_path / "cache"), seed)) for seed in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    usage = int((tmp_path / "cache" / "usage").read_text())
    assert cached_bytes(tmp_path / "cache") <= usage <= 20_000
    assert not list((tmp_path / "cache").glob("**/*.partial"))


def test_what_a_killed_process_left_is_evicted(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10_000, block=1000)
    cache.read("a", 0, 1000, lambda start, size: CONTENT[:1000])
    left = next((tmp_path / "cache").glob("??/*")).with_name("x.partial")
    left.write_bytes(bytes(3000))
    os.utime(left, (1, 1))
    (tmp_path / "cache" / "usage").write_text("")  # killed between emptying and writing it
    for offset in range(0, 20_000, 1000):
        cache.read("b", offset, 1000, lambda start, size: CONTENT[start : start + size])
    assert not left.exists()
    assert cached_bytes(tmp_path / "cache") <= 10_000
    assert json.loads((tmp_path / "cache" / "usage").read_text()) <= 10_000
