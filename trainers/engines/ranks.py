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
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(num_ranks())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Every rank computes the whole loss, so the gradients of all ranks for these rows are summed."""
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.rows
        return gradient[first : first + ctx.rows]


def all_rows(x: Tensor) -> Tensor:
    """(B, ...) of each rank -> (ranks B, ...) in the order of ranks, with gradients. B is the same on all."""
    return x if num_ranks() == 1 else _AllRows.apply(x)


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
