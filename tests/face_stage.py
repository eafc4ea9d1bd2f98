"""A small face generator and its stage."""

from types import SimpleNamespace

import numpy as np
import torch
from emohead.models.discriminator import DiscriminatorConfig
from emohead.models.face import FaceGenerator, FaceGeneratorConfig
from emohead.models.face_model import FaceModel
from emohead.trainers.engines.plain import LossScale, PlainEngine
from emohead.trainers.face import FaceStage, FaceStageConfig

SMALL = {"size": 32, "channels": [16, 12, 8], "style_dim": 16, "landmark_level": 16, "coarse_flow": 16}
DIMS = {"motion_dim": 10, "identity_dim": 3, "num_points": 72}


def face_model() -> FaceModel:
    rng = np.random.default_rng(0)
    mean = rng.uniform(-0.8, 0.8, (75, 3))
    return FaceModel(mean, rng.normal(0, 0.05, (3, 75, 3)), rng.normal(0, 0.05, (4, 75, 3)), np.arange(68))


def make_generator() -> FaceGenerator:
    torch.manual_seed(0)
    network = FaceGenerator(FaceGeneratorConfig(**SMALL, **DIMS))
    network.adopt(face_model(), torch.zeros(10), torch.full((10,), 0.2))
    return network


def small_config() -> FaceStageConfig:
    config = FaceStageConfig(network=FaceGeneratorConfig(**SMALL))
    config.discriminator = DiscriminatorConfig(size=32, channels=[8, 12, 16, 16])
    config.adversary.start = 0
    return config


def make_stage(config: FaceStageConfig | None = None) -> FaceStage:
    torch.manual_seed(0)
    config = config or small_config()
    statistics = {"motion_mean": np.zeros(10, np.float32), "motion_std": np.full(10, 0.2, np.float32)}
    facts = SimpleNamespace(
        motion_dim=10, identity_dim=3, face_model=face_model(), size=config.network.size, **statistics
    )
    stage = FaceStage(config, facts)
    for (name, module), optimizer in zip(stage.trained().items(), stage.configure_optimizers(), strict=True):
        stage.engines[name] = PlainEngine(module, optimizer, clip_norm=stage.clip_norm(name), scale=LossScale(False))
    return stage
