"""Ctrl-C at any command: one line, exit code 130, nothing half-written, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from emohead.datamodules.sample import SAMPLE_RATE

from .conftest import emohead


def interrupted(command: list[object], log: Path, begun: Callable[[str], object], *, times: int = 1) -> str:
    """Start a command as from a terminal, press Ctrl-C when it has `begun`; returns all that it said."""
    words = [sys.executable, "-m", "emohead.apps.cli", *map(str, command)]
    with open(log, "w") as file:
        process = subprocess.Popen(
            words,
            stdout=file,
            stderr=file,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    end = time.monotonic() + 300
    while not begun(log.read_text()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
    assert process.wait(timeout=120) == 130, log.read_text()
    return log.read_text()


def left_in_order(told: str, *folders: Path) -> None:
    assert "Traceback" not in told
    assert sum(line.startswith("emohead: ") for line in told.splitlines()) == 1, told
    assert "the same command goes on" in told
    for folder in folders:
        assert not [path for path in folder.rglob("*") if path.name.endswith((".lock", ".partial"))]


@pytest.mark.parametrize("times", [1, 2])
def test_infer(demo: Path, tmp_path: Path, times: int) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(300 * SAMPLE_RATE, np.float32), SAMPLE_RATE)
    out = tmp_path / "out" / "v.mp4"
    command = ["infer", demo / "talker.safetensors", "--portrait", demo / "portrait.png", "--no-crop"]
    command += ["--text", "happy", "--speech", tmp_path / "long.wav", "--out", out]
    begun = out.with_name("v.mp4.partial").exists
    left_in_order(interrupted(command, tmp_path / "log", lambda told: begun(), times=times), out.parent)
    assert not out.parent.exists(), "nothing was in it before"


def test_evaluate(demo: Path, tmp_path: Path) -> None:
    command = ["evaluate", demo / "talker.safetensors", demo / "data", "--split", "train", "--out", tmp_path / "out"]
    left_in_order(interrupted(command, tmp_path / "log", lambda told: "emotion: " in told), tmp_path)


def test_prepare(people: Path, tmp_path: Path) -> None:
    command = ["prepare", "folder", people, tmp_path / "out", "--size", "64"]
    left_in_order(interrupted(command, tmp_path / "log", lambda told: "track: " in told), tmp_path)
    again = emohead(*command)
    assert again.returncode == 0, again.stderr
    assert "3 clips kept" in again.stdout


def test_train(demo: Path, tmp_path: Path) -> None:
    settings = [f"data.shards=[{demo / 'data'}]", "data.batch_size=2", "data.num_workers=1", "tracking.wandb=disabled"]
    settings += [f"run={tmp_path / 'run'}", "trainer.max_steps=100000", "trainer.log_every=1"]
    command = ["train", "emotion", "-c", demo / "emotion" / "config.yaml", *settings]
    told = interrupted(command, tmp_path / "log", lambda told: "run: step" in told)
    left_in_order(told, tmp_path)
    assert "saved at step" in told
