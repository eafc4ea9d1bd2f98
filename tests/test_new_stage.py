"""A fifth stage is a file in trainers/, a configuration in configs/, a line where stages are listed, and batch keys."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from emohead.models.checkpoint import load_checkpoint

from .conftest import ROOT

TOY = '''
"""A stage that learns how loud a clip is, as its emotion embedding tells."""

from dataclasses import dataclass, field

import torch
from torch import nn

from ..models.emotion import EmotionSpace
from .stage import Stage, StageConfig, Start


@dataclass
class LoudnessConfig:
    embed_dim: int = 0


class Loudness(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.layer = nn.Linear(config.embed_dim, 1)


@dataclass
class LoudnessLossConfig:
    loudness_loss: float = 1.0


@dataclass
class LoudnessStageConfig(StageConfig):
    emotion: str = ""
    network: LoudnessConfig = field(default_factory=LoudnessConfig)
    loss: LoudnessLossConfig = field(default_factory=LoudnessLossConfig)


class LoudnessStage(Stage):
    name = "loudness"
    config_type = LoudnessStageConfig
    starts_from = (Start("emotion", "emotion"),)
    kind = "loudness"
    monitor = "-val/loudness_loss"

    @classmethod
    def build(cls, config, facts, given):
        return {"network": Loudness(LoudnessConfig(given["emotion"]["embed_dim"]))}

    def __init__(self, config, facts):
        super().__init__(config, facts)
        given = self.load_given()
        self.space = EmotionSpace.rebuild(given["emotion"]).requires_grad_(False)
        self.network = self.assemble(facts, given)["network"]

    def losses(self, batch):
        with torch.no_grad():
            heard = self.space.encode_speech(batch["speech"])
        found = self.network.layer(heard)[:, 0] - batch["speech"].std(dim=1)
        return {"loudness_loss": found.square().mean()}
'''
CONFIG = """# emohead train loudness -c loudness-debug data.shards=[FOLDER] emotion=FILE
data:
  batch_size: 4
  num_workers: 0
trainer:
  max_steps: 2
  accelerator: cpu
  log_every: 1
  val_every: 2
  checkpoint_every: 1
tracking:
  wandb: disabled
"""
CHANGED = {
    "trainers/all_stages.py": [
        ("from .stage import Stage\n", "from .loudness import LoudnessStage\nfrom .stage import Stage\n"),
        ("DistillStage)}", "DistillStage, LoudnessStage)}"),
    ],
    "datamodules/batch.py": [('"distill": MOTION | FACE}', '"distill": MOTION | FACE, "loudness": EMOTION}')],
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the new stage."""
    root = tmp_path_factory.mktemp("new") / "emohead"
    for folder in ("models", "datamodules", "trainers", "apps", "configs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "trainers" / "loudness.py").write_text(TOY)
    (root / "configs" / "loudness-debug.yaml").write_text(CONFIG)
    for name, changes in CHANGED.items():
        text = (root / name).read_text()
        for before, after in changes:
            assert text.count(before) == 1, f"{name}: {before}"
            text = text.replace(before, after)
        (root / name).write_text(text)
    return root.parent


def test_it_is_listed_examined_trained_resumed_and_exported(package: Path, demo: Path, tmp_path: Path) -> None:
    def call(*arguments: object) -> str:
        environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "emohead.apps.cli", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    start = demo / "emotion" / "export" / "emotion.safetensors"
    given = ["loudness", "-c", "loudness-debug", f"data.shards=[{demo / 'data'}]", f"emotion={start}", "run=run"]
    assert "loudness  -> loudness.safetensors   emotion=emotion" in call("stages")
    examined = call("doctor", *given)
    assert "emotion=" in examined
    assert "for checkpoints" in examined, "its networks are built from the header of what it starts from"

    call("train", *given)
    call("train", *given, "trainer.max_steps=4")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4]
    validated = {row["step"]: row["val/loudness_loss"] for row in rows if "val/loudness_loss" in row}
    assert sorted(validated) == [2, 4]
    exported = load_checkpoint(tmp_path / "run" / "export" / "loudness.safetensors", kind="loudness")
    assert validated[exported.provenance["steps"]] == min(validated.values())
    assert exported.provenance["inputs"] == {"emotion": load_checkpoint(start).sha256}

    call("export", "run", "again.safetensors")
    assert load_checkpoint(tmp_path / "again.safetensors").sha256 == exported.sha256
