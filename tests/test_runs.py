"""`emohead runs`: what a run folder tells of its run, and how two of them differ."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from emohead.apps.runs import show_runs
from emohead.apps.runs_compare import compare
from emohead.models.checkpoint import load_checkpoint
from emohead.models.errors import Failure, UserError
from emohead.models.lock import Owner, locked
from emohead.trainers.config import save_config
from emohead.trainers.face import FaceStage, FaceStageConfig
from emohead.trainers.run.folder import RunFacts, facts_of, find_runs
from emohead.trainers.run.legs import LEGS, begin_leg, ending_leg, read_legs, seconds_so_far
from emohead.trainers.run.preemption import Preempted
from emohead.trainers.run.pruning import Pruned

from .conftest import emohead

HOUR = 3600.0


def make_run(run: Path, *, psnr: tuple[float, ...] = (20.0, 25.0, 24.0), **settings: Any) -> Any:
    """A run folder of the face stage with a row of training and of validation every 10 steps; returns its stage."""
    config = FaceStageConfig(run=str(run))
    config.perceptual.emotion = "runs/emotion/export/emotion.safetensors"
    config.trainer.max_steps, config.trainer.accelerator = 100, "cpu"
    for key, value in settings.items():
        setattr(config.optimizer if hasattr(config.optimizer, key) else config.trainer, key, value)
    run.mkdir(parents=True)
    save_config(config, run / "config.yaml")
    rows = [{"step": 10 * n, "val/score": value} for n, value in enumerate(psnr, 1)]
    rows += [{"step": 10 * n, "train/loss": 1 / n} for n in range(1, len(psnr) + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [start for start in FaceStage.starts_from if start.file(config)]
    return SimpleNamespace(name="face", monitor=FaceStage.monitor, config=config, given=lambda _: given)


def facts(run: Path) -> RunFacts:
    (found,) = facts_of([run])
    return found


def rewrite(run: Path, number: int, **changes: Any) -> None:
    """Change what is written of a leg."""
    rows = [json.loads(line) for line in (run / LEGS).read_text().splitlines()]
    rows[number] |= changes
    (run / LEGS).write_text("".join(json.dumps(row) + "\n" for row in rows))


def leg(run: Path, stage: Any, error: BaseException | None = None) -> None:
    """A leg of a run that ends well or with an error."""
    with contextlib.suppress(*([type(error)] if error else [])), ending_leg(run):
        begin_leg(run, stage)
        if error:
            raise error


# ---------------------------------------------------------------------------------------------- legs


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "done"),
        (Preempted(30, "SIGUSR1"), "preempted"),
        (Preempted(30, "Ctrl-C", by_hand=True), "interrupted"),
        (SystemExit(130), "interrupted"),
        (Failure("the loss is not finite"), "failed"),
    ],
)
def test_a_leg_says_how_it_ended(tmp_path: Path, error: BaseException | None, status: str) -> None:
    run = tmp_path / "run"
    stage = make_run(run)
    (run / "checkpoints" / "step-00000020").mkdir(parents=True)
    leg(run, stage, error)
    (written,) = read_legs(run)
    assert (written.how, written.first_step, written.last_step) == (status, 20, 30)
    assert (written.accelerator, written.devices, written.pid) == ("cpu", 1, os.getpid())
    found = facts(run)
    assert found.status == status
    assert found.error == ("Failure: the loss is not finite" if status == "failed" else "")


def test_a_refused_start_is_no_leg(tmp_path: Path) -> None:
    run = tmp_path / "run"
    leg(run, make_run(run))
    before = (run / LEGS).read_text()
    with pytest.raises(UserError), ending_leg(run):
        raise UserError(run, "was started with another 'seed'")
    assert (run / LEGS).read_text() == before
    assert facts(run).status == "done"


def test_hours_are_those_of_all_legs_and_devices(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stage = make_run(run, nodes=2, devices=4)
    for _ in range(3):
        leg(run, stage)
    for number, kind in enumerate(("gpu", "gpu", "cpu")):
        start = 1000.0 + number * 2 * HOUR
        rewrite(run, number, started=start, ended=start + HOUR, accelerator=kind, devices=8 if kind == "gpu" else 1)
    found = facts(run)
    assert found.hours == {"GPU": pytest.approx(16), "CPU": pytest.approx(1)}
    assert (found.legs, found.estimated, found.started) == (3, False, 1000.0)
    assert seconds_so_far(run) == pytest.approx(3 * HOUR)


def test_the_end_of_a_killed_leg_is_the_newest_file(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stage = make_run(run)
    begin_leg(run, stage)
    started = time.time() - 5 * HOUR
    rewrite(run, 0, started=started)
    os.utime(run / "metrics.jsonl", (started + 2 * HOUR, started + 2 * HOUR))
    found = facts(run)
    assert (found.status, found.estimated) == ("killed", True)
    assert found.hours == {"CPU": pytest.approx(2, abs=0.01)}
    assert found.step == 30

    leg(run, stage)  # it comes back, and closes the line of the one before
    first, second = read_legs(run)
    assert (first.how, first.estimated, second.how, second.estimated) == ("killed", True, "done", False)
    assert first.seconds(0) == pytest.approx(2 * HOUR, abs=1)
    assert facts(run).estimated, "part of the hours still is a guess"


def test_a_line_that_was_cut_off_costs_no_other(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stage = make_run(run)
    leg(run, stage)
    with open(run / LEGS, "a") as file:
        file.write('{"stage": "face", "star')
    leg(run, stage)
    assert [leg.how for leg in read_legs(run)] == ["done", "done"]


# ---------------------------------------------------------------------------------------------- status


HOLD = """
import sys, time
from pathlib import Path
from emohead.models.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_is_running_while_its_process_lives(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin_leg(run, make_run(run))
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    try:
        found = facts(run)
        assert (found.status, found.estimated) == ("running", False)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (run / ".lock").is_file()
    assert facts(run).status == "killed"
    with locked(run):
        assert facts(run).status == "running", "in this process too"


@pytest.mark.parametrize(("age", "status"), [(5, "running"), (500, "killed")])
def test_a_lock_of_another_machine_is_judged_at_once(tmp_path: Path, age: float, status: str) -> None:
    run = tmp_path / "run"
    begin_leg(run, make_run(run))
    owner = vars(Owner.here()) | {"host": "elsewhere", "born": "another boot 1"}
    (run / ".lock").write_text(json.dumps(owner))
    os.utime(run / ".lock", (time.time() - age, time.time() - age))
    began = time.monotonic()
    assert facts(run).status == status
    assert time.monotonic() - began < 2


def test_slurm_is_asked_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {name: tmp_path / name for name in ("waits", "gone", "lives", "done")}
    jobs = {"waits": "7", "gone": "8", "lives": "9_3", "done": "10"}
    for name, run in runs.items():
        monkeypatch.setenv("SLURM_JOB_ID", jobs[name])
        monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
        stage = make_run(run)
        if name == "lives":  # on another node, whose lock is not seen here
            begin_leg(run, stage)
        else:
            leg(run, stage, None if name == "done" else Preempted(30, "SIGUSR1"))
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nprintf "7 PENDING\\n9_3 RUNNING\\n10 PENDING\\n"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)
    found = {run.folder.name: run.status for run in facts_of(runs.values())}
    assert found == {"waits": "queued", "gone": "preempted", "lives": "running", "done": "done"}
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert "--jobs 7,8,9_3 " in asked, "once for all, and not for what is done"
    assert [leg.restarts for leg in read_legs(runs["waits"])] == [2]


