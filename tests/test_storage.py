"""Data sets at URLs: ranges, failures of servers, the cache, and the same clips as from a local folder."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from emohead.datamodules.dataset.manifest import load_manifest, publish
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.storage.cache import Cache
from emohead.datamodules.storage.fetch import FsspecFetcher, HttpFetcher
from emohead.datamodules.storage.folder import LocalFolder, RemoteFolder, open_folder
from emohead.models.errors import UserError

from .range_server import CONTENT, QUICK, RangeServer, serving
from .shard_clips import face_model, write_clips
from .stream_data import FakeTrainer, data_of, keys_of, take


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("storage") / "data"
    write_clips(out, counts={"train": 10, "val": 2})
    (out / "file").write_bytes(CONTENT)
    return out


@pytest.fixture
def server(corpus: Path) -> Iterator[RangeServer]:
    with serving(corpus) as server:
        yield server


# ---------------------------------------------------------------------------------------------- http


def test_ranges_are_read_exactly(server: RangeServer) -> None:
    fetcher = HttpFetcher(QUICK)
    url = f"{server.url}/file"
    assert fetcher.fetch(url) == CONTENT
    assert fetcher.fetch(url, 500, 1000) == CONTENT[500:1500]
    assert fetcher.fetch(url, 99_900, 1000) == CONTENT[99_900:]  # fewer where the file ends
    assert fetcher.fetch(url, 100_000, 10) == b""
    asked = ((500, 1499), (99_900, 100_899), (100_000, 100_009))
    assert server.log[1:] == [("/file", f"bytes={first}-{last}") for first, last in asked]


@pytest.mark.parametrize(
    "failures",
    [
        ["500"],
        ["503", "429"],
        ["closed", "closed", "closed"],
        ["truncated"],
        ["stalled"],
        ["dripping"],
        ["shifted"],
        ["502", "truncated", "stalled"],
    ],
)
def test_what_may_pass_is_tried_again(server: RangeServer, failures: list[str]) -> None:
    server.plan = list(failures)
    assert HttpFetcher(QUICK).fetch(f"{server.url}/file", 500, 1000) == CONTENT[500:1500]
    assert len(server.log) == len(failures) + 1


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("500", "HTTP 500"),
        ("closed", "Connection|closed"),
        ("truncated", "IncompleteRead|cut short"),
        ("stalled", "timed out|stalled"),
        ("shifted", "asked for bytes 500-1499, answered with 501-1500"),
    ],
)
def test_a_server_that_stays_broken_is_one_clear_error(server: RangeServer, failure: str, words: str) -> None:
    server.always = failure
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"/file: .*({words}).*; tried 4 times in \d+ s") as error:
        HttpFetcher(QUICK).fetch(f"{server.url}/file", 500, 1000)
    assert "\n" not in str(error.value)
    assert len(server.log) == 4
    assert time.monotonic() - started < 20, "its waits are far shorter"


def test_no_server_is_one_clear_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    with pytest.raises(UserError, match=rf"{url}: NewConnectionError.*refused.*tried 4 times"):
        HttpFetcher(QUICK).fetch(url)


@pytest.mark.parametrize(
    ("status", "words"), [("403", "HTTP 403, not allowed"), ("400", "HTTP 400; check the address")]
)
def test_what_will_not_pass_is_said_at_once(server: RangeServer, status: str, words: str) -> None:
    server.always = status
    with pytest.raises(UserError, match=words):
        HttpFetcher(QUICK).fetch(f"{server.url}/file", 0, 10)
    assert len(server.log) == 1


def test_a_missing_file_is_asked_for_once(server: RangeServer) -> None:
    with pytest.raises(FileNotFoundError):
        HttpFetcher(QUICK).fetch(f"{server.url}/nothing", 0, 10)
    with pytest.raises(UserError, match=r"nowhere/manifest\.json: no such file: `emohead prepare` writes one"):
        ClipReader(f"{server.url}/nowhere")
    assert len(server.log) == 2


def test_a_server_without_ranges(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.always = "whole"
    assert HttpFetcher(QUICK).fetch(f"{server.url}/file", 500, 1000) == CONTENT[500:1500]
    monkeypatch.setattr("emohead.datamodules.storage.fetch.LARGEST_WHOLE", 10_000)
    with pytest.raises(UserError, match="sends the whole file where a range is asked for"):
        HttpFetcher(QUICK).fetch(f"{server.url}/file", 500, 1000)


def test_connections_are_not_shared_after_a_fork(server: RangeServer) -> None:
    fetcher = HttpFetcher(QUICK)
    mine = fetcher.client()
    child = os.fork()
    if child == 0:
        os._exit(0 if fetcher.client() is not mine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert fetcher.client() is mine


# ---------------------------------------------------------------------------------------------- fsspec


@pytest.fixture
def memory(corpus: Path) -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for path in corpus.iterdir():
        system.pipe_file(f"/bucket/data/{path.name}", path.read_bytes())
    yield "memory://bucket/data"
    system.rm("/bucket", recursive=True)


def test_other_addresses_are_read_through_fsspec(memory: str) -> None:
    fetcher = FsspecFetcher(memory, QUICK)
    assert fetcher.fetch(f"{memory}/file") == CONTENT
    assert fetcher.fetch(f"{memory}/file", 500, 1000) == CONTENT[500:1500]
    assert fetcher.fetch(f"{memory}/file", 99_900, 1000) == CONTENT[99_900:]
    assert fetcher.fetch(f"{memory}/file", 200_000, 10) == b""
    with pytest.raises(FileNotFoundError):
        fetcher.fetch(f"{memory}/nothing")


def test_an_unknown_kind_of_address_is_refused() -> None:
    with pytest.raises(UserError, match=r"nonsense://a: .*install what reads such addresses"):
        ClipReader("nonsense://a")


def test_failures_of_fsspec_are_tried_again(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("memory")
    right, calls = type(system).cat_file, []

    def failing(self, path, start=None, end=None, **_):
        calls.append(path)
        if len(calls) % 3 == 1:
            raise ConnectionResetError("reset by peer")
        data = right(self, path, start, end)
        return data[: len(data) // 2] if len(calls) % 3 == 2 else data

    monkeypatch.setattr(type(system), "cat_file", failing)
    assert FsspecFetcher(memory, QUICK).fetch(f"{memory}/file", 500, 1000) == CONTENT[500:1500]
    assert len(calls) == 3


# ---------------------------------------------------------------------------------------------- data sets


def same_clips(reader: ClipReader, local: ClipReader) -> None:
    assert reader.keys() == local.keys()
    assert reader.face_model.checksum() == face_model().checksum()
    for key in ("clip000", "clip005", "clip011"):
        for name in ("frames", "speech", "motion", "identity", "landmarks"):
            np.testing.assert_array_equal(getattr(reader, name)(key), getattr(local, name)(key))
        assert reader.info(key) == local.info(key)
    assert reader.provenance() == local.provenance()


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("kind", ["http", "memory", "file"])
def test_a_data_set_reads_the_same_from_anywhere(
    corpus: Path, server: RangeServer, memory: str, tmp_path: Path, kind: str, cached: bool
) -> None:
    shutil.copytree(corpus, tmp_path / "data")  # so that all addresses end alike
    server.folder = tmp_path
    url = {"http": f"{server.url}/data", "memory": memory, "file": f"file://{tmp_path}/data"}[kind]
    cache = Cache(tmp_path / "cache", 10_000_000, block=7000) if cached else None
    reader = ClipReader(url, files=open_folder(url, cache, QUICK))
    same_clips(reader, ClipReader(corpus))
    assert isinstance(reader.files, LocalFolder if kind == "file" else RemoteFolder)


def test_only_what_is_needed_is_fetched(corpus: Path, server: RangeServer) -> None:
    reader = ClipReader(server.url, files=open_folder(server.url, patience=QUICK))
    clip = reader.clip_at(0, 1)
    server.log.clear()
    server.sent = 0
    clip.frames([3, 17])
    clip.motion()
    members, ranges = clip.record["members"], clip.ranges()
    assert ranges is not None
    assert server.sent == ranges[3][1] + ranges[17][1] + members["motion.npy"][1]
    assert len(server.log) == 3


def test_bytes_garbled_on_the_way_are_read_again(server: RangeServer, corpus: Path) -> None:
    reader = ClipReader(server.url, files=open_folder(server.url, patience=QUICK))
    clip = reader.clip_at(0, 0)
    server.plan = ["garbled"]
    np.testing.assert_array_equal(clip.motion(), ClipReader(corpus).motion("clip000"))
    server.always = "garbled"
    with pytest.raises(UserError, match=r"train-000000\.tar: clip000\.motion\.npy: its bytes differ"):
        clip.motion()


def test_a_tar_that_is_missing_or_short_on_the_server(corpus: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    (data / "train-000000.tar").unlink()
    tar = data / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:50_000])
    with serving(tmp_path) as server:
        reader = ClipReader(f"{server.url}/data", files=open_folder(f"{server.url}/data", patience=QUICK))
        with pytest.raises(UserError, match=r"train-000000\.tar: no such file; copy the whole data set"):
            reader.motion("clip000")
        with pytest.raises(UserError, match=r"train-000001\.tar: clip005\.motion\.npy: its bytes differ"):
            reader.motion("clip005")


@pytest.mark.parametrize(("num_ranks", "workers"), [(1, 0), (2, 2)])
def test_a_url_streams_as_a_folder_does(
    corpus: Path, server: RangeServer, tmp_path: Path, num_ranks: int, workers: int
) -> None:
    wanted = take(data_of(corpus, stage="face").train_dataloader(), 5)
    server.plan = ["ok"] * 4 + ["500", "ok", "truncated"]
    parts = []
    for rank in range(num_ranks):
        trainer = FakeTrainer(rank, num_ranks)
        changes = {"num_workers": workers, "cache": str(tmp_path / "cache"), "cache_gb": 0.01}
        data = data_of(server.url, stage="face", trainer=trainer, **changes)
        assert data.facts.num_train == 10
        parts.append(take(data.train_dataloader(), 5))
    assert [key for slices in zip(*parts, strict=True) for key in keys_of(slices)] == keys_of(wanted)


def test_a_server_that_goes_away_stops_the_stream_in_one_line(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emohead.datamodules.storage.folder.Patience", lambda: QUICK)
    data = data_of(server.url)
    server.always = "500"
    with pytest.raises(UserError, match=r"index\.json: HTTP 500; tried 4 times") as error:
        take(data.train_dataloader(), 1)
    assert "\n" not in str(error.value)


def test_a_shard_name_may_not_lead_elsewhere(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "data")
    manifest = load_manifest(corpus)
    manifest.shards[0].name = "../../other.tar"
    publish(tmp_path / "data", manifest)
    with pytest.raises(UserError, match=r"'\.\./\.\./other\.tar' is no plain file name"):
        ClipReader(tmp_path / "data").shard(0)
