"""`sample_rows` of channels_last.py for GPUs, in Triton: reads and writes rows of channels, each once.

PyTorch's own operator for GPUs takes maps whose channels lie first; others are copied there and back. The gradient of
the source is added up by atomic operations, in any order: the last digits differ from run to run.

Shapes: N places that are read, C channels.
"""

import sys
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

PLACES = 32  # that one program reads


@triton.jit
def _corner(grid, gain, n, inside, per_picture, height, width, SHARED: tl.constexpr, GAIN: tl.constexpr):
    """Of places n: the row of their upper left pixel, the way from it, whether they lie in the picture, the gain."""
    x = ((tl.load(grid + 2 * n, mask=inside, other=0.0) + 1) * width - 1) / 2
    y = ((tl.load(grid + 2 * n + 1, mask=inside, other=0.0) + 1) * height - 1) / 2
    free_x, free_y = (x >= 0) & (x <= width - 1), (y >= 0) & (y <= height - 1)
    # A place that is not a number reads pixel 0 with weights that are not numbers.
    held_x = tl.where(x == x, tl.minimum(tl.maximum(x, 0.0), width - 1.0), 0.0)
    held_y = tl.where(y == y, tl.minimum(tl.maximum(y, 0.0), height - 1.0), 0.0)
    left = tl.minimum(held_x.to(tl.int32), width - 2)
    top = tl.minimum(held_y.to(tl.int32), height - 2)
    across, down = tl.where(x == x, held_x, x) - left, tl.where(y == y, held_y, y) - top
    row = top * width + left
    if not SHARED:
        row += (n // per_picture) * (height * width)
    scale = tl.load(gain + n, mask=inside, other=0.0) if GAIN else 1.0
    return row.to(tl.int64), across, down, free_x, free_y, scale


@triton.jit
def _read(
    rows, grid, gain, out, places, per_picture, height, width,
    CHANNELS: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, SHARED: tl.constexpr, GAIN: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, WIDE)
    inside = n < places
    row, across, down, _, _, scale = _corner(grid, gain, n, inside, per_picture, height, width, SHARED, GAIN)
    first = rows + row[:, None] * CHANNELS + c[None, :]
    mask = inside[:, None] & (c < CHANNELS)[None, :]
    upper = tl.load(first, mask=mask, other=0.0) * (1 - across)[:, None]
    upper += tl.load(first + CHANNELS, mask=mask, other=0.0) * across[:, None]
    lower = tl.load(first + width * CHANNELS, mask=mask, other=0.0) * (1 - across)[:, None]
    lower += tl.load(first + (width + 1) * CHANNELS, mask=mask, other=0.0) * across[:, None]
    found = upper * ((1 - down) * scale)[:, None] + lower * (down * scale)[:, None]
    tl.store(out + n[:, None] * CHANNELS + c[None, :], found, mask=mask)


@triton.jit
def _give_back(
    rows, grid, gain, gradient, to_rows, to_grid, to_gain, places, per_picture, height, width,
    CHANNELS: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, SHARED: tl.constexpr, GAIN: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, WIDE)
    inside = n < places
    row, across, down, free_x, free_y, scale = _corner(grid, gain, n, inside, per_picture, height, width, SHARED, GAIN)
    at = row[:, None] * CHANNELS + c[None, :]
    mask = inside[:, None] & (c < CHANNELS)[None, :]
    asked = tl.load(gradient + n[:, None] * CHANNELS + c[None, :], mask=mask, other=0.0)
    below = width * CHANNELS
    # How much each corner's row says about what is asked.
    a = tl.sum(asked * tl.load(rows + at, mask=mask, other=0.0), axis=1)
    b = tl.sum(asked * tl.load(rows + at + CHANNELS, mask=mask, other=0.0), axis=1)
    d = tl.sum(asked * tl.load(rows + at + below, mask=mask, other=0.0), axis=1)
    e = tl.sum(asked * tl.load(rows + at + below + CHANNELS, mask=mask, other=0.0), axis=1)
    x = ((1 - down) * (b - a) + down * (e - d)) * scale * width / 2
    y = ((1 - across) * (d - a) + across * (e - b)) * scale * height / 2
    tl.store(to_grid + 2 * n, tl.where(free_x, x, 0.0), mask=inside)
    tl.store(to_grid + 2 * n + 1, tl.where(free_y, y, 0.0), mask=inside)
    if GAIN:
        read = (1 - down) * ((1 - across) * a + across * b) + down * ((1 - across) * d + across * e)
        tl.store(to_gain + n, read, mask=inside)
    if ROWS:
        share = asked * scale[:, None] if GAIN else asked
        tl.atomic_add(to_rows + at, share * ((1 - across) * (1 - down))[:, None], mask=mask)
        tl.atomic_add(to_rows + at + CHANNELS, share * (across * (1 - down))[:, None], mask=mask)
        tl.atomic_add(to_rows + at + below, share * ((1 - across) * down)[:, None], mask=mask)
        tl.atomic_add(to_rows + at + below + CHANNELS, share * (across * down)[:, None], mask=mask)


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, grid: Tensor, gain: Tensor | None, height: int, width: int) -> Tensor:
        """Rows (pictures * H * W, C), grid (B, h, w, 2), gain (B, 1, h, w), all float32 -> (B h w, C)."""
        shared = len(rows) == height * width
        ctx.save_for_backward(rows, grid, gain)
        ctx.size = (height, width)
        out = rows.new_empty(grid.numel() // 2, rows.shape[1])
        _read[(triton.cdiv(len(out), PLACES),)](
            rows, grid, gain if gain is not None else grid, out, *sizes(grid, height, width),
            **shapes(rows), SHARED=shared, GAIN=gain is not None,
        )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, grid, gain = ctx.saved_tensors
        gradient, wanted = gradient.contiguous(), ctx.needs_input_grad
        to_rows = torch.zeros_like(rows) if wanted[0] else rows
        to_grid = torch.empty_like(grid)
        to_gain = torch.empty_like(gain) if gain is not None else grid
        _give_back[(triton.cdiv(len(gradient), PLACES),)](
            rows, grid, gain if gain is not None else grid, gradient, to_rows, to_grid, to_gain,
            *sizes(grid, *ctx.size), **shapes(rows), SHARED=len(rows) == ctx.size[0] * ctx.size[1],
            GAIN=gain is not None, ROWS=wanted[0],
        )  # fmt: skip
        return to_rows if wanted[0] else None, to_grid, to_gain if gain is not None else None, None, None


def sizes(grid: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    return grid.numel() // 2, grid.shape[1] * grid.shape[2], height, width


def shapes(rows: Tensor) -> dict[str, Any]:
    return {"CHANNELS": rows.shape[1], "WIDE": triton.next_power_of_2(rows.shape[1]), "BLOCK": PLACES}


def sample_rows(source: Tensor, grid: Tensor, gain: Tensor | None = None) -> Tensor:
    """As `sample_rows` of channels_last.py: values, gradients, memory."""
    batch, channels, height, width = source.shape
    if source.stride(0) == 0:
        source = source[:1]
    rows = source.permute(0, 2, 3, 1).reshape(-1, channels).float()
    read = _Sample.apply(rows, grid.contiguous(), None if gain is None else gain.float().contiguous(), height, width)
    return read.view(batch, *grid.shape[1:3], channels).permute(0, 3, 1, 2)


@cache
def works(device: torch.device) -> bool:
    """Whether the kernels do on this device what PyTorch's operator does; tried once, and said if they do not."""
    draws = torch.Generator(device).manual_seed(0)
    source = torch.rand(2, 5, 8, 8, generator=draws, device=device).to(memory_format=torch.channels_last)
    grid = torch.rand(2, 6, 6, 2, generator=draws, device=device) * 2.4 - 1.2
    try:
        with torch.enable_grad():
            found = [_with_gradients(call, source, grid) for call in (sample_rows, _torch_s)]
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        print(f"emohead: warps by Triton do not work here ({told}); PyTorch's take their place", file=sys.stderr)
        return False
    return True


def _with_gradients(call: Any, source: Tensor, grid: Tensor) -> list[Tensor]:
    source, grid = source.detach().requires_grad_(), grid.detach().requires_grad_()
    read = call(source, grid)
    return [read.detach(), *torch.autograd.grad(read.square().sum(), [source, grid])]


def _torch_s(source: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(source, grid, padding_mode="border", align_corners=False)
