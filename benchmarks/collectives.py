"""Counts the collective operations of torch.distributed and the bytes that a rank sends in them."""

from collections import Counter
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The operator, what it is called here, the argument that holds the whole, and how often that goes round a ring.
OPERATORS = {
    "allreduce_": ("all-reduce", 0, 2),
    "allgather_": ("all-gather", 0, 1),
    "_allgather_base_": ("all-gather", 0, 1),
    "allgather_into_tensor_coalesced_": ("all-gather", 0, 1),
    "reduce_scatter_": ("reduce-scatter", 1, 1),
    "_reduce_scatter_base_": ("reduce-scatter", 1, 1),
    "reduce_scatter_tensor_coalesced_": ("reduce-scatter", 1, 1),
    "reduce_": ("reduce", 0, 1),
    "broadcast_": ("broadcast", 0, 1),
    "barrier": ("barrier", 0, 0),
}


class Traffic(TorchDispatchMode):
    """Counts while it is entered; bytes are those that a ring of all ranks needs, whatever a backend does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()  # bytes, by the same names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            kind, place, rounds = OPERATORS[func._opname]
            whole = sum(t.numel() * t.element_size() for t in tree_leaves(args[place]) if isinstance(t, Tensor))
            self.calls[kind] += 1
            self.sent[kind] += round(rounds * whole * (dist.get_world_size() - 1) / dist.get_world_size())
        return func(*args, **(kwargs or {}))
