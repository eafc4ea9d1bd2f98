"""How a run is spread over processes: one Lightning strategy for both kinds of engines, on GPUs and CPUs.

Lightning starts the processes, joins them and moves data; the stage's networks stay plain modules, and what trains them
are engines. Lightning's own DeepSpeed strategy takes one optimizer and no CPU.
"""

import os
import sys
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from ..engines.batch_norm import use_global_statistics
from ..engines.deepspeed import DeepSpeedEngine, shard
from ..engines.large_blocks import begin_graphs, compile_blocks, recompute
from ..engines.plain import Engine, LossScale, PlainEngine
from ..engines.ranks import from_first
from ..lightning_private import Launcher, set_launcher
from ..stage import Stage, TrainerConfig
from .cluster import STARTED_BY
from .gpu import beside_the_work, settle_interface, stay_near

LONG = 2.0  # seconds of a step beside which an exchange of a few numbers is nothing


def look_after(launcher: Launcher) -> None:
    """Watch the other processes of this machine until all have joined; from then on the watchdog does."""
    while not launcher.joined.wait(0.2):
        for rank, process in enumerate(launcher.procs, start=1):
            if process.poll():
                line = f"emohead: process {rank} ended with code {process.returncode} before all had joined"
                print(line, file=sys.stderr, flush=True)
                os._exit(2 if process.returncode == 2 else 1)


class EngineStrategy(DDPStrategy):
    """Gives a stage an engine for each network that it trains."""

    def __init__(self, config: TrainerConfig, environment: ClusterEnvironment) -> None:
        timeout = timedelta(seconds=config.timeout + 60)  # the watchdog has more to say, so it comes first
        super().__init__(cluster_environment=environment, timeout=timeout)
        self.config = config
        self.starter: Launcher | None = None

    @property
    def alone(self) -> bool:
        """One process that needs no others: then there is no process group, and nothing to fail in one."""
        return self.config.strategy == "ddp" and self.config.nodes * self.config.devices == 1

    def _configure_launcher(self) -> None:
        shape = (self.cluster_environment, self.num_processes, self.num_nodes)
        self.starter = None if self.alone else Launcher(look_after, *shape)
        os.environ[STARTED_BY] = str(os.getpid())  # the others read it
        set_launcher(self, self.starter)

    def setup_distributed(self) -> None:
        if self.starter is None:
            self.set_world_ranks()
            return
        assert self.cluster_environment is not None
        if self.config.nodes > 1:
            settle_interface(self.cluster_environment.main_address)
        super().setup_distributed()
        self.starter.joined.set()

    def setup(self, trainer: pl.Trainer) -> None:
        stage = self.lightning_module
        assert isinstance(stage, Stage)
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        if self.root_device.type == "cuda":
            stay_near(torch.cuda.get_device_properties(self.root_device))
        self.config.precision = from_first(self.config.precision)  # each rank has settled `auto` for its own machine
        if not self.alone:
            use_global_statistics(stage, self.root_device)
        if self.config.recompute:
            recompute(stage.network)
        if self.config.compile:
            compile_blocks(stage.network, cuda_graphs=self.config.cuda_graphs)
        self.setup_optimizers(trainer)
        if self.config.strategy == "deepspeed" and self.config.zero_stage == 3:
            for module in stage.trained().values():
                shard(module, device=self.root_device, local_rank=self.local_rank)
        self.model_to_device()
        optimizers = zip(stage.trained().items(), self.optimizers, strict=True)
        stage.engines = {name: self.engine(m, optimizer, stage.clip_norm(name)) for (name, m), optimizer in optimizers}

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        with beside_the_work(self.root_device) as arrived:
            return arrived(super().batch_to_device(batch, device, dataloader_idx))

    def training_step(self, *arguments: Any, **keywords: Any) -> Any:
        if self.config.cuda_graphs:
            begin_graphs()
        return super().training_step(*arguments, **keywords)

    def engine(self, module: nn.Module, optimizer: Any, clip_norm: float) -> Engine:
        scale = LossScale(self.config.precision == "16-mixed")
        if self.config.strategy == "ddp":
            return PlainEngine(module, optimizer, clip_norm=clip_norm, scale=scale)
        return DeepSpeedEngine(
            module,
            optimizer,
            clip_norm=clip_norm,
            scale=scale,
            zero_stage=self.config.zero_stage,
            offload=self.config.offload,
            device=self.root_device,
            local_rank=self.local_rank,
        )

    def teardown(self) -> None:
        """Lightning would move the network to the CPU, which a sharded one cannot; and leave the group to the exit."""
        assert self.accelerator is not None
        self.accelerator.teardown()

    def leave(self) -> None:
        """Take leave of the other ranks, at the end of a run that went well on all of them."""
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()


class Agreement:
    """Numbers that ranks exchange without a GPU having to wait for it."""

    def __init__(self) -> None:
        self.group: Any = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            self.group = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        self.pending: tuple[torch.Tensor, Any] | None = None
        self.asked = time.monotonic()

    def greatest(self, values: list[float]) -> list[float]:
        """Of each value that the ranks gave the last time, the greatest; of those given now, if there was no last time.

        One call is under way while the ranks work on the next step, so that none waits: with hundreds of ranks an
        exchange takes tens of milliseconds. Where a step takes LONG, which all ranks learn alike, that is little beside
        a step by which a run would leave later: then the values are those given now.
        """
        if self.group is None:
            return values
        now, before = time.monotonic(), self.asked
        self.asked, told = now, [*values, now - before]
        together, work = self.pending or self._send(told)
        work.wait()
        self.pending = self._send(told)
        if together[-1] > LONG:
            together, work = self.pending
            work.wait()
            self.pending = None
        return together[:-1].tolist()

    def at_once(self) -> None:
        """Have the next call tell what is given then. For all ranks together."""
        if self.pending is not None:
            self.pending[1].wait()
            self.pending = None

    def _send(self, values: list[float]) -> tuple[torch.Tensor, Any]:
        together = torch.tensor(values, dtype=torch.float64)
        return together, dist.all_reduce(together, op=dist.ReduceOp.MAX, group=self.group, async_op=True)
