"""How much disk the checkpoints of a stage will take, told without its weights."""

import json
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ...datamodules.module import DataFacts
from ...models.checkpoint import read_header
from ...models.discriminator import Discriminator
from ...models.emotion import EmotionSpace
from ...models.face import FaceGenerator
from ...models.face_model import POSE_DIM
from ...models.motion import AudioTo3DMM
from ...models.motion_critics import MotionCritics
from ...models.talker import Talker
from ..distill import student_config
from ..face import MAX_POINTS

MOMENTS = 2 * 4  # bytes that AdamW remembers of a trained number


class Uninitialised(TorchFunctionMode):
    """Leaves parameters as they were allocated: what nobody writes to takes neither time nor memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = func in (torch.Tensor.normal_, torch.Tensor.uniform_)
        if drawn or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def checkpoint_bytes(name: str, config: Any, facts: DataFacts) -> tuple[int, int]:
    """Bytes of a checkpoint (weights and optimizer) and of the export of a stage.

    Raises UserError where a network cannot be made as configured, or a checkpoint it builds on cannot be read.
    """
    with Uninitialised():
        network, others = networks(name, config, facts)
    weights = sum(map(state_bytes, (network, *others)))
    if name == "face":
        weights += state_bytes(network)  # its moving average
    trained = [p for module in (network, *others) for p in module.parameters() if p.requires_grad]
    return weights + MOMENTS * sum(p.numel() for p in trained), state_bytes(network)


def networks(name: str, config: Any, facts: DataFacts) -> tuple[nn.Module, list[nn.Module]]:
    """The network that a stage exports, and what else it trains."""
    dims = {"motion_dim": facts.motion_dim, "identity_dim": facts.identity_dim}
    if name == "emotion":
        return EmotionSpace(replace(config.network, pretrained="")), []
    if name == "motion":
        emotion_dim = teacher("emotion", config)["embed_dim"]
        network = AudioTo3DMM(replace(config.network.without_folder(), **dims, emotion_dim=emotion_dim))
        sizes = {"num_expression": facts.motion_dim - POSE_DIM, "emotion_dim": emotion_dim}
        return network, [MotionCritics(replace(config.critics, **sizes)) for _ in ("critics", "jury")]
    if name == "face":
        num_points = min(facts.face_model.mean.shape[0], MAX_POINTS)
        discriminator = Discriminator(replace(config.discriminator, size=config.network.size))
        return FaceGenerator(replace(config.network, **dims, num_points=num_points)), [discriminator]
    teachers: list[Any] = [
        SimpleNamespace(config=SimpleNamespace(**teacher(kind, config))) for kind in ("emotion", "motion", "face")
    ]
    student = student_config(deepcopy(config.network), *teachers)
    return Talker(replace(student, motion=student.motion.without_folder())), []


def teacher(kind: str, config: Any) -> dict[str, Any]:
    """The configuration of the network in a checkpoint that a stage is built on."""
    return json.loads(read_header(getattr(config, kind), kind=kind)["config"])


def state_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
