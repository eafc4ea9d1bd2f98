"""CPU operators for maps whose channels lie last: PyTorch's own copy such maps, or read their memory out of order.

Values and gradients are those of the operators they stand for; a training step of the face stage takes a quarter less.

Shapes: B batch, C channels, H x W pixels of the source, h x w places that are read.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CORNERS = 4  # pixels around a place


def sample_rows(source: Tensor, grid: Tensor, gain: Tensor | None = None) -> Tensor:
    """F.grid_sample(source, grid, padding_mode="border", align_corners=False), in float32 and channels last.

    A pixel is a row of channels; the result is the weighted sum of four rows: an embedding bag. Source (B, C, H, W) has
    at least 2 x 2 pixels, and its batch may be one picture expanded; grid (B, h, w, 2), x first; a gain (B, 1, h, w)
    scales the result -> (B, C, h, w).
    """
    batch, channels, height, width = source.shape
    if source.stride(0) == 0:
        source = source[:1]
    index, weight = corners(grid, height, width, len(source))
    if gain is not None:  # rather of the few weights than of the many channels
        weight = weight * gain.float().flatten()[:, None]
    rows = source.permute(0, 2, 3, 1).reshape(-1, channels).float()
    read = F.embedding_bag(index, rows.detach(), per_sample_weights=weight, mode="sum")
    read = _Scatter.apply(read, rows, index, weight.detach())
    return read.view(batch, *grid.shape[1:3], channels).permute(0, 3, 1, 2)


def corners(grid: Tensor, height: int, width: int, pictures: int) -> tuple[Tensor, Tensor]:
    """Grid (B, h, w, 2) -> the pixels around each place (B h w, 4), rows of `pictures` pictures, and their weights.

    A place that is not a number reads pixel 0 with weights that are not numbers, so that the result shows it.
    """
    x = (((grid[..., 0] + 1) * width - 1) / 2).clamp(0, width - 1)
    y = (((grid[..., 1] + 1) * height - 1) / 2).clamp(0, height - 1)
    left = x.detach().nan_to_num(0).floor().clamp(max=width - 2)
    top = y.detach().nan_to_num(0).floor().clamp(max=height - 2)
    first = torch.arange(pictures, dtype=torch.int32, device=grid.device)[:, None, None] * (height * width)
    first = first + top.int() * width + left.int()
    across, down = x - left, y - top
    index = torch.stack([first, first + 1, first + width, first + width + 1], dim=-1)
    weight = torch.stack([(1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down], dim=-1)
    return index.flatten(0, 2), weight.flatten(0, 2)


class _Scatter(torch.autograd.Function):
    """Passes values on unchanged, and adds their gradients to the rows that they were read from.

    Sorted by row, the corners are bags of the places that read the row: the sum the other way round.
    """

    @staticmethod
    def forward(ctx: Any, read: Tensor, rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight)
        ctx.num_rows = len(rows)
        return read.view_as(read)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradient.contiguous()
        if not ctx.needs_input_grad[1]:
            return gradient, None, None, None
        index, weight = ctx.saved_tensors
        row, corner = torch.sort(index.flatten(), stable=True)
        starts = torch.searchsorted(row, torch.arange(ctx.num_rows, dtype=torch.int32), out_int32=True)
        place = torch.div(corner, CORNERS, rounding_mode="floor").int()
        share = weight.flatten()[corner]
        return gradient, F.embedding_bag(place, gradient, starts, mode="sum", per_sample_weights=share), None, None


def double(image: Tensor) -> Tensor:
    """F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False): (B, C, H, W) -> (B, C, 2 H, 2 W)."""
    return _Double.apply(image)


class _Double(torch.autograd.Function):
    """The gradient is a strided convolution of each channel by itself, with what lies beyond the border folded back."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        return F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        weights = torch.tensor([0.25, 0.75, 0.75, 0.25], dtype=gradient.dtype, device=gradient.device)
        channels = gradient.shape[1]
        kernel = torch.outer(weights, weights).expand(channels, 1, 4, 4)
        beyond = F.conv2d(gradient, kernel, stride=2, padding=3, groups=channels)  # (B, C, H + 2, W + 2)
        for dim in (2, 3):
            count = beyond.shape[dim] - 2
            inner = beyond.narrow(dim, 1, count)
            inner.narrow(dim, 0, 1).add_(beyond.narrow(dim, 0, 1))
            inner.narrow(dim, count - 1, 1).add_(beyond.narrow(dim, count + 1, 1))
            beyond = inner
        return beyond
