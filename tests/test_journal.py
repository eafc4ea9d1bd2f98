"""The journal of a run outlives what it reports to."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import os, signal, subprocess, sys, time
from pathlib import Path
from emohead.trainers.run.journal import Journal
from emohead.trainers.stage import TrackingConfig

journal = Journal(Path(sys.argv[1]), TrackingConfig(wandb="offline"), {})
journal.write("train", 1, {"loss": 2.0})
children = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "wandb-core"], capture_output=True, text=True)
for child in children.stdout.split():
    os.kill(int(child), signal.SIGKILL)
time.sleep(1)
for step in range(2, 6):
    journal.write("train", step, {"loss": 1.0})
journal.close()
print("killed", len(children.stdout.split()))
"""


def test_a_run_goes_on_when_the_process_of_wandb_is_gone(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    # Another run of this process may have left the address of its own W&B process.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=alone)
    assert done.returncode == 0, done.stderr
    assert "killed 1" in done.stdout
    assert done.stderr.count("W&B does not answer") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5
