"""Two critics of motion, which learn from true motion only, beside the network of stage 2.

    speech ── log-mel, stem ──────── a_t ─┐
    expression ── convolutions ───── v_t ─┴─ alike if t is the same moment           (lips and speech)
    expression ── convolutions, pooling ──── a point of the emotion space            (emotion of a motion)

The first is a SyncNet (Chung & Zisserman 2016) on face-model coefficients instead of pictures; both are our own choice.
They teach the network and are not exported: evaluation asks a jury of another kind (trainers/evaluation/jury.py).
Shapes: B batch, T frames, N = 640 T samples, K expression coefficients, S width of the sync space, E emotion space.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .audio import AttentionPool, LogMel, MelStem
from .ranges import number

SYNC_FRAMES = 5  # that one vector sees, as in SyncNet


@dataclass
class MotionCriticsConfig:
    num_expression: int = 0  # expression coefficients of the data set; filled in by the stage
    emotion_dim: int = 0  # width of the emotion space; filled in by the stage
    num_mels: int = number(80, least=1)  # bands of the log-mel that is heard
    dim: int = number(64, least=1)  # width of the critics
    heads: int = number(4, least=1)  # attention heads; divides dim


class SyncExpert(nn.Module):
    """Unit vectors of every moment of speech, and of motion."""

    def __init__(self, config: MotionCriticsConfig) -> None:
        super().__init__()
        dim = config.dim
        self.mel = LogMel(config.num_mels)
        self.stem = MelStem(config.num_mels, dim)
        self.of_speech = _local(dim, dim)
        self.of_motion = _local(config.num_expression, dim)

    def forward(self, speech: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Speech (B, N), normalised expression (B, T, K) -> both (B, T, S)."""
        heard = self.of_speech(rearrange(self.stem(self.mel(speech)), "b t c -> b c t"))
        seen = self.of_motion(rearrange(expression.to(heard.dtype), "b t k -> b k t"))
        return tuple(F.normalize(rearrange(x, "b s t -> b t s").float(), dim=-1) for x in (heard, seen))  # type: ignore[return-value]


class MotionEmotion(nn.Module):
    """Normalised expression (B, T, K) -> a unit vector of the emotion space (B, E)."""

    def __init__(self, config: MotionCriticsConfig) -> None:
        super().__init__()
        dim = config.dim
        self.enter = nn.Conv1d(config.num_expression, dim, 5, stride=2, padding=2)
        self.deepen = nn.Conv1d(dim, dim, 5, stride=2, padding=2)
        self.pool = AttentionPool(dim, config.heads)
        self.project = nn.Linear(dim, config.emotion_dim)

    def forward(self, expression: Tensor) -> Tensor:
        x = rearrange(expression.to(self.enter.weight.dtype), "b t k -> b k t")
        x = F.gelu(self.deepen(F.gelu(self.enter(x))))
        return F.normalize(self.project(self.pool(rearrange(x, "b c t -> b t c"))).float(), dim=-1)


class MotionCritics(nn.Module):
    """Both critics. `normalise` their input: raw motion has units of the data set."""

    expression_mean: Tensor  # (K,)
    expression_std: Tensor

    def __init__(self, config: MotionCriticsConfig) -> None:
        super().__init__()
        self.config = config
        self.sync, self.emotion = SyncExpert(config), MotionEmotion(config)
        self.register_buffer("expression_mean", torch.zeros(config.num_expression))
        self.register_buffer("expression_std", torch.ones(config.num_expression))

    def normalise(self, motion: Tensor) -> Tensor:
        """Raw motion (B, T, K + 6) -> normalised expression (B, T, K)."""
        return (motion[..., : len(self.expression_mean)].float() - self.expression_mean) / self.expression_std


def _local(inputs: int, outputs: int) -> nn.Module:
    """(B, C, T) -> (B, C', T), each frame from SYNC_FRAMES around it."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, SYNC_FRAMES, padding=SYNC_FRAMES // 2),
        nn.GELU(),
        nn.Conv1d(outputs, outputs, 1),
        nn.GELU(),
        nn.Conv1d(outputs, outputs, 1),
    )
