"""Exchanges between the ranks of a run. In a run of one process each of these returns its argument."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *own: Tensor) -> tuple[Tensor, ...]:
        """Tensors of any types travel as bytes, so that one exchange does for all."""
        flat = torch.cat([x.contiguous().view(-1).view(torch.uint8) for x in own])
        whole = flat.new_empty(num_ranks() * len(flat))
        dist.all_gather_single(whole, flat)
        parts = whole.view(num_ranks(), -1).split([x.numel() * x.element_size() for x in own], dim=1)
        values = (part.contiguous().view(-1).view(x.dtype) for part, x in zip(parts, own, strict=True))
        rows = [value.view(-1, *x.shape[1:]) for value, x in zip(values, own, strict=True)]
        ctx.mark_non_differentiable(*[x for x in rows if not x.is_floating_point()])
        return tuple(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Every rank computes a loss of all rows, so the gradients of all ranks for its own rows are summed."""
        asked = [g for g, needed in zip(gradients, ctx.needs_input_grad, strict=True) if needed]
        flat = torch.cat([g.reshape(num_ranks(), -1) for g in asked], dim=1)  # (ranks, numbers of a rank)
        own = flat.new_empty(flat.shape[1])
        dist.reduce_scatter_single(own, flat.view(-1))
        sizes = [g.numel() // num_ranks() for g in asked]
        parts = iter([part.view(-1, *g.shape[1:]).to(g.dtype) for part, g in zip(own.split(sizes), asked, strict=True)])
        return tuple(next(parts) if needed else None for needed in ctx.needs_input_grad)


def all_rows(*own: Tensor) -> tuple[Tensor, ...]:
    """Each (B, ...) of each rank -> (ranks B, ...) in the order of ranks, with gradients. B is the same on all.

    What is asked for at once travels at once: with hundreds of ranks it is the number of exchanges that takes time.
    """
    return own if num_ranks() == 1 else _AllRows.apply(*own)


def own_rows(count: int) -> slice:
    """The place of this rank's `count` rows among those of `all_rows`."""
    return slice(rank() * count, (rank() + 1) * count)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def mean(x: Tensor) -> Tensor:
    """The mean over the ranks, with gradients."""
    return x if num_ranks() == 1 else _Sum.apply(x) / num_ranks()


def mean_of_all(values: dict[str, Tensor], device: torch.device) -> dict[str, float]:
    """Scalars of each rank -> their means, in one exchange. Every rank brings the same names."""
    if not values:
        return {}
    together = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device) for value in values.values()])
    if num_ranks() > 1:
        dist.all_reduce(together)
        together /= num_ranks()
    return dict(zip(values, together.tolist(), strict=True))


def all_objects(x: T) -> list[T]:
    """One object of each rank -> all of them, in the order of ranks. Small ones: they are pickled."""
    if num_ranks() == 1:
        return [x]
    found: list[Any] = [None] * num_ranks()
    dist.all_gather_object(found, x)
    return found


def from_first(x: T) -> T:
    """Rank 0's object on every rank."""
    if num_ranks() == 1:
        return x
    holder = [x]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]
