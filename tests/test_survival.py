"""Runs that are killed, told to leave and brought back, on as many ranks or others, end as if nothing had been."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from emohead.models.checkpoint import load_checkpoint
from emohead.trainers.all_stages import STAGES
from emohead.trainers.run.checkpoints import Checkpoints
from emohead.trainers.run.legs import read_legs
from emohead.trainers.run.preemption import INTERRUPTED, Notice
from emohead.trainers.run.train import train

from .survival import PREEMPTED, children, finish, kill, losses, rows, settings, start, wait_for_step

SOAK = bool(os.environ.get("EMOHEAD_SOAK"))
ZERO = "trainer.strategy=deepspeed"


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(demo: Path, tmp_path_factory: pytest.TempPathFactory):
    """The run folder of an undisturbed run of a stage, in some shape; each is made once."""
    folder, made = tmp_path_factory.mktemp("undisturbed"), {}

    def run_of(stage: str, *shape: str) -> Path:
        if (stage, *shape) not in made:
            run = folder / str(len(made))
            if "trainer.devices=2" in shape:
                finish(start(demo, stage, run, *shape))
            else:
                go_on(demo, stage, run, *shape)
            made[stage, *shape] = run
        return made[stage, *shape]

    return run_of


def go_on(demo: Path, stage: str, run: Path, *shape: str) -> None:
    """Start a run, or go on with it, in this process and to its end."""
    patient = "trainer.timeout=3600"  # a watchdog ends the process, and all tests in it
    train(stage, [demo / stage / "config.yaml"], [*settings(demo, stage), f"run={run}", patient, *shape])


def checksum(run: Path, stage: str) -> str:
    return load_checkpoint(run / "export" / f"{STAGES[stage].kind}.safetensors").sha256


def same_to_the_last_bit(run: Path, other: Path, stage: str) -> None:
    assert losses(run) == losses(other)
    assert rows(run, "val").keys() == rows(other, "val").keys() == {4, 8}
    assert checksum(run, stage) == checksum(other, stage)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_a_random_step_it_ends_as_if_undisturbed(stage: str, demo: Path, tmp_path: Path, undisturbed) -> None:
    draws = random.Random(stage)
    for attempt in range(5 if SOAK else 1):
        run = tmp_path / str(attempt)
        process = start(demo, stage, run)
        wait_for_step(process, run, draws.randrange(2, 7))
        time.sleep(draws.uniform(0, 0.1))
        kill(process)
        go_on(demo, stage, run)
        same_to_the_last_bit(run, undisturbed(stage), stage)
        assert [(leg.how, leg.estimated) for leg in read_legs(run)] == [("killed", True), ("done", False)]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM], ids=lambda n: n.name)
def test_told_to_leave_it_saves_and_comes_back(number: int, demo: Path, tmp_path: Path, undisturbed) -> None:
    run = tmp_path / "run"
    process = start(demo, "motion", run, "trainer.checkpoint_every=1000")
    wait_for_step(process, run, 3)
    while process.poll() is None:  # again and again, while it saves too: the first counts
        process.send_signal(number)
        time.sleep(0.01)
    output = finish(process, PREEMPTED)
    step = Checkpoints(run / "checkpoints").steps()[-1]
    assert f"saved at step {step}" in output
    assert "Traceback" not in output
    assert max(rows(run)) == step
    go_on(demo, "motion", run)
    legs = read_legs(run)
    assert [(leg.how, leg.first_step, leg.last_step) for leg in legs] == [("preempted", 0, step), ("done", step, 8)]
    assert load_checkpoint(run / "export" / "motion.safetensors").provenance["seconds"] > legs[0].seconds(0)
    same_to_the_last_bit(run, undisturbed("motion"), "motion")


def test_ctrl_c_saves_and_says_so(demo: Path, tmp_path: Path, undisturbed) -> None:
    run = tmp_path / "run"
    process = start(demo, "motion", run, "trainer.checkpoint_every=1000", group=True)
    wait_for_step(process, run, 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers too
    output = finish(process, INTERRUPTED)
    step = Checkpoints(run / "checkpoints").steps()[-1]
    assert (
        output.strip().splitlines()[-1] == f"emohead: saved at step {step} and left (Ctrl-C); the same command goes on"
    )
    assert "Traceback" not in output
    go_on(demo, "motion", run)
    same_to_the_last_bit(run, undisturbed("motion"), "motion")


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_a_second_ctrl_c_ends_a_run_at_once_and_ignored_ones_stay_ignored(before) -> None:
    kept = signal.signal(signal.SIGINT, before)
    try:
        notice = Notice()
        signal.raise_signal(signal.SIGINT)
        assert notice.by_hand is (before is not signal.SIG_IGN)
        if notice.by_hand:
            with pytest.raises(SystemExit, match=str(INTERRUPTED)):
                signal.raise_signal(signal.SIGINT)
        notice.close(leaving=False)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, kept)


def test_a_finished_run_is_left_as_it_is(demo: Path, undisturbed) -> None:
    run = undisturbed("motion")
    before, export = rows(run), checksum(run, "motion")
    go_on(demo, "motion", run)
    assert rows(run) == before
    assert checksum(run, "motion") == export


def test_a_signal_during_the_start_is_not_lost(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(demo, "motion", run)
    time.sleep(1.5)  # while it imports
    process.send_signal(signal.SIGUSR1)
    finish(process, PREEMPTED)
    assert max(rows(run)) == 1


SHAPES = [  # stage, how it is started, how it comes back
    ("emotion", ["trainer.devices=2"], []),
    ("motion", [], ["trainer.devices=2", ZERO, "trainer.zero_stage=2"]),
    ("face", ["trainer.devices=2", ZERO, "trainer.zero_stage=3"], []),
    ("distill", [], ["trainer.devices=2", ZERO, "trainer.zero_stage=1"]),
]
ALL_SHAPES = [
    (stage, *pair)
    for stage in STAGES
    for two in ([], [ZERO, "trainer.zero_stage=0"], [ZERO, "trainer.zero_stage=2"], [ZERO, "trainer.zero_stage=3"])
    for pair in (([], ["trainer.devices=2", *two]), (["trainer.devices=2", *two], []))
]


@pytest.mark.parametrize(("stage", "before", "after"), ALL_SHAPES if SOAK else SHAPES)
def test_it_comes_back_on_more_or_fewer_ranks(
    stage: str, before: list[str], after: list[str], demo: Path, tmp_path: Path, undisturbed
) -> None:
    run = tmp_path / "run"
    process = start(demo, stage, run, *before)
    wait_for_step(process, run, 1)
    told = children(process)[0] if "trainer.devices=2" in before else process.pid  # any one rank
    os.kill(told, signal.SIGUSR1)
    finish(process, PREEMPTED)
    step = max(rows(run))
    assert 1 <= step < 8
    finish(start(demo, stage, run, *after))
    # Adam's first steps turn a rounding of a tiny gradient into a whole step, so that two shapes part from the first
    # step on: what coming back must not change is measured against a run that kept the shape this one began with.
    expected, found = losses(undisturbed(stage, *before)), losses(run)
    assert found.keys() == expected.keys(), "a step is missing"
    for name, value in expected[step + 1].items():  # absolute: a term such as 1 - cosine is a small difference of ones
        assert found[step + 1][name] == pytest.approx(value, rel=1e-6, abs=1e-6), f"step {step + 1} {name}"
    assert found[step + 1]["train/loss"] == pytest.approx(expected[step + 1]["train/loss"], rel=1e-6)
    for later in range(step + 1, 9):  # the same samples: what differs is the order of sums
        assert found[later]["train/loss"] == pytest.approx(expected[later]["train/loss"], rel=1e-3)
