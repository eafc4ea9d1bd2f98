"""How much disk the checkpoints of a stage will take, computed without its weights."""

from typing import Any

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


def checkpoint_bytes(stage_type: type[Stage], config: Any, facts: DataFacts) -> tuple[int, int]:
    """Bytes of a checkpoint (weights and optimizer) and of the export of a stage.

    Raises UserError if a network cannot be made as configured, or a checkpoint it builds on cannot be read.
    """
    given = given_configs(stage_type, config)
    with Uninitialised():
        networks = stage_type.build(without_files(config), facts, given)
    trained = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    weights = sum(map(state_bytes, networks.values()))
    return weights + MOMENTS * sum(p.numel() for p in trained), state_bytes(networks["network"])


def state_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
