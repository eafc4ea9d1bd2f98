"""Workers of a sweep come, go and are killed: no trial is lost, none runs twice, no step is taken twice."""

import contextlib
import errno
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from emohead.models.errors import Failure, UserError
from emohead.models.lock import locked
from emohead.trainers.sweeps.journal import COPY, JOURNAL
from emohead.trainers.sweeps.leases import Leases
from emohead.trainers.sweeps.study import begin, claim, read_folder
from emohead.trainers.sweeps.worker import Worker
from optuna.trial import TrialState

from . import sweep_trial

COMMAND = (
    "command: [emohead, train, motion, -c, motion-debug, trainer.max_steps=18, trainer.val_every=2, "
    "'${args_no_hyphens}']"
)
GRID = f"""
method: grid
metric: {{name: val/lip_loss, goal: minimize}}
{COMMAND}
parameters:
  optimizer.lr: {{values: [1.0e-5, 1.0e-4, 2.0e-3, 1.0e-2]}}
"""
HALVED = f"""
method: random
run_cap: 9
metric: {{name: val/lip_loss, goal: minimize}}
early_terminate: {{type: hyperband, min_iter: 1, eta: 3}}
{COMMAND}
parameters:
  optimizer.lr: {{distribution: log_uniform_values, min: 1.0e-5, max: 2.0e-2}}
"""


def sweep(folder: Path, text: str) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(text)
    return file


