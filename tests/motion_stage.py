"""A small motion stage, and what it is asked for."""

from types import SimpleNamespace

import numpy as np
import torch
from emohead.models.checkpoint import save_checkpoint
from emohead.models.emotion import EmotionSpace, EmotionSpaceConfig
from emohead.models.face_model import FaceModel
from emohead.models.motion import AudioTo3DMMConfig
from emohead.trainers.config import as_dict
from emohead.trainers.motion import MotionStage, MotionStageConfig

SIZES = {"motion_dim": 10, "identity_dim": 3, "emotion_dim": 16}
SMALL = AudioTo3DMMConfig(dim=32, layers=2, heads=2, reach=3, chunk_frames=60, **SIZES)


def conditions(batch_size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, 16, generator=generator), torch.randn(batch_size, 3, generator=generator)


def face_model() -> FaceModel:
    rng = np.random.default_rng(0)
    mean, identity, expression = rng.normal(size=(70, 3)), rng.normal(size=(3, 70, 3)), rng.normal(size=(4, 70, 3))
    return FaceModel(mean, identity, expression, np.arange(68))


def make_stage(folder, **changes) -> MotionStage:
    torch.manual_seed(0)
    space = EmotionSpace(EmotionSpaceConfig(audio_dim=32, audio_layers=1, audio_heads=2))
    path = folder / "emotion.safetensors"
    save_checkpoint(path, space.state_dict(), kind="emotion", config=as_dict(space.config))
    statistics = {"motion_mean": np.zeros(10, np.float32), "motion_std": np.full(10, 0.2, np.float32)}
    facts = SimpleNamespace(motion_dim=10, identity_dim=3, face_model=face_model(), **statistics)
    return MotionStage(MotionStageConfig(**{"emotion": str(path), "network": SMALL} | changes), facts)
