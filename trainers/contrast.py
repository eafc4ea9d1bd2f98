"""Contrastive losses over a global batch, of which a rank brings its own rows.

Shapes: B clips of the global batch, E width of a space; `rows` are some of the B.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datamodules.batch import Batch
from ..datamodules.prompts import UNLABELLED
from ..datamodules.sample import NO_LABEL
from ..models.sent import sent

ALL = slice(None)


def described(batch: Batch) -> Tensor:
    """Which clips (B,) say of themselves what they show: by a label, from which descriptions follow, or in words.

    All others have the same text. As they might show the same or not, none of them may be held against another.
    """
    told = torch.tensor([prompt != UNLABELLED for prompt in batch["prompt"]])
    return sent(told, batch["emotion"].device)


def match_weights(emotion: Tensor, level: Tensor, other_level: float, rows: slice = ALL) -> Tensor:
    """How much clip j is a match for clip i: 1 for itself and its like, `other_level` for its emotion at another level.

    Clips without a label match only themselves. Emotion and level (B,) -> (rows, B) of a symmetric matrix (B, B).
    """
    same_emotion = (emotion[rows, None] == emotion) & (emotion != NO_LABEL)[rows, None]
    same_level = level[rows, None] == level
    numbers = torch.arange(len(emotion), device=emotion.device)
    itself = numbers[rows, None] == numbers
    return torch.where(itself, 1.0, same_emotion.float() * torch.where(same_level, 1.0, other_level))


def contrastive_loss(
    a: Tensor,
    b: Tensor,
    weights: Tensor,
    temperature: Tensor | float,
    rows: slice = ALL,
    *,
    counted: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE of unit vectors a, b (B, E) with soft targets proportional to `weights` (rows, B).

    rows: the clips that are compared with all others, in both directions; a rank brings its own, so that no rank holds
    B x B numbers. The mean over ranks is the loss of the whole batch.
    counted: which clips (B,) take part, as those that ask and as those that are asked; None: all. The loss is the mean
    over them, as if the others were not there; 0 if none takes part.
    """
    if counted is None:
        counted = torch.ones(len(a), dtype=torch.bool, device=a.device)
    weights = weights * (counted[rows, None] & counted)
    targets = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)  # a clip's own weight is 1; without a part: all 0
    losses = []
    for asking, asked in ((a, b), (b, a)):  # the same targets, as the weights are symmetric
        likeness = asking[rows] @ asked.T / temperature
        likeness = likeness.masked_fill(~counted, torch.finfo(likeness.dtype).min)  # an infinity times 0 would be NaN
        losses.append(F.cross_entropy(likeness, targets, reduction="sum"))
    num_ranks = len(a) / len(weights)
    return (losses[0] + losses[1]) / 2 * num_ranks / counted.sum().clamp(min=1)
