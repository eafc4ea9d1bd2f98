"""Every stage, small, on teachers of random weights."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from emohead.models.checkpoint import save_checkpoint
from emohead.models.emotion import EmotionSpace, EmotionSpaceConfig
from emohead.models.face import FaceGenerator, FaceGeneratorConfig
from emohead.models.motion import AudioTo3DMM, AudioTo3DMMConfig
from emohead.models.talker import TalkerConfig
from emohead.trainers.config import as_dict
from emohead.trainers.distill import DistillStage, DistillStageConfig
from emohead.trainers.emotion import EmotionStage, EmotionStageConfig
from emohead.trainers.face import FaceStage
from emohead.trainers.motion import MotionStage, MotionStageConfig
from emohead.trainers.optimizer import OptimizerConfig
from emohead.trainers.stage import Stage
from torch import nn

from .face_stage import DIMS, SMALL, face_model, small_config

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
    exports = teachers(folder) if name in ("motion", "distill") else {}
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
