"""The journal of a run outlives what it reports to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emohead.trainers.run.journal import wandb_settings
from emohead.trainers.stage import TrackingConfig

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
        journal.write("train", step, {"loss": 1.0})
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
    named = ("mode", "project", "name", "dir")
    environ = {"WANDB_MODE": "online", "WANDB_PROJECT": "faces", "WANDB_NAME": "first", "WANDB_DIR": "/scratch/wandb"}
    given, told = wandb_settings(TrackingConfig(), tmp_path / "run", environ)
    assert [given[name] for name in named] == ["online", "faces", "first", "/scratch/wandb"]
    assert not told
    given, told = wandb_settings(TrackingConfig(wandb="offline", project="mine"), tmp_path / "run", environ)
    assert (given["mode"], given["project"]) == ("offline", "mine")
    assert [line.split(" is used, not ")[1] for line in told] == ["WANDB_MODE=online", "WANDB_PROJECT=faces"]
    given, told = wandb_settings(TrackingConfig(), tmp_path / "run", {"WANDB_RUN_ID": "abc"})
    assert [given[name] for name in named] == ["offline", "emohead", "run", tmp_path / "run"]
    assert "WANDB_RUN_ID=abc" in told[0]
