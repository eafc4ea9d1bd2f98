"""The journal of a run outlives what it reports to."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.datamodules.media.write import write_video
from emohead.trainers.run.clip_table import ClipTable
from emohead.trainers.run.journal import Journal
from emohead.trainers.run.preemption import Preempted
from emohead.trainers.run.wandb_files import sync_command
from emohead.trainers.run.wandb_run import exit_code, wandb_settings
from emohead.trainers.tracking import TrackingConfig

from .wandb_legs import legs, steps

CODE = """
import os, signal, subprocess, sys, time
from pathlib import Path
from emohead.trainers.run.journal import Journal
from emohead.trainers.stage import TrackingConfig

journal = Journal(Path(sys.argv[1]), TrackingConfig(wandb="offline"), {})
journal.write("train", 1, {"loss": 2.0})
if sys.argv[2] == "after the run":
    journal.close()
children = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "wandb-core"], capture_output=True, text=True)
for child in children.stdout.split():
    os.kill(int(child), signal.SIGKILL)
time.sleep(1)
if sys.argv[2] == "between steps":
    for step in range(2, 6):
        journal.write("train", step, {"loss": 1.0, "speed": 2.0, "rate": 3.0})
if sys.argv[2] != "after the run":
    journal.close()
print("killed", len(children.stdout.split()))
"""


def run(moment: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "wandb").mkdir()
    # Another run of this process may have left the address of its own W&B process.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    command = [sys.executable, "-c", CODE, str(folder), moment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=alone)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(("moment", "rows"), [("between steps", 5), ("at the end", 1)])
def test_a_run_goes_on_when_the_process_of_wandb_is_gone(moment: str, rows: int, tmp_path: Path) -> None:
    done = run(moment, tmp_path)
    assert "killed 1" in done.stdout
    assert done.stderr.count("W&B does not answer") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == rows


def test_nothing_of_wandb_is_left_after_a_run(tmp_path: Path) -> None:
    assert "killed 0" in run("after the run", tmp_path).stdout


def test_variables_of_wandb_count_unless_a_setting_says_otherwise(tmp_path: Path) -> None:
    run, named = tmp_path / "run", ("mode", "project", "name", "dir", "group", "job_type")
    environ = {"WANDB_MODE": "online", "WANDB_PROJECT": "faces", "WANDB_NAME": "first", "WANDB_DIR": "/scratch/wandb"}
    environ |= {"WANDB_RUN_GROUP": "theirs", "WANDB_JOB_TYPE": "fit", "WANDB_TAGS": "a,b"}
    given, told = wandb_settings(TrackingConfig(), run, environ, stage="face")
    assert [given[name] for name in named] == ["online", "faces", "first", "/scratch/wandb", "theirs", "fit"]
    assert given["tags"] is given["entity"] is given["notes"] is None, "left to W&B"
    assert not told
    ours = TrackingConfig(wandb="offline", project="mine", group="ours", tags=["c"], entity="us", notes="why")
    given, told = wandb_settings(ours, run, environ, stage="face")
    assert [given[name] for name in named[:2]] == ["offline", "mine"]
    assert (given["group"], given["tags"], given["entity"], given["notes"]) == ("ours", ["c"], "us", "why")
    overridden = {line.split(" is used, not ")[1] for line in told}
    assert overridden == {"WANDB_MODE=online", "WANDB_PROJECT=faces", "WANDB_RUN_GROUP=theirs", "WANDB_TAGS=a,b"}
    given, told = wandb_settings(TrackingConfig(), run, {"WANDB_RUN_ID": "abc"}, stage="face")
    assert [given[name] for name in named] == ["offline", "emohead", "run", run, None, "face"]
    assert "WANDB_RUN_ID=abc" in told[0]


@pytest.mark.parametrize(
    ("folder", "group"), [("runs/mead/emotion", "mead"), ("runs/emotion", None), ("runs/mead/second", None)]
)
def test_runs_of_a_chain_are_a_group(folder: str, group: str | None, tmp_path: Path) -> None:
    given, _ = wandb_settings(TrackingConfig(), tmp_path / folder, {}, stage="emotion")
    assert given["group"] == group


def journal_of(run: Path, *, wandb: str = "offline") -> Journal:
    run.mkdir(exist_ok=True)
    return Journal(run, TrackingConfig(wandb=wandb), {}, stage="face", monitor="val/psnr")


@pytest.fixture
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("nothing_from_outside")
def test_a_row_is_sent_once_and_a_late_one_is_sent(tmp_path: Path) -> None:
    """A run is stopped before the validation of its last step; what is done again is not sent again."""
    first = journal_of(tmp_path / "run")
    first.forget_after(0)
    for step in (10, 20, 30):
        first.write("train", step, {"loss": 1.0 / step})
    first.write("val", 10, {"psnr": 30.0})
    first.close()
    second = journal_of(tmp_path / "run")
    second.forget_after(30)
    second.write("val", 30, {"psnr": 25.0})
    second.close()
    third = journal_of(tmp_path / "run")
    third.forget_after(20)
    third.write("train", 30, {"loss": 1.0 / 30})
    third.write("val", 30, {"psnr": 25.0})
    third.write("train", 40, {"loss": 1.0})
    third.close()
    found = legs(tmp_path / "run")
    assert steps(found, "train/loss") == [10, 20, 30, 40]
    assert [row["step"] for leg in found for row in leg.rows if "val/psnr" in row] == [10, 30]
    assert steps(found) == sorted(set(steps(found)))
    assert [leg.summary["val/psnr"] for leg in found] == [{"max": 30.0}] * 3
    assert found[-1].summary["train/loss"] == {"min": 1.0 / 30}
    assert found[0].metrics["val/psnr"].summary.max


@pytest.mark.usefixtures("nothing_from_outside")
def test_rows_from_before_wandb_was_on_are_sent(tmp_path: Path) -> None:
    off = journal_of(tmp_path / "run", wandb="disabled")
    off.forget_after(0)
    off.write("train", 1, {"loss": 2.0})
    off.close()
    assert not (tmp_path / "run" / "wandb").exists()
    on = journal_of(tmp_path / "run")
    on.forget_after(1)
    on.write("train", 2, {"loss": 1.0})
    on.close()
    assert steps(legs(tmp_path / "run"), "train/loss") == [1, 2]


@pytest.mark.usefixtures("nothing_from_outside")
def test_pictures_videos_and_tables_lie_in_the_folder_that_is_sent(tmp_path: Path) -> None:
    video = tmp_path / "seen.mp4"
    write_video(video, np.zeros((4, 32, 32, 3), np.uint8))
    journal = journal_of(tmp_path / "run")
    journal.write_picture("frames", 3, np.zeros((8, 8, 3), np.uint8))
    journal.write_video("student", 3, video)
    journal.write_table("clips", 3, ["key", "emotion", "psnr"], [["a_1", "happy", 20.0]])
    journal.close()
    (leg,) = legs(tmp_path / "run")
    (row,) = leg.rows
    assert row.keys() >= {"val/frames", "val/student", "val/clips"}
    (copy,) = leg.folder.glob("files/media/videos/val/student_*.mp4")
    assert copy.read_bytes() == video.read_bytes()
    assert len(list(leg.folder.glob("files/media/images/val/frames_*.png"))) == 1
    (table,) = leg.folder.glob("files/media/table/val/clips_*.json")
    content = json.loads(table.read_text())
    assert (content["columns"], content["data"]) == (["key", "emotion", "psnr"], [["a_1", "happy", 20.0]])


def test_a_table_of_clips_is_bounded(tmp_path: Path) -> None:
    table, size = ClipTable(), 40
    for _ in range(3):
        batch = {"key": ["k"] * size, "emotion": torch.tensor([-1, 4] * (size // 2))}
        table.add(batch, {"psnr": torch.arange(size)})
    assert len(table.rows) == 64
    assert table.columns == ["key", "emotion", "psnr"]
    assert table.rows[:2] == [["k", "", 0.0], ["k", "happy", 1.0]]
    empty = ClipTable()
    empty.add({"key": ["k"]}, {})
    assert not empty.rows


@pytest.mark.usefixtures("nothing_from_outside")
def test_wandb_of_the_installed_version_finds_what_a_run_says_to_send(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "a b").mkdir()
    journal = Journal(tmp_path / "a b", TrackingConfig(wandb="offline"), {}, stage="face", say=told.append)
    journal.write("train", 1, {"loss": 2.0})
    journal.close()
    wandb = f"{shlex.quote(sys.executable)} -m wandb sync --dry-run"
    command = told[0].partition("W&B: ")[2].replace("wandb sync", wandb)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Would sync 1 run" in done.stderr
    assert sync_command(Path("runs/x/wandb"), "abc", "0.28.0") == "wandb sync --append runs/x/wandb/offline-run-*-abc"
    assert sync_command(Path("runs/x/wandb"), "abc", "0.30.0") == "wandb sync runs/x/wandb/offline-run-*-abc"


def test_how_a_run_ended_is_an_exit_code() -> None:
    by_hand = Preempted(3, "Ctrl-C", by_hand=True)
    ends = [None, Preempted(3, "SIGUSR1"), by_hand, KeyboardInterrupt(), ValueError("x")]
    assert [exit_code(end) for end in ends] == [0, 75, 130, 130, 1]
