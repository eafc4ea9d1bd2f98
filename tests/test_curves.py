"""The first twenty losses of each stage, kept in curves.json: a refactor must give them again.

EMOHEAD_WRITE_CURVES=1 writes those of the stages that are run; only a change that means to change training may do that.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from emohead.datamodules.batch import made_up_batch
from emohead.models.checkpoint import save_checkpoint
from emohead.models.emotion import EmotionSpace, EmotionSpaceConfig
from emohead.models.face import FaceGenerator, FaceGeneratorConfig
from emohead.models.motion import AudioTo3DMM, AudioTo3DMMConfig
from emohead.models.talker import TalkerConfig
from emohead.trainers.config import as_dict
from emohead.trainers.distill import DistillStage, DistillStageConfig
from emohead.trainers.emotion import EmotionStage, EmotionStageConfig
from emohead.trainers.engines.plain import LossScale, PlainEngine
from emohead.trainers.face import FaceStage
from emohead.trainers.motion import MotionStage, MotionStageConfig
from emohead.trainers.stage import OptimizerConfig, Stage
from torch import nn

from .test_face import DIMS, SMALL, face_model, small_config

KEPT = Path(__file__).parent / "curves.json"
STEPS = 20
TOLERANCE = 0.02  # of a loss: processors round differently, and early steps amplify it
SPACE = EmotionSpaceConfig(audio_dim=32, audio_layers=1, audio_heads=2)
MOTION = AudioTo3DMMConfig(dim=32, layers=2, heads=2, reach=3)
OPTIMIZER = {"lr": 1e-3, "warmup_steps": 5}


def export(network: nn.Module, kind: str, folder: Path) -> str:
    path = folder / f"{kind}.safetensors"
    save_checkpoint(path, network.state_dict(), kind=kind, config=as_dict(network.config))
    return str(path)


def teachers(folder: Path) -> dict[str, str]:
    torch.manual_seed(1)
    face = FaceGenerator(FaceGeneratorConfig(**SMALL, **DIMS))
    face.adopt(face_model(), torch.zeros(10), torch.full((10,), 0.2))
    sizes = {"motion_dim": 10, "identity_dim": 3, "emotion_dim": 64}
    motion = AudioTo3DMM(AudioTo3DMMConfig(**vars(MOTION) | sizes))
    networks = {"emotion": EmotionSpace(SPACE), "motion": motion, "face": face}
    return {kind: export(network, kind, folder) for kind, network in networks.items()}


def make(name: str, folder: Path) -> Stage:
    statistics = {"motion_mean": np.zeros(10, np.float32), "motion_std": np.full(10, 0.2, np.float32)}
    facts = SimpleNamespace(motion_dim=10, identity_dim=3, face_model=face_model(), size=32, **statistics)
    exports = teachers(folder)
    torch.manual_seed(0)
    optimizer = OptimizerConfig(**OPTIMIZER)
    if name == "emotion":
        return EmotionStage(EmotionStageConfig(network=SPACE, optimizer=optimizer), facts)
    if name == "motion":
        config = MotionStageConfig(emotion=exports["emotion"], network=MOTION, optimizer=optimizer)
        return MotionStage(config, facts)
    if name == "distill":
        network = TalkerConfig(face=FaceGeneratorConfig(**SMALL), motion=MOTION)
        return DistillStage(DistillStageConfig(**exports, network=network, optimizer=optimizer), facts)
    config = small_config()
    config.adversary.start, config.adversary.r1_every = 5, 8
    return FaceStage(config, facts)


def curve(name: str, folder: Path) -> list[float]:
    stage = make(name, folder).train()
    stage.config.trainer.precision = "32-true"
    for (network, module), optimizer in zip(stage.trained().items(), stage.configure_optimizers(), strict=True):
        stage.engines[network] = PlainEngine(module, optimizer, clip_norm=1.0, scale=LossScale(False))
    losses = []
    for step in range(STEPS):
        batch = made_up_batch(name, batch_size=4, size=32, seed=step % 3)
        stage.num_batches = step
        stage.training_step(batch, 0)
        losses.append(float(stage.logs["loss"]))
    return losses


@pytest.mark.parametrize("name", ["emotion", "motion", "face", "distill"])
def test_the_first_losses_are_as_they_were(name: str, tmp_path: Path) -> None:
    found = curve(name, tmp_path)
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if os.environ.get("EMOHEAD_WRITE_CURVES"):
        KEPT.write_text(json.dumps(kept | {name: [round(value, 6) for value in found]}, indent=1) + "\n")
    else:
        assert found == pytest.approx(kept[name], rel=TOLERANCE)
