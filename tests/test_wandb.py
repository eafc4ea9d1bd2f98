"""Runs as W&B sees them: real runs, stopped in every way, read back from the files that `wandb sync` would send."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from emohead.apps.evaluate import run_evaluation
from emohead.models.checkpoint import load_checkpoint
from emohead.models.errors import Failure, UserError
from emohead.trainers.run.preemption import Preempted
from emohead.trainers.run.train import train

from .survival import PREEMPTED, kill, rows, start, wait_for_step
from .wandb_legs import Leg, legs, steps

STEPS = 12
SETTINGS = [f"trainer.max_steps={STEPS}", "trainer.log_every=2", "trainer.checkpoint_every=3", "trainer.val_every=6"]
SETTINGS += ["trainer.precision=32-true", "trainer.accelerator=cpu", "trainer.threads=1", "data.num_workers=0"]
SETTINGS += ["data.batch_size=4", "tracking.wandb=offline", "tracking.tags=[tiny,test]", "tracking.also=[csv]"]
WANDB_VIDEOS = "wandb/offline-run-*/files/media/videos/val/"


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


def train_until(step: int, demo: Path, run: Path, *overrides: str) -> None:
    """A leg: train the motion stage of the tiny chain; a scheduler's signal comes once this step is logged."""

    over = threading.Event()

    def disturb() -> None:
        while not over.wait(0.01):
            if max(rows(run), default=0) >= step:
                os.kill(os.getpid(), signal.SIGUSR1)
                return

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # until a run listens, as the command line does
    thread = threading.Thread(target=disturb, daemon=True)
    if step < STEPS:
        thread.start()
    try:
        train("motion", [demo / "motion" / "config.yaml"], [*SETTINGS, f"run={run}", *overrides])
    finally:
        over.set()
        if step < STEPS:
            thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def same_as_file(run: Path) -> None:
    """W&B has each row of metrics.jsonl, once, in order; and so has metrics.csv."""
    found = legs(run)
    assert {leg.run.run_id for leg in found} == {(run / "wandb" / "id").read_text()}
    taken = steps(found)
    assert taken == sorted(set(taken))
    for kind, figure in (("train", "train/lr_network"), ("val", "val/mouth_correlation")):
        sent = [(row["step"], row[figure]) for leg in found for row in leg.rows if figure in row]
        assert sent == [(step, row[figure]) for step, row in rows(run, kind).items()]
    assert list(rows(run)) == list(range(2, STEPS + 1, 2))
    lines = (run / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + len((run / "metrics.jsonl").read_text().splitlines())


def summed_up(run: Path) -> None:
    """The summary of the last leg is that of the whole run."""
    summary = legs(run)[-1].summary
    assert summary["val/loss"]["min"] == min(row["val/loss"] for row in rows(run, "val").values())
    assert summary["train/loss"]["min"] == min(row["train/loss"] for row in rows(run).values())
    assert summary["train/lr_network"] == rows(run)[STEPS]["train/lr_network"]


def described(leg: Leg, demo: Path) -> None:
    """Group, job type, tags, configuration and lineage are in each leg."""
    assert (leg.run.run_group, leg.run.job_type, list(leg.run.tags)) == ("mead", "motion", ["tiny", "test"])
    assert leg.config["trainer"]["max_steps"] == STEPS
    parent = load_checkpoint(demo / "emotion" / "export" / "emotion.safetensors").sha256
    assert leg.config["origin"]["inputs"] == {"emotion": parent}
    assert all(metric.step_metric == "step" for name, metric in leg.metrics.items() if name != "step")
    assert leg.metrics["train/loss"].summary.min


def test_three_requeues_are_one_run_of_wandb(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "mead" / "motion"
    for step in (2, 6, 8):
        with pytest.raises(Preempted):
            train_until(step, demo, run)
    train_until(STEPS, demo, run)
    found = legs(run)
    assert [leg.exit_code for leg in found] == [PREEMPTED] * 3 + [0]
    assert [leg.preempting for leg in found] == [True] * 3 + [False]
    assert [leg.alerts for leg in found] == [[("motion: preempted", "INFO")]] * 3 + [[]]
    same_as_file(run)
    summed_up(run)
    for leg in found:
        described(leg, demo)
    exported, last = load_checkpoint(run / "export" / "motion.safetensors").provenance, found[-1].config["origin"]
    assert {name: exported[name] for name in last} == last
    assert f"wandb sync {run / 'wandb'}/offline-run-*-{found[0].run.run_id}" in capsys.readouterr().err


def test_a_run_that_was_killed_loses_no_row(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(demo, "motion", run, *SETTINGS)
    wait_for_step(process, run, 8)
    kill(process)
    train_until(STEPS, demo, run)
    first, second = legs(run)
    assert first.exit_code is None
    assert second.exit_code == 0
    same_as_file(run)
    summed_up(run)


def test_failures_are_told(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Failure):
        train_until(STEPS, demo, run, "optimizer.lr=1e30", "optimizer.warmup_steps=0", "trainer.max_skipped=4")
    (leg,) = legs(run)
    assert leg.alerts == [("run: steps are skipped", "WARN"), ("run: failed", "ERROR")]
    assert leg.exit_code == 1
    skipped = [json.loads(line) for line in (run / "skipped_steps.jsonl").read_text().splitlines()]
    assert len(skipped) == 4, "one alert for all of them"


def test_an_evaluation_is_a_run_of_its_own(demo: Path, tmp_path: Path) -> None:
    checkpoint = demo / "face" / "export" / "face.safetensors"
    run_evaluation(checkpoint, demo / "data", split="val", out=tmp_path, emotion=None, tracked_clips=0, wandb=True)
    (leg,) = legs(tmp_path)
    figures = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    (row,) = leg.rows
    assert {f"val/{name}": value for name, value in figures.items()}.items() <= row.items()
    assert (leg.run.job_type, leg.run.run_group) == ("evaluate", demo.name)
    assert leg.config["origin"]["inputs"] == {"face": load_checkpoint(checkpoint).sha256}
    shown, copies = ({path.name for path in tmp_path.glob(f"{folder}*.mp4")} for folder in ("videos/", WANDB_VIDEOS))
    assert len(copies) == len(shown) == 3
    with pytest.raises(UserError, match="add --out"):
        run_evaluation(checkpoint, demo / "data", split="val", out=None, emotion=None, wandb=True)
