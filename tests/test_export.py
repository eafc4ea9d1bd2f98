"""Which checkpoint a run exports: the best by its stage's metric, or the newest."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emohead.models.checkpoint import Checkpoint, load_checkpoint
from emohead.trainers.motion import MotionStage
from emohead.trainers.run.checkpoints import Checkpoints
from emohead.trainers.run.export import export_run
from emohead.trainers.run.train import train
from emohead.trainers.sweeps.worker import value_of

from .conftest import emohead

SETTINGS = ["data.batch_size=2", "data.num_workers=0", "tracking.wandb=disabled", "optimizer.final_lr=1"]
SETTINGS += ["trainer.accelerator=cpu", "trainer.keep_last=1"]
ONCE = "trainer.val_every=100"  # then the last step alone is validated


def trained(demo: Path, run: Path, steps: int, *settings: str) -> Checkpoint:
    given = [*SETTINGS, f"run={run}", f"trainer.max_steps={steps}", *settings]
    path = train("motion", [demo / "motion" / "config.yaml"], given)
    assert path is not None
    return load_checkpoint(path, kind="motion")


@pytest.fixture(scope="module")
def alone(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Checksums of the weights after two and after three steps, as runs that end there have them."""
    folder = tmp_path_factory.mktemp("alone")
    return {steps: trained(demo, folder / str(steps), steps, ONCE).sha256 for steps in (2, 3)}


def second_is_best(stage: MotionStage, batch: dict) -> dict[str, torch.Tensor]:
    return VALIDATE(stage, batch) | {"loss": torch.tensor(abs(stage.num_batches - 2.0) + 0.5)}


VALIDATE = MotionStage.validate


@pytest.fixture(scope="module")
def run(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps, of which the second is the best on val."""
    folder = tmp_path_factory.mktemp("best") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MotionStage, "validate", second_is_best)
        trained(demo, folder, 3, "trainer.val_every=1")
    return folder


def test_a_run_exports_its_best_checkpoint_and_says_so(run: Path, alone: dict[int, str]) -> None:
    found = load_checkpoint(run / "export" / "motion.safetensors")
    assert found.sha256 == alone[2]
    assert found.provenance["steps"] == 2
    assert found.provenance["checkpoint"] == {"step": 2, "chosen": "best", "metric": "val/loss", "value": 0.5}


def test_a_run_that_keeps_no_best_checkpoint_exports_its_newest(demo: Path, tmp_path: Path) -> None:
    found = trained(demo, tmp_path / "run", 2, ONCE, "trainer.keep_best=0")
    assert found.provenance["checkpoint"] == {"step": 2, "chosen": "newest"}


def test_the_command_exports_the_best_or_the_newest(run: Path, alone: dict[int, str], tmp_path: Path) -> None:
    out = tmp_path / "motion.safetensors"
    told = emohead("export", run, out).stdout
    assert "step 2, the best val/loss, 0.5" in told
    assert load_checkpoint(out).sha256 == alone[2]
    told = emohead("export", run, out, "--last").stdout
    assert "step 3, the newest" in told
    assert load_checkpoint(out).sha256 == alone[3]


def test_a_trial_of_a_sweep_counts_by_what_it_exports(run: Path, tmp_path: Path) -> None:
    rows = {row["step"]: row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
    assert value_of(run, "val/lip_loss") == rows[2]["val/lip_loss"] != rows[3]["val/lip_loss"]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "val/lip_loss": 3.0}\n{"step": 2, "val/lip_loss": 4.0}\n')
    assert value_of(tmp_path, "val/lip_loss") == 4.0, "a run of something else keeps no best one"
    assert value_of(tmp_path, "val/loss") is None


def test_with_sharded_weights_the_best_is_exported_too(demo: Path, run: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from tests.test_export import MotionStage, second_is_best, trained
MotionStage.validate = second_is_best
given = ["trainer.val_every=1", "trainer.strategy=deepspeed", "trainer.zero_stage=3"]
found = trained(Path({str(demo)!r}), Path({str(tmp_path / "run")!r}), 3, *given)
assert found.provenance["checkpoint"]["step"] == 2
"""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, cwd=root)
    assert done.returncode == 0, done.stderr
    wanted, found = (load_checkpoint(at / "export" / "motion.safetensors") for at in (run, tmp_path / "run"))
    for name, value in wanted.tensors.items():
        torch.testing.assert_close(found.tensors[name], value, atol=1e-5, rtol=0, msg=name)
    export_run(tmp_path / "run", tmp_path / "again.safetensors")
    assert load_checkpoint(tmp_path / "again.safetensors").sha256 == found.sha256


def test_a_best_checkpoint_that_is_damaged_is_passed_over(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    (part,) = checkpoints.path(2).glob("part-*")
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    assert export_run(tmp_path / "run", tmp_path / "motion.safetensors") == {"step": 3, "chosen": "newest"}
    assert checkpoints.steps() == [3]
