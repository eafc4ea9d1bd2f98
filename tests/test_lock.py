"""One process at a time: the second is told, and what a dead one left behind is taken over."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from emohead.models import lock
from emohead.models.errors import UserError
from emohead.models.lock import Owner, locked

HOLD = """
import sys, time
from pathlib import Path
from emohead.models.lock import locked
with locked(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, name: str = "") -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), name], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("name", ["", "v.mp4", "x" * 251 + ".mp4"])
def test_a_second_process_is_told_who_is_at_it(tmp_path: Path, name: str) -> None:
    process = holder(tmp_path, name)
    try:
        with pytest.raises(UserError, match=f"process {process.pid} is at it"), locked(tmp_path, name):
            pass
        with locked(tmp_path, "another"):
            pass
    finally:
        process.kill()
        process.wait()
    with locked(tmp_path, name):
        pass
    assert not list(tmp_path.iterdir())


def left_behind(folder: Path, **changes: str | int) -> None:
    content = {"host": "elsewhere", "pid": 1, "born": "boot pid:[1] 5", "job": ""} | changes
    (folder / ".lock").write_text(json.dumps(content))


def test_the_lock_of_a_job_that_was_requeued_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(tmp_path, job="77")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_process_id_that_is_used_again_holds_nothing(tmp_path: Path) -> None:
    here = Owner.here()
    left_behind(tmp_path, host=here.host, pid=os.getppid(), born=" ".join([*here.born.split()[:2], "1"]))
    with locked(tmp_path):
        pass


def test_a_lock_of_another_machine_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SILENCE", 2.5)
    left_behind(tmp_path)
    beats = [sys.executable, "-c", "import os, sys, time\nwhile True: os.utime(sys.argv[1]); time.sleep(0.2)"]
    process = subprocess.Popen([*beats, str(tmp_path / ".lock")])
    try:
        first = (tmp_path / ".lock").stat().st_mtime_ns
        while (tmp_path / ".lock").stat().st_mtime_ns == first:
            time.sleep(0.05)
        with pytest.raises(UserError, match="process 1 on elsewhere is at it"), locked(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["host"] == Owner.here().host


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}'])
def test_a_lock_that_names_nobody_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content)
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    left_behind(tmp_path, host=Owner.here().host, born=Owner.here().born.rsplit(" ", 1)[0] + " 1", pid=99_999_999)
    command = [sys.executable, "-c", HOLD, str(tmp_path), ""]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    end = time.monotonic() + 60
    while sum(process.poll() is None for process in processes) > 1:
        assert time.monotonic() < end, "several hold it"
        time.sleep(0.1)
    (alive,) = [process for process in processes if process.poll() is None]
    assert alive.stdout.readline() == "held\n"
    alive.kill()
    alive.wait()
