"""Checkpoints of a run: whole or not there, verified before use, for any number of ranks, killed at any moment."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from emohead.models.errors import Failure, UserError
from emohead.trainers.engines.shares import Share, to_save
from emohead.trainers.run.background import Background, Save
from emohead.trainers.run.checkpoints import Checkpoints, damaged, read_manifest
from emohead.trainers.run.part_file import HostMemory
from emohead.trainers.run.stored import Stored
from safetensors.torch import load_file
from torch import Tensor

SOAK = bool(os.environ.get("EMOHEAD_SOAK"))
KILLS = 100 if SOAK else 25
FROZEN = {"network.weights.tower": Share(torch.arange(12.0).view(3, 4), torch.Size([3, 4]))}


def content(step: int, size: int = 2000) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(step)
    found = {"network.weights.a": torch.randn(size, 2, generator=draws), "network.step.a": torch.tensor(float(step))}
    found |= {"network.weights.count": torch.tensor(step), "network.weights.b": torch.randn(7, generator=draws).half()}
    return found | {
        "network.weights.flags": torch.tensor([True, False, True]),
        "network.weights.none": torch.ones(0, 3),
    }


def shares(step: int, size: int = 2000) -> dict[str, Share]:
    return {name: Share(tensor, tensor.shape) for name, tensor in content(step, size).items()}


def save(checkpoints: Checkpoints, step: int, num_ranks: int = 1, frozen: dict[str, Share] | None = None) -> None:
    parts = [HostMemory().hold(to_save(shares(step), rank, num_ranks)) for rank in range(num_ranks)]
    entries = [checkpoints.write(step, number, part) for number, part in enumerate(parts)]
    if frozen:
        entries.append(checkpoints.write_frozen(HostMemory().hold(frozen)))
    checkpoints.complete("face", step, {"skipped": step}, entries)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep_last=2, keep_best=1)


def reported(checkpoints: Checkpoints) -> tuple[int | None, list[str]]:
    lines: list[str] = []
    stored = checkpoints.newest(lines.append)
    return stored and stored.step, lines


def newest(checkpoints: Checkpoints) -> Stored:
    stored = checkpoints.newest(pytest.fail)
    assert stored is not None
    return stored


# ---------------------------------------------------------------------------------------------- what is in it


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_what_was_saved_comes_back_for_any_number_of_ranks(checkpoints: Checkpoints, num_ranks: int) -> None:
    save(checkpoints, 3, num_ranks)
    stored, wanted = newest(checkpoints), content(3)
    assert (stored.stage, stored.step, stored.state) == ("face", 3, {"skipped": 3})
    assert stored.tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        back = stored.whole(name)
        assert back.dtype == tensor.dtype
        assert torch.equal(back, tensor)
    assert len(list(stored.folder.glob("part-*"))) == num_ranks
    for start, numel in ((0, 4000), (1, 1), (1300, 50), (1333, 1334), (3999, 1)):  # the cuts of 3 ranks among them
        whole = wanted["network.weights.a"].flatten()
        assert torch.equal(stored.part("network.weights.a", start, numel), whole[start : start + numel])
        assert torch.equal(stored.under("network").part("weights.a", start, numel), whole[start : start + numel])


def test_its_files_are_safetensors_with_aligned_tensors_and_no_pickle(checkpoints: Checkpoints) -> None:
    save(checkpoints, 3)
    path = checkpoints.path(3) / "part-00000.safetensors"
    for name, tensor in load_file(path).items():
        assert torch.equal(tensor, content(3)[name].flatten())
    assert {file.suffix for file in path.parent.iterdir()} == {".safetensors", ".json"}
    length = int.from_bytes(path.read_bytes()[:8], "little")
    places = json.loads(path.read_bytes()[8 : 8 + length])
    assert length % 8 == 0
    assert all(places[name]["data_offsets"][0] % content(3)[name].element_size() == 0 for name in places)


def test_what_is_held_is_a_copy_and_its_memory_is_used_again() -> None:
    memory, given = HostMemory(), torch.zeros(100)
    for value in (1.0, 2.0):
        given.fill_(value)
        part = memory.hold({"a": Share(given, given.shape)})
        given.fill_(9.0)
        assert (part.values.view("float32") == value).all()
        place = part.values.ctypes.data
    assert memory.hold({"a": Share(given[:50], given.shape)}).values.ctypes.data == place


# ---------------------------------------------------------------------------------------------- which ones stay


def test_the_last_and_the_best_are_kept(checkpoints: Checkpoints) -> None:
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.3), (4, 0.2), (5, 0.4)):
        save(checkpoints, step)
        assert checkpoints.rank_best(score, step) == (step in (1, 2))
        checkpoints.prune()
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.best() == [(0.9, 2)]


def test_what_an_interrupted_save_left_counts_for_nothing_and_is_removed(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    checkpoints.write(2, 0, HostMemory().hold(shares(2)))  # and never completed
    assert reported(checkpoints) == (1, [])
    checkpoints.sweep()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000001"]


def test_frozen_weights_are_stored_once_and_go_with_the_last_that_names_them(checkpoints: Checkpoints) -> None:
    other = {"network.weights.tower": Share(torch.ones(3, 4), torch.Size([3, 4]))}
    for step, frozen in ((1, FROZEN), (2, FROZEN), (3, other)):
        save(checkpoints, step, frozen=frozen)
        stored = newest(checkpoints)
        assert torch.equal(stored.whole("network.weights.tower"), frozen["network.weights.tower"].values)
        entry = stored.frozen()
        assert entry is not None
        assert entry["pieces"] == {"network.weights.tower": ([3, 4], 0, 12)}
        assert len(list((checkpoints.folder / "frozen").iterdir())) == (1 if step < 3 else 2)
    save(checkpoints, 4, frozen=other)
    (left,) = (checkpoints.folder / "frozen").iterdir()
    assert newest(checkpoints).files[0]["name"] == f"../frozen/{left.name}"
    assert not damaged(checkpoints.path(4), [{"name": left, "sha256": left.stem, "bytes": left.stat().st_size}])


# ---------------------------------------------------------------------------------------------- damage


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["part-00000.safetensors", "part-00001.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "missing", "empty"])
def test_a_damaged_one_is_passed_over_and_named(checkpoints: Checkpoints, name: str, harm: str) -> None:
    for step in (1, 2):
        save(checkpoints, step, num_ranks=2)
    path = checkpoints.path(2) / name
    if harm == "flipped":
        flip(path)
    elif harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: -5 if harm == "cut" else 0])
    step, lines = reported(checkpoints)
    assert step == 1
    assert len(lines) == 1
    assert "step-00000002" in lines[0]
    assert "passed over" in lines[0]
    assert reported(checkpoints) == (1, []), "once is enough"


@pytest.mark.parametrize("key", ["state", "tensors", "format", "step"])
def test_all_of_a_manifest_is_verified(checkpoints: Checkpoints, key: str) -> None:
    save(checkpoints, 1)
    path = checkpoints.path(1) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {key: 3}))
    assert reported(checkpoints)[0] is None


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_frozen_weights_that_are_damaged_or_missing_end_the_run_with_one_line(checkpoints: Checkpoints, harm) -> None:
    for step in (1, 2):
        save(checkpoints, step, frozen=FROZEN)
    (path,) = (checkpoints.folder / "frozen").iterdir()
    kept = path.read_bytes()
    harm(path)
    with pytest.raises(UserError, match=rf"{path.name}.*(missing|checksum).*frozen weights.*copy") as refusal:
        reported(checkpoints)
    assert "\n" not in str(refusal.value)
    path.write_bytes(kept)
    assert reported(checkpoints) == (2, []), "nothing was passed over"


def test_frozen_weights_that_are_gone_before_a_save_end_the_run(checkpoints: Checkpoints) -> None:
    entry = checkpoints.write_frozen(HostMemory().hold(FROZEN))
    (path,) = (checkpoints.folder / "frozen").iterdir()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        checkpoints.complete("face", 1, {}, [checkpoints.write(1, 0, HostMemory().hold(shares(1))), entry])
    assert checkpoints.steps() == []


def test_one_of_another_format_is_refused_and_left_as_it_is(checkpoints: Checkpoints) -> None:
    folder = checkpoints.path(7)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"format": 1, "stage": "face", "step": 7, "files": {}}')
    with pytest.raises(UserError, match="of format 1, this emohead reads 2"):
        reported(checkpoints)
    assert checkpoints.steps() == [7]


def test_nothing_there_is_nothing_to_go_on_from(checkpoints: Checkpoints) -> None:
    assert reported(checkpoints) == (None, [])
    save(checkpoints, 1)
    shutil.rmtree(checkpoints.path(1) / "..", ignore_errors=True)
    assert reported(checkpoints) == (None, [])


# ---------------------------------------------------------------------------------------------- in the background


def begin(background: Background, step: int, rank: int = 0, num_ranks: int = 1, size: int = 2000) -> None:
    part = HostMemory().hold(to_save(shares(step, size), rank, num_ranks))
    frozen = HostMemory().hold(FROZEN) if background.frozen is None and rank == 0 else None
    background.begin(Save("face", step, {"skipped": step}, part, frozen))


def test_a_write_that_takes_long_holds_nobody_up_and_its_failure_is_one_line(checkpoints: Checkpoints) -> None:
    background = Background(checkpoints)
    begin(background, 1)
    background.finish()
    assert reported(checkpoints) == (1, [])
    pipe = checkpoints.folder / "step-00000002.partial" / "part-00000.safetensors"
    pipe.parent.mkdir()
    os.mkfifo(pipe)  # whoever opens it waits until somebody reads, and it cannot be had on the disk
    begin(background, 2)
    assert checkpoints.steps() == [1], "it is not written, and this goes on"
    assert not background.failed
    assert pipe.read_bytes()
    with pytest.raises(Failure, match=r"step-00000002: not written \(OSError.*Invalid argument\)") as failure:
        background.finish()
    assert "\n" not in str(failure.value)
    assert background.failed
    assert reported(checkpoints) == (1, [])
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["frozen", "step-00000001"]


def work(rank: int, folder: Path, port: int) -> None:
    """One of two ranks: a save; one that rank 1 cannot write; a start after the part of rank 1 was damaged."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    checkpoints = Checkpoints(folder)
    background = Background(checkpoints)
    begin(background, 1, rank, 2)
    background.finish()
    found = [newest(checkpoints).step]
    if rank == 1:
        (folder / "step-00000002.partial" / "part-00001.safetensors").mkdir(parents=True)
    dist.barrier()
    begin(background, 2, rank, 2)
    try:
        background.finish()
    except OSError as error:
        found.append(f"{error.strerror}: {Path(error.filename).name}")
    if rank == 1:
        flip(checkpoints.path(1) / "part-00001.safetensors")
    dist.barrier()
    lines: list[str] = []
    found += [checkpoints.newest(lines.append), len(lines)]
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def test_ranks_write_their_parts_and_what_one_cannot_write_or_finds_damaged_all_know(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    torch.multiprocessing.spawn(work, (tmp_path, port), nprocs=2)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == [1, "Is a directory: part-00001.safetensors", None, 1 if rank == 0 else 0]
    assert sorted(path.name for path in tmp_path.glob("step*")) == ["step-00000001.damaged"]
    manifest, wrong = read_manifest(tmp_path / "step-00000001.damaged")
    assert wrong is None
    assert [Path(file["name"]).name for file in manifest["files"][1:]] == [
        "part-00000.safetensors",
        "part-00001.safetensors",
    ]


def save_on_and_on(folder: Path, first: int, announced: Path) -> None:
    checkpoints = Checkpoints(folder, keep_last=2)
    checkpoints.sweep()
    background = Background(checkpoints)
    for step in range(first, first + 10_000):
        begin(background, step, size=25_000)
        background.finish()
        checkpoints.rank_best(random.Random(step).random(), step)
        announced.write_text(str(step))


def test_killed_at_any_moment_the_newest_is_whole(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """A process that does nothing but save is killed again and again; the next goes on from what it finds."""
    announced, draws = tmp_path / "announced", random.Random(0)
    fork = multiprocessing.get_context("forkserver")  # of a process without threads, and faster than a new Python
    fork.set_forkserver_preload(["emohead.trainers.run.background"])
    announced.write_text("0")
    process = fork.Process(target=save_on_and_on, args=(checkpoints.folder, 1, announced))
    process.start()
    started = time.monotonic()
    while int(announced.read_text() or 0) < 4:
        time.sleep(0.001)
        assert time.monotonic() - started < 60, "nothing is saved"
    four_saves = time.monotonic() - started  # disks differ in how long they take to be sure
    process.kill()
    process.join()
    step = reported(checkpoints)[0] or 0
    for kill in range(KILLS):
        announced.write_text(str(step))
        process = fork.Process(target=save_on_and_on, args=(checkpoints.folder, step + 1, announced))
        process.start()
        time.sleep(draws.uniform(0.0, four_saves))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        lines: list[str] = []
        stored = checkpoints.newest(lines.append)
        step = stored.step if stored else 0
        assert not lines, f"kill {kill}: {lines}"
        assert step >= int(announced.read_text() or 0), "a finished checkpoint is gone"
        if stored:
            assert stored.state == {"skipped": step}
            assert torch.equal(stored.whole("network.weights.a"), content(step, 25_000)["network.weights.a"])
            assert torch.equal(stored.whole("network.weights.tower"), FROZEN["network.weights.tower"].values)
    checkpoints.sweep()
    assert not list(checkpoints.folder.rglob("*.partial"))
    assert step > KILLS / 10, "it was killed before it could do anything"
    assert json.loads((checkpoints.folder / "best.json").read_text())
