"""A sweep as an array of tasks on a real cluster, its workers killed and its journal torn.

Three trials and one kill with every test run; EMOHEAD_SOAK=1 makes it sixteen trials of motion-debug by four tasks,
beside the same sweep without early ends.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import optuna
from emohead.trainers.sweeps.journal import COPY, JOURNAL
from emohead.trainers.sweeps.study import read_folder
from optuna.trial import TrialState

from .cluster import DEADLINE, job_states

SOAK = bool(os.environ.get("EMOHEAD_SOAK"))
TRIALS, TASKS, KILLS = (16, 4, 5) if SOAK else (3, 2, 1)
MAX_STEPS, VAL_EVERY = (180, 20) if SOAK else (8, 2)
EARLY = "early_terminate: {type: hyperband, min_iter: 1, eta: 3}"
SWEEP = """
method: random
run_cap: TRIALS
metric: {name: val/lip_loss, goal: minimize}
EARLY
command:
  - emohead
  - train
  - motion
  - -c
  - motion-debug
  - data.shards=[DEMO/data]
  - emotion=DEMO/emotion/export/emotion.safetensors
  - data.batch_size=8
  - data.num_workers=0
  - trainer.max_steps=MAX_STEPS
  - trainer.val_every=VAL_EVERY
  - trainer.checkpoint_every=VAL_EVERY
  - trainer.log_every=1
  - tracking.wandb=disabled
  - ${args_no_hyphens}
parameters:
  optimizer.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-1}
"""


def submit(file: Path, out: Path, tasks: int, cluster: dict[str, str]) -> str:
    words = ["sweep", file, "--tasks", tasks, "--out", out, "--cpus-per-task=1"]
    command = [sys.executable, "-m", "emohead.apps.cli", "slurm", *map(str, words)]
    submitted = subprocess.run(command, cwd=file.parent, env=cluster, capture_output=True, text=True, timeout=120)
    assert submitted.returncode == 0, submitted.stderr
    return submitted.stdout.split()[1]


def finish(job: str, out: Path, cluster: dict[str, str]) -> set[str]:
    states = set(job_states(cluster, job).values())
    print("\n".join(path.read_text() for path in sorted((out / "logs").glob("*.out"))))
    return states


def trials(out: Path) -> list[optuna.trial.FrozenTrial]:
    return read_folder(out).open().get_trials()


def steps_of(out: Path, number: int) -> list[int]:
    """Steps that a trial took, in order: of a row that was written twice, twice."""
    lines = (out / "trials" / f"{number:04d}" / "metrics.jsonl").read_text().splitlines()
    return [row["step"] for row in map(json.loads, lines) if "train/loss" in row]


def check(out: Path) -> None:
    for trial in trials(out):
        steps = steps_of(out, trial.number)
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED), trial
        assert steps == list(range(1, len(steps) + 1)), trial.number
        assert trial.state == TrialState.PRUNED or len(steps) == MAX_STEPS
    assert len(trials(out)) == TRIALS
    ends = [
        line for path in (out / "logs").glob("*.out") for line in path.read_text().splitlines() if "have ended" in line
    ]
    assert len({line.split(":")[1] for line in ends}) == len(ends)  # none is told twice


def tear(out: Path, draws: random.Random) -> None:
    """As a node leaves it that dies while it writes a line."""
    path = out / draws.choice([JOURNAL, COPY])
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size - draws.randrange(1, 30))


def test_killed_tasks_lose_no_trial(tmp_path: Path, demo: Path, cluster: dict[str, str]) -> None:
    text = SWEEP.replace("DEMO", str(demo)).replace("TRIALS", str(TRIALS)).replace("EARLY", EARLY)
    text = text.replace("MAX_STEPS", str(MAX_STEPS)).replace("VAL_EVERY", str(VAL_EVERY))
    file, out, draws = tmp_path / "lr.yaml", tmp_path / "out", random.Random(1)
    file.write_text(text)
    for kill in range(KILLS):
        job = submit(file, out, TASKS, cluster)
        end = time.monotonic() + DEADLINE
        while not list((out / "trials").glob("*/metrics.jsonl")):
            assert time.monotonic() < end, finish(job, out, cluster)
            time.sleep(0.2)
        time.sleep(draws.uniform(1, 20 if SOAK else 4))
        doomed = f"{job}_{draws.randrange(1, TASKS + 1)}" if SOAK and kill < KILLS - 1 else job
        subprocess.run(["scancel", "--signal=KILL", "--full", doomed], env=cluster, check=False)
        if doomed != job:
            time.sleep(5)
            subprocess.run(["scancel", job], env=cluster, check=False)
        finish(job, out, cluster)
        tear(out, draws)
    job = submit(file, out, TASKS, cluster)
    assert finish(job, out, cluster) == {"COMPLETED"}
    check(out)
    if not SOAK:
        return
    whole = tmp_path / "whole.yaml"
    whole.write_text(text.replace(EARLY, ""))
    assert finish(submit(whole, tmp_path / "whole", TASKS, cluster), tmp_path / "whole", cluster) == {"COMPLETED"}
    taken = [sum(len(steps_of(folder, n)) for n in range(TRIALS)) for folder in (out, tmp_path / "whole")]
    ranking = sorted(trials(tmp_path / "whole"), key=lambda trial: trial.value or 0.0)
    best = min((t for t in trials(out) if t.state == TrialState.COMPLETE), key=lambda trial: trial.value or 0.0)
    place = [trial.number for trial in ranking].index(best.number)
    print(f"steps: {taken[0]} of {taken[1]}; the best is number {place + 1} of the sweep without early ends")
    assert taken[0] <= taken[1] / 2
    assert place < 3