def test_a_run_of_before_is_told_by_what_it_left(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run)
    checkpoint = run / "checkpoints" / "step-00000040"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text('{"stage": "face"}')
    found = facts(run)
    assert (found.stage, found.status, found.step, found.hours, found.legs) == ("face", "unknown", 40, {}, 0)
    assert (found.monitor, found.best) == ("val/score", 25.0)
    (run / "export").mkdir()
    (run / "export" / "face.safetensors").touch()
    assert facts(run).status == "done"


def test_a_pruned_trial_says_so(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stage = make_run(run)
    (run / "pruned.json").write_text('{"step": 20}')
    leg(run, stage, Pruned(20))
    assert facts(run).status == "pruned"
    assert read_legs(run)[-1].how == "pruned"
    leg(run, stage)  # gone on with by hand
    assert facts(run).status == "done"


# ---------------------------------------------------------------------------------------------- the table


def test_run_folders_are_found_and_nothing_below_them(tmp_path: Path) -> None:
    for name in ("a", "sweep/trial-1", "a/checkpoints/copy", "d/d/d/d/d/d/deep", ".hidden/b"):
        make_run(tmp_path / name)
    make_run(tmp_path / "data" / "c")
    (tmp_path / "data" / "manifest.json").write_text("{}")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "config.yaml").touch()
    assert [str(run.relative_to(tmp_path)) for run in find_runs(tmp_path)] == ["a", "sweep/trial-1"]
    assert list(find_runs(tmp_path / "a")) == [tmp_path / "a"]


