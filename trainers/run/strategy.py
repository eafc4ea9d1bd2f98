"""How a run is spread over processes: one Lightning strategy for both kinds of engines, on GPUs and CPUs.

Lightning starts the processes, joins them and moves data; the stage's networks stay plain modules, and what trains them
are engines. Lightning's own DeepSpeed strategy takes one optimizer and no CPU.
"""

import os
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import nn

from ..engines.batch_norm import use_global_statistics
from ..engines.deepspeed import DeepSpeedEngine
from ..engines.large_blocks import compile_blocks, recompute
from ..engines.plain import Engine, LossScale, PlainEngine
from ..engines.ranks import from_first
from ..stage import Stage, TrainerConfig


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine where nobody else does, and looks after them until all have joined.

    From then on the watchdog does; Lightning would kill all of them at once, whatever they have to say.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.joined = threading.Event()

    def launch(self, function: Callable, *arguments: Any, trainer: Any = None, **keywords: Any) -> Any:
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            threading.Thread(target=self._look_after, daemon=True).start()
        return function(*arguments, **keywords)

    def _look_after(self) -> None:
        while not self.joined.wait(0.2):
            for rank, process in enumerate(self.procs, start=1):
                if process.poll():
                    line = f"emohead: process {rank} ended with code {process.returncode} before all had joined"
                    print(line, file=sys.stderr, flush=True)
                    os._exit(2 if process.returncode == 2 else 1)


class EngineStrategy(DDPStrategy):
    """Gives a stage an engine for each network that it trains."""

    def __init__(self, config: TrainerConfig, clip_norm: float, environment: ClusterEnvironment) -> None:
        timeout = timedelta(seconds=config.timeout + 60)  # the watchdog knows more to say: it comes first
        super().__init__(cluster_environment=environment, timeout=timeout)
        self.config = config
        self.clip_norm = clip_norm

    @property
    def alone(self) -> bool:
        """One process that needs no others: then there is no process group, and nothing to fail in one."""
        return self.config.strategy == "ddp" and self.config.nodes * self.config.devices == 1

    def _configure_launcher(self) -> None:
        self._launcher = None if self.alone else Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_distributed(self) -> None:
        if self.alone:
            self.set_world_ranks()
            return
        super().setup_distributed()
        self._launcher.joined.set()

    def setup(self, trainer: pl.Trainer) -> None:
        stage = self.lightning_module
        assert isinstance(stage, Stage)
        self.accelerator.setup(trainer)
        self.config.precision = from_first(self.config.precision)  # each rank has settled `auto` for its own machine
        if not self.alone:
            use_global_statistics(stage)
        self.model_to_device()
        if self.config.recompute:
            recompute(stage.network)
        if self.config.compile:
            compile_blocks(stage.network)
        self.setup_optimizers(trainer)
        optimizers = zip(stage.trained().items(), self.optimizers, strict=True)
        stage.engines = {name: self.engine(module, optimizer) for (name, module), optimizer in optimizers}

    def engine(self, module: nn.Module, optimizer: Any) -> Engine:
        scale = LossScale(self.config.precision == "16-mixed")
        if self.config.strategy == "ddp":
            return PlainEngine(module, optimizer, clip_norm=self.clip_norm, scale=scale)
        return DeepSpeedEngine(
            module,
            optimizer,
            clip_norm=self.clip_norm,
            scale=scale,
            zero_stage=self.config.zero_stage,
            offload=self.config.offload,
            device=self.root_device,
            local_rank=self.local_rank,
        )

    def teardown(self) -> None:
        """Lightning would move the network to the CPU, which a sharded one cannot; and leave the group to the exit."""
        self.accelerator.teardown()

    def leave(self) -> None:
        """Take leave of the other ranks, at the end of a run that went well on all of them."""
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()


def agreement_group() -> Any:
    """A group in which ranks exchange flags without a GPU having to wait for it; None where there is one rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def greatest(values: list[float], group: Any) -> list[float]:
    """Of each value, the greatest over the ranks."""
    if group is None:
        return values
    together = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(together, op=dist.ReduceOp.MAX, group=group)
    return together.tolist()
