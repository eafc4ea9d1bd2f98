"""The residual discriminator of StyleGAN2, small, with the minibatch standard deviation.

Shapes: B batch, S frame size, C channels.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UserError
from .portrait_encoder import SLOPE, ResidualDown
from .ranges import number

LAST = 4  # pixels a side of the last convolution's map


@dataclass
class DiscriminatorConfig:
    size: int = 0  # of the frames; the stage fills it in
    channels: list[int] = field(default_factory=lambda: [16, 32, 64, 96, 96, 96])  # at size, size / 2, … 4 pixels
    group: int = number(4, least=1)  # frames whose spread is one statistic

    def __post_init__(self) -> None:
        taken = LAST * 2 ** (len(self.channels) - 1)
        if self.size not in (0, taken):
            given = f"{len(self.channels)} of them suit frames of {taken} pixels, network.size is {self.size}"
            raise UserError("discriminator.channels", given, f"give one for each halving down to {LAST}")


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """Append a map of how much the frames of a group differ; without it, the generator may draw one face for all.

    (B, C, H, W) -> (B, C + 1, H, W). A group is a run of neighbouring frames of the batch: if the batch is split into
    parts of whole groups, the result is the same.
    """
    batch, _, height, width = x.shape
    group = max(g for g in range(1, min(group, batch) + 1) if batch % g == 0)
    grouped = x.float().reshape(batch // group, group, *x.shape[1:])
    variance = (grouped - grouped.mean(1, keepdim=True)).square().mean(1)
    spread = (variance + 1e-8).sqrt().mean((1, 2, 3))  # (B / group,)
    maps = spread.repeat_interleave(group)[:, None, None, None].expand(-1, 1, height, width)
    return torch.cat([x, maps.to(x.dtype)], dim=1)


class Discriminator(nn.Module):
    """A frame (B, 3, S, S) in [-1, 1] -> one logit (B,), high for real ones."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.stem = nn.Conv2d(3, channels[0], 1)
        self.blocks = nn.Sequential(*(ResidualDown(a, b) for a, b in pairwise(channels)))
        self.last = nn.Conv2d(channels[-1] + 1, channels[-1], 3, padding=1)
        self.hidden = nn.Linear(channels[-1] * LAST**2, channels[-1])
        self.logit = nn.Linear(channels[-1], 1)

    def forward(self, frame: Tensor) -> Tensor:
        x = self.blocks(F.leaky_relu_(self.stem(frame), SLOPE))
        x = F.leaky_relu(self.last(minibatch_deviation(x, self.config.group)), SLOPE)
        return self.logit(F.leaky_relu(self.hidden(x.flatten(1)), SLOPE)).float().squeeze(1)
