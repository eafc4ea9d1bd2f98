"""metrics.csv and TensorBoard's files of a run that is stopped and goes on."""

import csv
from pathlib import Path

import pytest
from emohead.models.errors import UserError
from emohead.trainers.run.journal import Journal
from emohead.trainers.tracking import TrackingConfig, wrong_tracking


def journal_of(run: Path, *also: str) -> Journal:
    run.mkdir(exist_ok=True)
    return Journal(run, TrackingConfig(wandb="disabled", also=list(also)), {})


def run_twice(run: Path, *also: str) -> None:
    """Three steps, of which the last is done again by a second process, which has a column more."""
    first = journal_of(run, *also)
    first.forget_after(0)
    for step in (1, 2, 3):
        first.write("train", step, {"loss": float(step)})
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "train/lo')  # the process was killed here
    second = journal_of(run, *also)
    second.forget_after(2)
    second.write("train", 3, {"loss": 30.0, "lr": 0.1})
    second.write("val", 3, {"psnr": 20.0})
    second.close()


def test_csv_has_each_row_once_and_columns_that_came_later(tmp_path: Path) -> None:
    run_twice(tmp_path / "run", "csv")
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["step", "train/loss", "train/lr", "val/psnr"],
        ["1", "1.0", "", ""],
        ["2", "2.0", "", ""],
        ["3", "30.0", "0.1", ""],
        ["3", "", "", "20.0"],
    ]


def test_csv_of_a_run_that_began_without_it(tmp_path: Path) -> None:
    run_twice(tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.csv").exists()
    journal_of(tmp_path / "run", "csv").forget_after(3)
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize("also", [("tensorboard",), ()])
def test_tensorboard_shows_each_step_once(also: tuple[str, ...], tmp_path: Path) -> None:
    """Also of a run that is told of it only in its third process."""
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_twice(tmp_path / "run", *also)
    last = journal_of(tmp_path / "run", "tensorboard")
    last.forget_after(3)
    last.write("train", 4, {"loss": 4.0})
    last.close()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1), (2, 2), (3, 30), (4, 4)]
    assert [event.step for event in events.Scalars("val/psnr")] == [3]


def refused(config: TrackingConfig, environ: dict[str, str]) -> UserError:
    (error,) = wrong_tracking(config, environ)
    return error


def test_an_unknown_place_is_refused_with_the_nearest() -> None:
    error = refused(TrackingConfig(also=["tensorbord"]), {})
    assert (error.where, error.remedy) == ("tracking.also=[tensorbord]", "tracking.also=[tensorboard]")


def test_tensorboard_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emohead.trainers.tracking.find_spec", lambda name: None)
    assert "pip install 'emohead[tensorboard]'" in refused(TrackingConfig(also=["tensorboard"]), {}).remedy