def test_the_table_and_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "face"
    stage = make_run(run)
    leg(run, stage, Failure("broken"))
    (run / "wandb").mkdir()
    (run / "wandb" / "id").write_text("abc123\n")
    rewrite(
        run,
        0,
        started=0.0,
        ended=HOUR / 2,
        accelerator="gpu",
        parents={"perceptual.emotion": str(tmp_path / "runs" / "emotion" / "export" / "emotion.safetensors")},
    )
    show_runs(tmp_path / "runs", json=False)
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if "abc123" in line]
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells == ["face", "face", "failed", "30/100", "val/score 25 at 20", "emotion", "0.5 GPU", "abc123"]
    assert "face: Failure: broken" in out

    show_runs(tmp_path / "runs", json=True)
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["folder"], told["best"], told["best_step"], told["hours"]) == (str(run), 25.0, 20, {"GPU": 0.5})


def test_the_command_needs_no_name_for_the_list(tmp_path: Path) -> None:
    leg(tmp_path / "face", make_run(tmp_path / "face"))
    listed = emohead("runs", tmp_path, "--json")
    assert listed.returncode == 0, listed.stderr
    assert [run["status"] for run in json.loads(listed.stdout)] == ["done"]
    refused = emohead("runs", tmp_path / "none")
    assert refused.returncode == 2
    assert "no such folder" in refused.stderr


# ---------------------------------------------------------------------------------------------- compared


def test_settings_that_differ_and_final_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "one" / "face", lr=1e-3)
    make_run(tmp_path / "two" / "face", lr=2e-3, psnr=(21.0, 26.0))
    page = tmp_path / "compare.html"
    compare([tmp_path / "one" / "face", tmp_path / "two" / "face"], out=None, json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["settings"] == {"optimizer.lr": [0.001, 0.002]}
    assert told["metrics"] == {"val/score": [24.0, 26.0], "train/loss": [pytest.approx(1 / 3), 0.5]}

    compare([tmp_path / "one" / "face", tmp_path / "two" / "face"], out=page, json=False)
    out = capsys.readouterr().out
    assert "one/face" in out
    assert "two/face" in out
    html = page.read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(", html), "it asks nothing of the network"
    (chart,) = [svg for svg in html.split("<figure")[1:] if "score, validation" in svg]
    assert (chart.count('<polyline class="run run0"'), chart.count('<polyline class="run run1"')) == (1, 1)
    assert chart.count('<circle class="run run0"') == 3
    assert "one/face 24, two/face 26" in chart


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "face")
    with pytest.raises(UserError, match="no run folder"):
        compare([tmp_path / "face", tmp_path], out=None, json=False)
    with pytest.raises(UserError, match="named twice"):
        compare([tmp_path / "face", tmp_path / "face"], out=None, json=False)


# ---------------------------------------------------------------------------------------------- a real chain


def test_the_runs_of_a_chain(demo: Path) -> None:
    found = {run.stage: run for run in facts_of(find_runs(demo))}
    assert {name: run.status for name, run in found.items()} == dict.fromkeys(
        ("emotion", "motion", "face", "distill"), "done"
    )
    assert found["distill"].parents.keys() == {"emotion", "motion", "face"}
    for run in found.values():
        assert run.step == run.max_steps == 2
        assert sum(run.hours.values()) > 0
        assert run.best is not None
        (export,) = (run.folder / "export").glob("*.safetensors")
        trained = load_checkpoint(export).provenance["seconds"]
        assert trained == pytest.approx(sum(leg.seconds(0) for leg in read_legs(run.folder)), rel=0.5, abs=5)
