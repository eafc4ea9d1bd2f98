"""Shards read whole, ahead of use: one request each, the same samples, within the bound of the cache; and pipes."""

import fcntl
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from emohead.datamodules.config import DataConfig
from emohead.datamodules.dataset.manifest import load_manifest
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.storage.cache import Cache
from emohead.datamodules.storage.folder import PipeFolder, RemoteFolder, open_folder
from emohead.datamodules.stream.ahead import choose
from emohead.models.errors import UserError

from .range_server import CONTENT, QUICK, RangeServer, serving
from .shard_clips import damage, write_clips
from .stream_data import FakeTrainer, data_of, keys_of, same, take

GB = 1e-9  # so that sizes in bytes can be given


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ahead") / "data"
    write_clips(out, counts={"train": 24, "val": 3})  # eight shards and one
    (out / "file").write_bytes(CONTENT)
    return out


@pytest.fixture
def server(corpus: Path) -> Iterator[RangeServer]:
    with serving(corpus) as server:
        yield server


def tars(server: RangeServer) -> list[tuple[str, str | None]]:
    return [entry for entry in server.log if entry[0].endswith(".tar")]


def window_bytes(corpus: Path) -> int:
    """The most that two windows of two shards take."""
    return sum(sorted(shard.bytes for shard in load_manifest(corpus).shards if shard.split == "train")[-4:])


# ---------------------------------------------------------------------------------------------- streams


def test_the_processes_of_a_machine_read_each_shard_once(corpus: Path, server: RangeServer, tmp_path: Path) -> None:
    wanted = take(data_of(corpus, stage="face").train_dataloader(), 9)  # an epoch and a half
    loaders = []
    for rank in range(2):
        changes = {"num_workers": 2, "cache": str(tmp_path / "cache")}
        loaders.append(data_of(server.url, stage="face", trainer=FakeTrainer(rank, 2), **changes).train_dataloader())
    parts = [iter(loader) for loader in loaders]
    keys = [key for _ in range(9) for part in parts for key in keys_of([next(part)])]
    assert keys == keys_of(wanted)
    asked = Counter(path for path, _ in server.log if path.startswith("/train"))
    assert len(asked) == 16  # a tar and an index each
    assert set(asked.values()) == {1}
    assert all(span.startswith("bytes=0-") for _, span in tars(server) if span)


def test_with_groups_each_machine_reads_its_own_shards(corpus: Path, server: RangeServer, tmp_path: Path) -> None:
    """Four machines, whose caches hold the windows of one group each, and two of the eight shards for each."""
    wanted = take(data_of(corpus, groups=4).train_dataloader(), 6)
    assert sorted(keys_of(wanted)) == sorted(set(keys_of(wanted))), "an epoch"
    parts = []
    for rank in range(4):
        trainer = FakeTrainer(rank, 4)
        trainer.num_nodes = 4
        room = {"cache": str(tmp_path / f"cache{rank}"), "cache_gb": (window_bytes(corpus) / 0.9 + 60_000) * GB}
        parts.append(take(data_of(server.url, trainer=trainer, groups=4, **room).train_dataloader(), 6))
    assert [key for shares in zip(*parts, strict=True) for key in keys_of(shares)] == keys_of(wanted)
    asked = Counter(path for path, _ in tars(server))
    assert set(asked.values()) == {1}
    assert len(asked) == 8


def bytes_in(cache: Path) -> int:
    """The blocks of a cache, while no process writes or deletes one."""
    with open(cache / "usage") as usage:
        fcntl.flock(usage, fcntl.LOCK_EX)
        return sum(path.stat().st_size for path in cache.glob("??/*"))


