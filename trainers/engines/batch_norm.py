"""Batch normalisation over the global batch: by torch's SyncBatchNorm on GPUs, by one of our own on CPUs."""

import torch
from torch import Tensor, nn

from .ranks import mean, num_ranks


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are over the shares of all ranks, which must have equal size."""

    running_mean: Tensor  # with BatchNorm2d's defaults none of these is None
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or num_ranks() == 1:
            return super().forward(x)
        exact = x.float()
        own_variance, own_centre = (part.double() for part in torch.var_mean(exact, (0, 2, 3), correction=0))
        # Of one exchange. In float64 nothing is lost when the squares are taken apart again.
        centre, square = mean(torch.stack([own_centre, own_variance + own_centre.square()]))
        centre, variance = centre.float(), (square - centre.square()).float()
        exact = exact - centre[:, None, None]
        self._remember(centre.detach(), variance.detach(), count=num_ranks() * x.numel() // x.shape[1])
        scale = self.weight.float() * torch.rsqrt(variance + self.eps)
        return (exact * scale[:, None, None] + self.bias.float()[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, centre: Tensor, variance: Tensor, count: int) -> None:
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(centre, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


def use_global_statistics(module: nn.Module, device: torch.device) -> None:
    """Replace every BatchNorm2d of a network by one over all ranks; names and weights stay."""
    on_gpu = device.type == "cuda"
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = nn.SyncBatchNorm if on_gpu else GlobalBatchNorm2d  # type: ignore[assignment]
            if on_gpu:  # all ranks
                child.process_group = None  # type: ignore[assignment]
