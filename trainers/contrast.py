"""Contrastive losses over a global batch, of which a rank brings its own rows.

Shapes: B clips of the global batch, E width of a space; `rows` are some of the B.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datamodules.sample import NO_LABEL

ALL = slice(None)


def match_weights(emotion: Tensor, level: Tensor, other_level: float, rows: slice = ALL) -> Tensor:
    """How much clip j is a match for clip i: 1 for itself and its like, `other_level` for its emotion at another level.

    Clips without a label match only themselves. Emotion and level (B,) -> (rows, B) of a symmetric matrix (B, B).
    """
    same_emotion = (emotion[rows, None] == emotion) & (emotion != NO_LABEL)[rows, None]
    same_level = level[rows, None] == level
    numbers = torch.arange(len(emotion), device=emotion.device)
    itself = numbers[rows, None] == numbers
    return torch.where(itself, 1.0, same_emotion.float() * torch.where(same_level, 1.0, other_level))


def contrastive_loss(a: Tensor, b: Tensor, weights: Tensor, temperature: Tensor | float, rows: slice = ALL) -> Tensor:
    """Symmetric InfoNCE of unit vectors a, b (B, E) with soft targets proportional to `weights` (rows, B).

    rows: the clips that ask, both ways; a rank brings its own, so that no rank holds B x B numbers. The mean over ranks
    is the loss of the whole batch.
    """
    targets = weights / weights.sum(dim=1, keepdim=True)  # both ways, as the weights are symmetric
    there = F.cross_entropy(a[rows] @ b.T / temperature, targets)
    back = F.cross_entropy(b[rows] @ a.T / temperature, targets)
    return (there + back) / 2
