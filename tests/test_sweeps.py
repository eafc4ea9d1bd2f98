"""Sweeps of a real stage of the tiny chain: a worker that is killed, two ranks, an early end, the report."""

import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from emohead.models.errors import UserError
from emohead.trainers.all_stages import STAGES
from emohead.trainers.config import load_config
from emohead.trainers.motion import MotionStageConfig
from emohead.trainers.sweeps.file import read_sweep
from emohead.trainers.sweeps.inputs import check_inputs
from emohead.trainers.sweeps.study import begin, read_folder
from emohead.trainers.sweeps.worker import Worker
from optuna.trial import TrialState

from .conftest import emohead, refused

SWEEP = """
method: grid
metric: {name: val/lip_loss, goal: minimize}
early_terminate: {type: hyperband, min_iter: 1, eta: 2}
command:
  - emohead
  - train
  - motion
  - -c
  - DEMO/motion/config.yaml
  - data.batch_size=4
  - data.num_workers=0
  - trainer.max_steps=6
  - trainer.val_every=2
  - trainer.checkpoint_every=2
  - trainer.log_every=1
  - trainer.threads=1
  - trainer.devices=2
  - trainer.accelerator=cpu
  - tracking.wandb=disabled
  - ${args_no_hyphens}
parameters:
  optimizer.lr: {values: [1.0e-3, 1.0]}
"""


@pytest.fixture(scope="module")
def file(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "lr.yaml"
    path.write_text(SWEEP.replace("DEMO", str(demo)))
    return path


@pytest.fixture(scope="module")
def done(file: Path) -> Path:
    """A sweep with one good trial and a bad one, which its ranks leave together."""
    out = file.parent / "out"
    folder = begin(file, out, [], 0)
    assert Worker(folder, launch=[], max_failures=0).work() == 0
    return out


def trials(out: Path) -> list[optuna.trial.FrozenTrial]:
    return read_folder(out).open().get_trials()


def rows(out: Path, number: int) -> list[dict]:
    return [json.loads(line) for line in (out / "trials" / f"{number:04d}" / "metrics.jsonl").read_text().splitlines()]


def test_a_bad_trial_ends_early_on_all_ranks(done: Path):
    good, bad = trials(done)
    assert (good.state, bad.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert list(good.intermediate_values) == [2, 4, 6]
    assert good.value == [row["val/lip_loss"] for row in rows(done, 0) if "val/lip_loss" in row][-1]
    assert max(row["step"] for row in rows(done, 1)) == 3  # within a step of the verdict
    assert "pruned at step 3" in (done / "trials" / "0001.log").read_text()
    assert not (done / "trials" / "0001" / "export").exists()
    assert (done / "trials" / "0000" / "export" / "motion.safetensors").exists()


def test_nothing_is_left_to_do(done: Path):
    before = [(path, path.stat().st_mtime_ns) for path in sorted((done / "trials").rglob("*"))]
    assert Worker(read_folder(done), launch=[], max_failures=0).work() == 0
    assert before == [(path, path.stat().st_mtime_ns) for path in sorted((done / "trials").rglob("*"))]


def test_status_and_report(done: Path):
    status = json.loads(emohead("sweep", "status", done, "--json").stdout)
    assert status["states"]["done"] == status["states"]["ended early"] == 1
    assert status["best"] == 0
    assert "trial 0, val/lip_loss" in emohead("sweep", "status", done).stdout
    emohead("sweep", "report", done)
    page = (done / "report.html").read_text()
    assert "Sweep lr" in page
    assert page.count("<polyline") >= 4
    assert "http" not in page.replace("http://www.w3.org", "")
    config = load_config(MotionStageConfig, [Path("motion-debug"), done / "best.yaml"], [])
    assert (config.optimizer.lr, config.data.batch_size, config.run) == (1e-3, 4, "runs/motion")


def test_each_figure_of_a_validation_is_declared(demo: Path):
    for name, stage in STAGES.items():
        lines = map(json.loads, (demo / name / "metrics.jsonl").read_text().splitlines())
        found = {key.removeprefix("val/") for row in lines for key in row if key.startswith("val/")}
        assert found == set(stage.figures), name


def test_inputs_are_looked_at_before_the_first_trial(file: Path, tmp_path: Path):
    sweep = begin(file, tmp_path / "out", [], 0).sweep
    check_inputs(sweep)
    with pytest.raises(UserError, match="nowhere"):
        check_inputs(begin(file, tmp_path / "other", ["data.shards=[nowhere]"], 0).sweep)
    refused(emohead("sweep", file, "data.shards=[nowhere]", "--out", tmp_path / "third"), "nowhere")
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (lambda: read_folder(Path("nowhere")), "no sweep is in it"),
        (lambda: read_sweep(Path("nothing.yaml"), []), "no such sweep file"),
        (lambda: read_sweep(Path("motion-debug"), ["optimizer.lr=1"]), "is a parameter of"),
        (lambda: read_sweep(Path("motion-debug"), ["optimizer.rl=1"]), "did you mean 'optimizer.lr'?"),
        (lambda: read_sweep(Path("motion-debug"), ["optimizer"]), "wanted is key=value"),
    ],
)
def test_wrong_use_is_one_line(read: Callable[[], object], told: str):
    with pytest.raises(UserError) as caught:
        read()
    assert told in str(caught.value)
