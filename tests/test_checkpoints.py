"""Checkpoints of a run: whole or not there, verified before use, killed at any moment."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from emohead.trainers.run.checkpoints import Checkpoints, Saved, damage

SOAK = bool(os.environ.get("EMOHEAD_SOAK"))
KILLS = 100 if SOAK else 25


def content(step: int, size: int = 2000) -> Saved:
    draws = torch.Generator().manual_seed(step)
    tensors = {"network.weight": torch.randn(size, generator=draws), "network.count": torch.tensor(step)}
    return Saved("face", step, tensors, {"network.exp_avg.weight": torch.full((size,), float(step))}, {"skipped": step})


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep_last=2, keep_best=1)


def reported(checkpoints: Checkpoints) -> tuple[int | None, list[str]]:
    lines: list[str] = []
    return checkpoints.newest(lines.append), lines


def test_what_was_saved_comes_back(checkpoints: Checkpoints) -> None:
    checkpoints.save(content(3))
    assert reported(checkpoints) == (3, [])
    loaded, wanted = checkpoints.load(3), content(3)
    assert (loaded.stage, loaded.step, loaded.state) == ("face", 3, {"skipped": 3})
    for given, back in ((wanted.weights, loaded.weights), (wanted.optimizer, loaded.optimizer)):
        assert given.keys() == back.keys()
        assert all(torch.equal(given[key], back[key]) for key in given)


def test_the_last_and_the_best_are_kept(checkpoints: Checkpoints) -> None:
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.3), (4, 0.2), (5, 0.4)):
        checkpoints.save(content(step))
        assert checkpoints.rank_best(score, step) == (step in (1, 2))
        checkpoints.prune()
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.best() == [(0.9, 2)]


def flip(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "missing", "empty"])
def test_a_damaged_one_is_passed_over_and_named(checkpoints: Checkpoints, name: str, harm: str) -> None:
    for step in (1, 2):
        checkpoints.save(content(step))
    path = checkpoints.path(2) / name
    if harm == "flipped" and name == "manifest.json":  # a digit of a checksum
        text = path.read_text()
        place = text.index('"sha256": "') + 11
        path.write_text(text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :])
    elif harm == "flipped":
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


def test_nothing_there_is_nothing_to_go_on_from(checkpoints: Checkpoints) -> None:
    assert reported(checkpoints) == (None, [])
    checkpoints.save(content(1))
    shutil.rmtree(checkpoints.path(1) / "..", ignore_errors=True)
    assert reported(checkpoints) == (None, [])


def save_on_and_on(folder: Path, first: int, announced: Path) -> None:
    checkpoints = Checkpoints(folder, keep_last=2)
    for step in range(first, first + 10_000):
        checkpoints.save(content(step, size=50_000))
        checkpoints.rank_best(random.Random(step).random(), step)
        checkpoints.prune()
        announced.write_text(str(step))


def test_killed_at_any_moment_the_newest_is_whole(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """A process that does nothing but save is killed again and again; the next goes on from what it finds."""
    announced, draws = tmp_path / "announced", random.Random(0)
    fork = multiprocessing.get_context("forkserver")  # of a process without threads, and faster than a new Python
    fork.set_forkserver_preload(["emohead.trainers.run.checkpoints"])
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
        found, lines = reported(checkpoints)
        step = found or 0
        assert not lines, f"kill {kill}: {lines}"
        assert step >= int(announced.read_text() or 0), "a finished checkpoint is gone"
        if step:
            assert damage(checkpoints.path(step)) is None
            assert checkpoints.load(step).state == {"skipped": step}
        assert not list(checkpoints.folder.glob("*.partial"))
    assert step > KILLS / 10, "it was killed before it could do anything"
    assert json.loads((checkpoints.folder / "best.json").read_text())