class WorkerProcess:
    """`emohead sweep`, forked from here: what it imports takes ten times as long as what it does."""

    def __init__(self, file: Path, out: Path, *, step_seconds: float = 0.0, max_failures: int = 3) -> None:
        self.said = out.with_name(f"{out.name}.{time.monotonic_ns()}.said")
        self.process = multiprocessing.get_context("fork").Process(
            target=self._work, args=(file, out, step_seconds, max_failures)
        )
        self.process.start()

    def _work(self, file: Path, out: Path, step_seconds: float, max_failures: int) -> None:
        os.setsid()
        with open(self.said, "w") as said:
            os.dup2(said.fileno(), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os.chdir(Path(__file__).parents[1])
        os.environ["STEP_SECONDS"] = str(step_seconds)
        try:
            folder = begin(file, out, [], 0)
            code = Worker(folder, launch=[sys.executable, "-m", "tests.sweep_trial"], max_failures=max_failures).work()
        except Failure as failure:
            print(failure, file=sys.stderr)
            code = 1
        sys.stderr.flush()
        os._exit(code)

    def end(self, timeout: float = 120) -> tuple[int | None, str]:
        """Exit code and what it said."""
        self.process.join(timeout)
        return self.process.exitcode, self.said.read_text()

    def kill(self, *, whole_group: bool) -> None:
        if whole_group:
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.join()


def run(file: Path, out: Path) -> str:
    code, said = WorkerProcess(file, out).end()
    assert code == 0, said
    return said


def trials(out: Path) -> list[optuna.trial.FrozenTrial]:
    return read_folder(out).open().get_trials()


def figures(out: Path) -> list[tuple]:
    return [(trial.number, trial.state, trial.user_attrs["settings"], trial.value) for trial in trials(out)]


def check_steps(out: Path) -> None:
    for trial in trials(out):
        rows = [
            json.loads(line)
            for line in (out / "trials" / f"{trial.number:04d}" / "metrics.jsonl").read_text().splitlines()
        ]
        steps = [row["step"] for row in rows]
        assert steps == list(range(1, len(steps) + 1)), trial.number
        assert trial.state == TrialState.PRUNED or len(steps) == sweep_trial.STEPS


def tear(out: Path, draws: random.Random) -> None:
    """As a writer that dies in the middle of a line, or a disk that loses the end of what was written, leaves it."""
    journal, copy = out / JOURNAL, out / COPY
    if draws.random() < 0.5:
        with open(copy, "ab") as file:
            file.write(b'{"op_code":6,"worker_id":"half a li')
    else:
        with open(journal, "rb+") as file:
            file.truncate(journal.stat().st_size - 15)


def test_a_grid_of_one_worker_and_of_many_killed_ones_is_the_same(tmp_path: Path):
    file = sweep(tmp_path, GRID)
    run(file, tmp_path / "one")
    draws, out = random.Random(1), tmp_path / "many"
    for _ in range(3):
        workers = [WorkerProcess(file, out, step_seconds=0.05) for _ in range(2)]
        end = time.monotonic() + 60
        while time.monotonic() < end and not list((out / "leases").glob("000[0-9]")):
            time.sleep(0.05)
        time.sleep(draws.uniform(0.5, 1.5))
        for worker in workers:
            worker.kill(whole_group=draws.random() < 0.5)
        time.sleep(0.2)  # until the processes that end with their worker have ended
        tear(out, draws)
    said = run(file, out)
    assert figures(out) == figures(tmp_path / "one"), said
    check_steps(out)
    states = {trial.state for trial in trials(out)}
    assert states == {TrialState.COMPLETE}


def test_pruned_trials_take_fewer_steps_and_the_best_is_found(tmp_path: Path):
    file, out = sweep(tmp_path, HALVED), tmp_path / "out"
    for worker in [WorkerProcess(file, out) for _ in range(2)]:
        code, said = worker.end()
        assert code == 0, said
    found = trials(out)
    check_steps(out)
    steps = sum(
        len((out / "trials" / f"{trial.number:04d}" / "metrics.jsonl").read_text().splitlines()) for trial in found
    )
    assert steps < len(found) * sweep_trial.STEPS / 2
    best = min((trial for trial in found if trial.state == TrialState.COMPLETE), key=lambda trial: trial.value)
    order = sorted(found, key=lambda trial: sweep_trial.value(trial.params["optimizer.lr"], sweep_trial.STEPS))
    assert best.number in [trial.number for trial in order[:3]]


def test_a_failed_trial_is_told_with_its_reason_and_too_many_end_the_sweep(tmp_path: Path):
    file = sweep(tmp_path, GRID.replace("1.0e-5", "0.1").replace("1.0e-4", "0.2"))
    said = run(file, tmp_path / "some")
    failed = [trial for trial in trials(tmp_path / "some") if trial.state == TrialState.FAIL]
    assert [trial.user_attrs["reason"] for trial in failed] == ["out of memory in stage motion: try less"] * 2, said
    code, said = WorkerProcess(file, tmp_path / "none", max_failures=0).end()
    assert code == 1
    assert "1 trials have failed, the last (trial 0): out of memory" in said
    assert trials(tmp_path / "none")[1].state == TrialState.WAITING


def test_a_worker_that_is_told_to_leave_leaves_its_trial_to_another(tmp_path: Path):
    file, out = sweep(tmp_path, GRID), tmp_path / "out"
    worker = WorkerProcess(file, out, step_seconds=0.2)
    while not (out / "trials" / "0000" / "metrics.jsonl").exists():
        assert worker.process.is_alive(), worker.end()
        time.sleep(0.05)
    os.kill(worker.process.pid or 0, signal.SIGTERM)
    code, said = worker.end()
    assert code == 75, said
    assert trials(out)[0].state == TrialState.RUNNING
    assert not list((out / "leases").iterdir())
    said = run(file, out)
    assert "trial 0: taken up again" in said
    check_steps(out)


@pytest.mark.parametrize(
    ("change", "more", "told"),
    [
        ("method: grid\n# another", [], "holds a sweep by another file"),
        ("method: grid", ["gain=0.1"], "was begun with no words and seed 0"),
        ("method: grid", ["--seed", "3"], "was begun with no words and seed 0"),
    ],
)
def test_a_folder_holds_one_sweep(tmp_path: Path, change: str, more: list[str], told: str):
    begin(sweep(tmp_path, GRID), tmp_path / "out", [], 0)
    joined = begin(sweep(tmp_path, GRID), tmp_path / "out", ["trainer.devices=2"], 0)
    assert joined.own == ("trainer.devices=2",)
    seed = int(more[1]) if more[:1] == ["--seed"] else 0
    words = [word for word in more if "=" in word]
    with pytest.raises(UserError, match=told):
        begin(sweep(tmp_path, GRID.replace("method: grid", change)), tmp_path / "out", words, seed)


def test_a_folder_without_hard_links_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported", str(source))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UserError, match="no hard links"):
        begin(sweep(tmp_path, GRID), tmp_path / "out", [], 0)
    assert not list((tmp_path / "out").glob("*journal*"))


@pytest.mark.parametrize("busy", ["lease", "run folder"])
def test_a_worker_that_waits_for_a_trial_of_another_leaves_when_told_to(tmp_path: Path, busy: str):
    """The trial stays what it is: the next worker goes on with it."""
    file, out = sweep(tmp_path, GRID.replace("[1.0e-5, 1.0e-4, 2.0e-3, 1.0e-2]", "[1.0e-5]")), tmp_path / "out"
    folder = begin(file, out, [], 0)
    assert claim(folder.open()) == 0
    elsewhere = Leases(out / "leases", beat=100)
    elsewhere.owner = replace(elsewhere.owner, host="elsewhere", born="another-boot pid:[1] 1")
    assert busy != "lease" or elsewhere.take(0)
    with locked(folder.run(0)) if busy == "run folder" else contextlib.nullcontext():
        worker = WorkerProcess(file, out)
        time.sleep(3)
        assert worker.process.is_alive(), worker.end()
        os.kill(worker.process.pid or 0, signal.SIGTERM)
        code, said = worker.end()
    assert code == 75, said
    assert trials(out)[0].state == TrialState.RUNNING
