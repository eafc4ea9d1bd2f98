"""The base of all stages: their declarations, one dict of loss terms, learning rate, export.

To add a stage: subclass `Stage` in a file of its own here, list it in all_stages.py, name the keys of its batch in
datamodules/batch.py, and ship a NAME-debug.yaml in configs/. Everything else about a run is in run/.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..datamodules.batch import Batch
from ..datamodules.config import DataConfig
from ..datamodules.module import DataFacts
from ..models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ..models.ranges import MAX_SEED, number
from .config import as_dict, value_of
from .engines.draws import Draws
from .engines.late import Late
from .engines.plain import Engine
from .engines.precision import REDUCED, settled
from .inputs import check_face_model, check_frame_size, check_held_out, check_parent
from .lightning_private import world_size
from .optimizer import OptimizerConfig, adamw, learning_rate_scale
from .tracking import TrackingConfig

SEED_STRIDE = 1_000_003  # steps of two runs with neighbouring seeds lie further apart than any run is long


@dataclass
class TrainerConfig:
    max_steps: int = number(1000, least=1)  # batches
    precision: str = "auto"  # 32-true, bf16-mixed, 16-mixed; auto: bf16-mixed if it is computed, not emulated
    tf32: bool = False  # NVIDIA GPUs may round float32 to 19 bits in products: faster; says nothing about bf16
    deterministic: bool = False  # GPUs: operators whose sums have an order, where there are any; slower
    accelerator: str = "auto"  # cpu, gpu or auto
    devices: int = number(1, least=1)  # processes on each node, one a device; auto: as many as there are GPUs
    nodes: int = number(1, least=1)  # machines; several need SLURM or torchrun
    strategy: str = "ddp"  # or deepspeed
    zero_stage: int = 2  # of deepspeed: 0, 1, 2 or 3
    offload: bool = False  # of deepspeed, stages 1 to 3: optimizer states in CPU memory
    accumulate: int = number(1, least=1)  # parts that a rank's share of a batch is cut into, one backward pass each
    compile: bool = False  # torch.compile for the large blocks of a network
    cuda_graphs: bool = False  # of compiled blocks: a GPU plays back what they do, and need not wait for Python
    recompute: bool = False  # activation checkpointing for them: less memory, a third more work
    log_every: int = number(20, least=1)  # steps between two rows of metrics.jsonl
    val_every: int = number(200, least=1)  # steps between two validations
    checkpoint_every: int = number(200, least=1)  # steps between two checkpoints
    keep_last: int = number(2, least=1)  # newest checkpoints that are kept
    keep_best: int = 1  # best checkpoints that are kept, by the stage's metric on val; the best of them is exported
    save_before: int = 120  # seconds before the end of a SLURM job's time at which a run saves and is requeued
    timeout: int = number(600, least=1)  # seconds that a rank may stand still before the job is ended
    max_skipped: int = number(10, least=1)  # steps in a row without a finite loss and gradient before the run stops
    threads: int = 0  # CPU threads of the main process, 0: torch's own choice, within a container's quota


@dataclass
class StageConfig:
    run: str = ""  # the run folder; empty: runs/<stage>
    seed: int = number(0, most=MAX_SEED)  # of first weights, order of samples and all draws
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


Config = TypeVar("Config", bound=StageConfig)


class Start(NamedTuple):
    """An export that a stage starts from."""

    key: str  # of the stage's configuration, with dots; holds the file
    kind: str  # of the export
    needed: bool = True

    def file(self, config: StageConfig) -> str:
        return value_of(config, self.key)


class Caution(NamedTuple):
    """A setting that trains, but not as one would think."""

    check: str  # a word or two
    problem: str
    remedy: str


class Film(NamedTuple):
    frames: np.ndarray  # (T, H, W, 3) uint8 RGB, 25 a second
    speech: np.ndarray  # float32 (N,) at 16 kHz


class Stage(pl.LightningModule, Generic[Config]):
    """Base of the stages.

    A subclass declares the class variables below and provides `build(config, facts, given)` (its networks), `network`
    (the one that is exported; has a dataclass `config`), `losses(batch)` (terms named `..._loss`), and
    `validate(batch)` (metrics, averaged over the split). `config.loss` holds a weight for each term. A batch is a
    rank's share of the global one; terms are means over samples, so that those of the ranks average to what one rank
    would find.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[StageConfig]]
    starts_from: ClassVar[tuple[Start, ...]] = ()
    weights: ClassVar[tuple[str, ...]] = ()  # keys that may hold a file of pretrained weights
    kind: ClassVar[str]  # of its export, KIND.safetensors
    monitor: ClassVar[str]  # the metric on val by which checkpoints are compared, with - if less is better
    figures: ClassVar[tuple[str, ...]]  # what a validation finds, all of it, without val/
    network: nn.Module

    @classmethod
    def build(cls, config: Config, facts: DataFacts, given: dict[str, Any]) -> dict[str, Any]:
        """The networks that a checkpoint holds by name, `network` first; without weights.

        given: the configuration of each export of `starts_from`, by kind.
        """
        raise NotImplementedError

    @classmethod
    def frame_size(cls, config: Config, given: dict[str, Any]) -> int | None:
        """Pixels a side of the frames that it takes; None if it takes any."""
        return None

    @classmethod
    def check(cls, config: Config) -> None:
        """Raises UserError about settings that no training may start with; a stage that is only built may have them."""

    @classmethod
    def cautions(cls, config: Config) -> list[Caution]:
        """Settings of this stage that a user should hear of before a run."""
        return []

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__()
        self.automatic_optimization = False
        # `train` has settled it before, by the run folder too: this is for a stage that is made by itself.
        config.trainer.precision = settled(config.trainer.precision, config.trainer.accelerator)
        self.config = config
        self.facts = facts
        # Batches trained on so far: position in the data, seed of a step's draws and clock of the learning rate. It is
        # kept in the checkpoint; run/loop.py counts it up.
        self.num_batches = 0
        self.inputs: dict[str, str] = {}  # kind of an export that this stage started from -> its SHA-256
        self.engines: dict[str, Engine] = {}  # by the names of `trained`; the strategy makes them
        self.skipped = 0  # steps left out so far for a loss or gradient that was not finite
        self.rows: range | None = None  # of the global batch that are worked on, while training
        self.last_part = True  # of a rank's share of the batch
        self.logs: dict[str, Tensor] = {}  # of the latest step: what is logged, scalars
        self.norms: dict[str, Late] = {}  # of the latest step: gradient norm of each update, not finite if skipped
        self.by_clip: dict[str, Tensor] = {}  # of the latest validation batch: figures (B,) of its clips, if any

    @classmethod
    def given(cls, config: Config) -> list[Start]:
        """Those of `starts_from` for which the configuration must give a file, or does."""
        return [start for start in cls.starts_from if start.needed or start.file(config)]

    def load_given(self) -> dict[str, Checkpoint]:
        """The exports that this stage starts from, by kind; they must go with each other and with the data."""
        found = {}
        for start in self.given(self.config):
            file = start.file(self.config)
            checkpoint, where = load_checkpoint(file, kind=start.kind), f"{start.key}={file}"
            check_held_out(self.config.data.holdout_emotions, where, checkpoint)
            check_face_model(self.facts.face_model.checksum(), where, checkpoint, "data.shards")
            found[start.kind] = checkpoint
        if {"emotion", "motion"} <= found.keys():  # which hears through that emotion space
            check_parent(found["motion"], f"motion={found['motion'].path}", found["emotion"])
        self.inputs = {kind: checkpoint.sha256 for kind, checkpoint in found.items()}
        return found

    def assemble(self, facts: DataFacts, given: dict[str, Checkpoint]) -> dict[str, Any]:
        """The networks of `build` for the exports that were loaded; the data must have the frames that they take."""
        configs = {kind: checkpoint.config for kind, checkpoint in given.items()}
        wanted = self.frame_size(self.config, configs)
        if wanted is not None:
            check_frame_size(wanted, facts.size)
        return self.build(self.config, facts, configs)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.losses(batch).items()}

    def metrics(self) -> dict[str, float]:
        """Figures of the whole validation split, after its last batch; the same on all ranks."""
        return {}

    def preview(self, batch: Batch) -> dict[str, np.ndarray | Film]:
        """Pictures (H, W, 3) uint8 and short videos of a validation batch, by name; kept in `samples/`."""
        return {}

    def trained(self) -> dict[str, nn.Module]:
        """The networks that are trained, an engine each, in the order of `configure_optimizers`."""
        return {"network": self.network}

    def saved(self) -> dict[str, nn.Module]:
        """The networks that a checkpoint holds."""
        return self.trained()

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms; a weight of 0 leaves a term out."""
        weighted = [value * value_of(self.config, f"loss.{name}") for name, value in losses.items()]
        return torch.stack(weighted).sum()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Seed and learning rate; forward and backward pass of each part; update. Motion and face have their own."""
        self.begin_step()
        for part in self.parts(batch):
            with self.autocast():
                losses = self.losses(part)
                total = self.total(losses)
            self.log_part(losses | {"loss": total})
            self.backpropagate("network", total)
        self.update("network")

    def begin_step(self) -> None:
        self.logs, self.norms = {}, {}
        # Nothing here draws from the global generator; what a library draws from it is a function of the position too.
        torch.manual_seed(self.step_seed())
        for name, engine in self.engines.items():
            engine.set_lr_scale(self.lr_scale(name))

    @property
    def position(self) -> int:
        """What draws follow from beside the seed: the step; of a validation 0, so that all validations compare."""
        return self.num_batches if self.training else 0

    def step_seed(self) -> int:
        """A seed for this step: a function of the run's seed and the position only."""
        return self.config.seed * SEED_STRIDE + self.position

    def lr_scale(self, name: str) -> float:
        """The share of its learning rate that an engine has at this step."""
        c = self.config
        steps = {"warmup_steps": c.optimizer.warmup_steps, "max_steps": c.trainer.max_steps}
        return learning_rate_scale(self.num_batches, **steps, final=c.optimizer.final_lr)

    def clip_norm(self, name: str) -> float:
        """The norm that the gradient of an engine is cut down to; math.inf: it stays as it is."""
        return self.config.optimizer.clip_norm

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """A rank's share of a batch, cut into the parts that are worked on at once."""
        size, count = len(batch["key"]), self.config.trainer.accumulate
        first = self.global_rank * size
        for part in range(count):
            cut = slice(size * part // count, size * (part + 1) // count)
            self.rows = range(first + cut.start, first + cut.stop)
            self.last_part = part == count - 1
            yield batch if count == 1 else {name: value[cut] for name, value in batch.items()}

    def log_part(self, terms: dict[str, Tensor]) -> None:
        """Note the terms of a part of the batch, which count as their mean over the parts."""
        for name, value in terms.items():
            share = value.detach().float() / self.config.trainer.accumulate
            self.logs[name] = self.logs[name] + share if name in self.logs else share

    def backpropagate(self, name: str, loss: Tensor) -> None:
        """The backward pass of a part of the batch, into the gradients of one engine."""
        # A loss that is not finite makes all gradients NaN: every rank sees it in their norm and skips the step.
        share = torch.where(torch.isfinite(loss.detach()), 1 / self.config.trainer.accumulate, math.nan)
        self.engines[name].backward(loss * share, last=self.last_part)

    def update(self, name: str, phase: str = "") -> None:
        """Step an engine and note its gradient norm."""
        self.norms[phase or name] = self.engines[name].step()

    def draws(self, batch: Batch, *seeds: int, device: torch.device | str = "cpu") -> Draws:
        """Random numbers of this step for the samples of (a part of) the batch."""
        seeds = (self.config.seed, self.position, *seeds)
        size = len(batch["key"])
        if self.rows is None:
            return Draws(*seeds, rows=range(size), total=size, device=device)
        total = size * self.config.trainer.accumulate * self.num_ranks
        return Draws(*seeds, rows=self.rows, total=total, device=device)

    @property
    def num_ranks(self) -> int:
        return world_size(self)

    def autocast(self) -> Any:
        """Around forward passes: reduced precision as configured. One for each pass: its cache holds cast weights."""
        dtype = REDUCED.get(self.config.trainer.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    @torch.no_grad()
    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self.rows = None
        with self.autocast():
            return self.validate(batch)

    def configure_optimizers(self) -> list[Optimizer]:
        return [adamw(module, self.config.optimizer) for module in self.trained().values()]

    def export_tensors(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def export(self, path: Path, provenance: dict[str, Any]) -> str:
        """Write what the next stage starts from; returns the checksum of the weights."""
        config = as_dict(self.network.config)
        return save_checkpoint(path, self.export_tensors(), kind=self.kind, config=config, provenance=provenance)
