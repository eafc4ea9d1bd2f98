"""What a rank holds of the tensors of a run, and which part of them it saves.

Values count in the order of the flattened tensor, whatever their order in memory. So a part of a tensor is a range, and
a checkpoint of any ZeRO stage and number of ranks can be read by any other.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Share(NamedTuple):
    """A range of a tensor's values."""

    values: Tensor  # of any shape
    shape: torch.Size  # of the whole tensor
    start: int = 0  # of the range, in the flattened tensor
    everywhere: bool = True  # every rank holds the same range


class Source(Protocol):
    """Saved tensors, of which any range can be read."""

    def __contains__(self, name: object) -> bool: ...

    def part(self, name: str, start: int, numel: int) -> Tensor:
        """Values `start` to `start + numel` of the flattened tensor, on the CPU; not to be written to."""


def to_save(shares: dict[str, Share], rank: int, num_ranks: int) -> dict[str, Share]:
    """The shares that a rank saves: what it alone holds, and a piece of what all hold.

    What all hold is thought of as laid end to end and cut into equal pieces, one for each rank. Every rank brings the
    same names in the same order.
    """
    count = sum(share.values.numel() for share in shares.values() if share.everywhere)
    first, last = count * rank // num_ranks, count * (rank + 1) // num_ranks
    found, at = {}, 0
    for name, share in shares.items():
        numel = share.values.numel()
        start, stop = (max(first - at, 0), min(last - at, numel)) if share.everywhere else (0, numel)
        if start < stop or (numel == rank == 0 and share.everywhere):  # a tensor without values has a place too
            values = share.values.detach()
            if stop - start < numel:  # others stay views, also of memory in another order
                values = values.reshape(-1)[start:stop]
            found[name] = Share(values, share.shape, share.start + start, everywhere=False)
        at += numel if share.everywhere else 0
    return found
