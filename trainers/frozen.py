"""Networks that a stage asks but does not train."""

from collections.abc import Iterator

import torch
from torch import nn


class Frozen:
    """Base of a dataclass whose fields are networks, or None: in eval mode and without gradients, for good.

    It is no module, so its networks are no part of the stage: `train()`, optimizers and checkpoints do not reach
    them. For the same reason the stage moves it to its device itself, in `on_fit_start`.
    """

    def __post_init__(self) -> None:
        for network in self.networks():
            network.eval().requires_grad_(False)

    def to(self, device: torch.device) -> None:
        for network in self.networks():
            network.to(device)

    def networks(self) -> Iterator[nn.Module]:
        return (network for network in vars(self).values() if network is not None)
