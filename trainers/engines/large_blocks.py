"""The blocks in which large networks spend their time and memory, and two ways to make them take less."""

import inspect
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ...models.audio import Block
from ...models.face import Level

# The last one is open_clip's. Blocks with batch statistics are left out: a second pass would count a batch twice.
NAMES = {Block.__name__, Level.__name__, "ResidualAttentionBlock"}


def large_blocks(network: nn.Module) -> list[nn.Module]:
    """The transformer blocks and the levels of the face generator within a network."""
    return [module for module in network.modules() if type(module).__name__ in NAMES]


def recompute(network: nn.Module) -> None:
    """Keep only the inputs of each block, and do its forward pass again in the backward pass (Chen et al. 2016)."""
    for block in large_blocks(network):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def compile_blocks(network: nn.Module, *, cuda_graphs: bool = False) -> None:
    """Compile each block by itself: transformer blocks share their code, and what lies between stays plain Python.

    No two levels have the same shape. So each gets its own code: one code for any shape fails. A torch that cannot keep
    recompilations apart counts them together, and has a limit for it.

    cuda_graphs: a GPU plays back what a block does, in place of Python asking for each operator. `begin_graphs` is to
    be called before each step.
    """
    mode = "reduce-overhead" if cuda_graphs else None
    apart = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
    for block in large_blocks(network):
        if isinstance(block, Level):
            block.compile(dynamic=False, mode=mode, **apart)
        else:
            block.compile(mode=mode)


def begin_graphs() -> None:
    """What the graphs of the step before have given may be written over."""
    torch.compiler.cudagraph_mark_step_begin()
