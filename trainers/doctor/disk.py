"""How much disk the checkpoints of a stage will take, computed without its weights."""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ...datamodules.module import DataFacts
from ..stage import Stage
from .tree import given_configs, without_files

MOMENTS = 2 * 4  # bytes that AdamW remembers of a trained number


class Uninitialised(TorchFunctionMode):
    """Leaves parameters as they were allocated: memory that nobody writes to takes neither time nor space."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = func in (torch.Tensor.normal_, torch.Tensor.uniform_)
        if drawn or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


class Bytes(NamedTuple):
    """What a stage writes."""

    checkpoint: int  # weights and optimizer
    frozen: int  # weights that never change, stored once for all checkpoints
    export: int


def checkpoint_bytes(stage_type: type[Stage], config: Any, facts: DataFacts) -> Bytes:
    """How much disk a stage takes.

    Raises UserError if a network cannot be made as configured, or a checkpoint it builds on cannot be read.
    """
    given = given_configs(stage_type, config)
    with Uninitialised():
        networks = stage_type.build(without_files(config), facts, given)
    trained = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    frozen = sum(map(frozen_bytes, networks.values()))
    weights = sum(map(state_bytes, networks.values())) - frozen
    return Bytes(weights + MOMENTS * sum(p.numel() for p in trained), frozen, state_bytes(networks["network"]))


def frozen_bytes(module: nn.Module) -> int:
    """Of the weights that are not trained; a network of nothing else, such as an average, changes all the same."""
    kinds = {p.requires_grad for p in module.parameters()}
    return sum(p.numel() * p.element_size() for p in module.parameters() if not p.requires_grad) if True in kinds else 0


def state_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