def test_the_cache_keeps_its_bound_and_the_windows_in_use(
    corpus: Path, server: RangeServer, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    limit = int(window_bytes(corpus) / 0.9) + 60_000  # two windows and some indexes; an epoch has four
    data = data_of(server.url, cache=str(tmp_path / "cache"), cache_gb=limit * GB)
    wanted = take(data_of(corpus).train_dataloader(), 18)
    stream, got = iter(data.train_dataloader()), []
    for _ in wanted:
        got.append(next(stream))
        assert bytes_in(tmp_path / "cache") <= limit
    assert same(got, wanted)
    assert len(tars(server)) <= 8 * 4  # three epochs and what was read ahead: each shard once an epoch
    assert "shards are read whole, ahead of use (this machine uses 100.0%" in capfd.readouterr().err


def test_windows_that_do_not_fit_are_read_by_ranges(
    corpus: Path, server: RangeServer, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    limit = window_bytes(corpus)
    data = data_of(server.url, cache=str(tmp_path / "cache"), cache_gb=limit * GB)
    assert same(take(data.train_dataloader(), 7), take(data_of(corpus).train_dataloader(), 7))
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 1
    assert "two windows of 2 shards take up to" in told[0]
    assert all(span == "bytes=0-4194303" for _, span in tars(server))  # a block of the cache
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("??/*")) <= limit


@pytest.mark.parametrize("failures", [["ok"] * 3 + ["503"] * 3, ["ok"] * 4 + ["truncated", "500", "closed"]])
def test_a_read_that_fails_is_tried_again(
    corpus: Path, server: RangeServer, tmp_path: Path, failures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emohead.datamodules.storage.folder.Patience", lambda: QUICK)
    server.plan = failures
    data = data_of(server.url, cache=str(tmp_path / "cache"))
    assert same(take(data.train_dataloader(), 7), take(data_of(corpus).train_dataloader(), 7))


def test_a_server_that_goes_away_ends_the_stream_in_one_line(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emohead.datamodules.storage.folder.Patience", lambda: QUICK)
    data = data_of(server.url, cache=str(tmp_path / "cache"))
    server.always = "500"
    with pytest.raises(UserError, match=r"HTTP 500; tried 4 times") as error:
        take(data.train_dataloader(), 1)
    assert "\n" not in str(error.value)


def test_a_clip_damaged_at_its_source_costs_that_clip(tmp_path: Path) -> None:
    write_clips(tmp_path / "data", counts={"train": 9})
    damage(tmp_path / "data", "clip004")
    wanted = data_of(tmp_path / "data", bad_samples=tmp_path / "a.jsonl")
    with serving(tmp_path / "data") as server:
        data = data_of(server.url, bad_samples=tmp_path / "b.jsonl", cache=str(tmp_path / "cache"))
        assert same(take(data.train_dataloader(), 4), take(wanted.train_dataloader(), 4))
    assert "clip004" in (tmp_path / "b.jsonl").read_text()


def test_a_server_without_ranges_serves_whole_shards(
    corpus: Path, server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emohead.datamodules.storage.fetch.LARGEST_WHOLE", 10_000)
    server.always = "whole"
    with pytest.raises(UserError, match="sends the whole file where a range is asked for"):
        take(data_of(server.url).train_dataloader(), 1)
    data = data_of(server.url, cache=str(tmp_path / "cache"))
    assert same(take(data.train_dataloader(), 7), take(data_of(corpus).train_dataloader(), 7))


# ---------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("changes", "used", "whole", "why"),
    [
        ({}, 1.0, True, r"uses 100\.0% of a window's clips; two windows of 2 shards take up to 0\.4 GB"),
        ({}, 0.25, True, r"uses 25\.0%"),
        ({}, 0.24, False, r"uses 24\.0%"),
        ({"read_ahead": "always"}, 0.01, True, "two windows"),
        ({"read_ahead": "never"}, 1.0, False, "never"),
        ({"cache_gb": 2.0}, 0.01, True, "holds all of them"),
        ({"cache_gb": 0.4}, 1.0, False, r"up to 0\.4 GB, more than data\.cache_gb=0\.4 has room for"),
        ({"cache": ""}, 1.0, False, "no folder on a local disk"),
    ],
)
def test_the_rule(changes: dict, used: float, whole: bool, why: str) -> None:
    config = DataConfig(["https://host/data"], **{"window_shards": 2, "cache": "x", "cache_gb": 0.5} | changes)
    chosen, told = choose(config, [[int(0.1e9)] * 10], used, must=False)
    assert chosen == whole
    assert re.search(why, told), told


@pytest.mark.parametrize(("nodes", "whole"), [(4, True), (5, False)])
def test_a_machine_uses_its_share_of_a_window(
    corpus: Path, server: RangeServer, tmp_path: Path, nodes: int, whole: bool
) -> None:
    trainer = FakeTrainer()
    trainer.num_nodes = nodes
    limit = window_bytes(corpus) / 0.9 + 1000
    data = data_of(server.url, trainer=trainer, cache=str(tmp_path / "cache"), cache_gb=limit * GB)
    data.train_dataloader()
    folder = data.readers[0].files
    assert isinstance(folder, RemoteFolder)
    assert folder.whole == whole


# ---------------------------------------------------------------------------------------------- files


def whole_file(server: RangeServer, folder: Path, block: int = 10_000):
    files = open_folder(server.url, Cache(folder, 1_000_000, block=block), QUICK)
    assert isinstance(files, RemoteFolder)
    files.whole = True
    return files.open("file", "content", len(CONTENT))


def test_a_file_is_one_request_and_after_a_fault_only_its_rest(server: RangeServer, tmp_path: Path) -> None:
    file = whole_file(server, tmp_path / "cache")
    server.plan = ["truncated", "503"]
    assert file.read(51_000, 20) == CONTENT[51_000:51_020]
    assert [span for _, span in server.log] == ["bytes=0-99999", "bytes=50000-99999", "bytes=50000-99999"]
    assert file.read(0, len(CONTENT)) == CONTENT
    assert len(server.log) == 3


def test_only_gaps_are_read(server: RangeServer, tmp_path: Path) -> None:
    file = whole_file(server, tmp_path / "cache")
    file.read_ahead()
    for block in (2, 3, 9):
        file.folder.cache.forget("content", block)
    server.log.clear()
    assert file.read(25_000, 10) == CONTENT[25_000:25_010]
    assert [span for _, span in server.log] == ["bytes=20000-39999", "bytes=90000-99999"]


def test_the_claim_of_a_process_that_dies_is_taken_over(server: RangeServer, tmp_path: Path) -> None:
    file = whole_file(server, tmp_path / "cache")
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:  # reads three blocks, says so, and hangs

        def stream(offset, size, take):
            take(CONTENT[:35_000])
            os.write(told, b"x")
            threading.Event().wait()

        file.folder.cache.fill("content", len(CONTENT), stream)
        os._exit(1)
    assert os.read(heard, 1) == b"x"
    file.read_ahead()  # is left to the child
    assert file.read(5_000, 10) == CONTENT[5_000:5_010]  # there already, while the child reads on
    assert server.log == []
    threading.Timer(0.3, os.kill, (child, signal.SIGKILL)).start()
    assert file.read(95_000, 10) == CONTENT[95_000:95_010]
    assert [span for _, span in server.log] == ["bytes=30000-99999"]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


# ---------------------------------------------------------------------------------------------- pipes


def test_a_data_set_is_read_through_commands(corpus: Path, tmp_path: Path) -> None:
    url = f"pipe:cat {corpus}/{{}}"
    data = data_of(url, stage="face", cache=str(tmp_path / "cache"))
    wanted = data_of(corpus, stage="face")
    assert same(take(data.train_dataloader(), 9), take(wanted.train_dataloader(), 9))
    assert data.provenance() == wanted.provenance()
    later = data_of(url, stage="face", trainer=FakeTrainer(num_batches=5), cache=str(tmp_path / "cache"))
    assert same(take(later.train_dataloader(), 4), take(wanted.train_dataloader(), 9)[5:])


def test_a_command_that_fails_is_run_again(corpus: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    flaky = f"cut() {{ touch {mark}; head -c 3000 $1; exit 3; }}; [ -e {mark} ] || cut {corpus}/x; cat {corpus}/{{}}"
    files = open_folder(f"pipe:{flaky.replace('/x', '/{}')}", Cache(tmp_path / "cache", 1_000_000), QUICK)
    assert files.open("file", "content", len(CONTENT)).read(50_000, 9) == CONTENT[50_000:50_009]
    assert mark.exists()
    with pytest.raises(UserError, match=r"the command ended with exit code 3; tried 4 times"):
        open_folder("pipe:echo {}; exit 3", None, QUICK).read("file")
    with pytest.raises(UserError, match=r"stalled: no byte in 0 s"):
        open_folder("pipe:sleep 9; echo {}", None, QUICK).read("file")
    with pytest.raises(UserError, match=r"exit code 127; see its message above"):
        open_folder("pipe:no-such-command {}", None, QUICK).read("file")


def test_commands_that_cannot_be_used(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"does not say where the name of a file belongs; write \{\} there"):
        ClipReader(f"pipe:cat {corpus}/manifest.json")
    with pytest.raises(UserError, match="does not belong into a command"):
        PipeFolder("pipe:cat {}", None, None).address("$(reboot).tar")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"names no folder on a local disk; set data\.cache=DIR"):
        data_of(f"pipe:cat {corpus}/{{}}").train_dataloader()
    monkeypatch.setattr("emohead.datamodules.storage.pipe.LARGEST_WHOLE", 10_000)
    with pytest.raises(UserError, match=r"a command's output has no ranges; data\.cache=DIR"):
        ClipReader(f"pipe:cat {corpus}/{{}}").motion("clip001")
