"""What the stages have in common: one dict of loss terms, weights from the config, learning rate, export.

A stage subclasses `Stage`, sets `network`, and says what its losses are. Everything else about a run is in run.py.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ..datamodules.batch import Batch
from ..datamodules.stream import DataConfig, DataFacts
from ..models.checkpoint import save_checkpoint
from .config import as_dict


@dataclass
class OptimizerConfig:
    lr: float = 3e-4
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    warmup_steps: int = 50
    final_lr: float = 0.05  # share of lr left at the last step (cosine)
    clip_norm: float = 1.0


@dataclass
class TrainerConfig:
    max_steps: int = 1000  # batches
    precision: str = "bf16-mixed"  # or 32-true
    accelerator: str = "auto"
    devices: int = 1
    log_every: int = 20
    val_every: int = 200
    checkpoint_every: int = 200
    threads: int = 0  # CPU threads of the main process, 0: torch's own choice


@dataclass
class TrackingConfig:
    wandb: str = "offline"  # online, offline or disabled
    project: str = "emohead"


@dataclass
class StageConfig:
    run: str = ""  # the run folder; empty: runs/<stage>
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def learning_rate_scale(step: int, *, warmup_steps: int, max_steps: int, final: float) -> float:
    """Linear warm-up, then a half cosine from 1 down to `final`. A pure function of the step: nothing to restore."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


class Stage(pl.LightningModule):
    """Base of the four stages.

    A subclass provides `name` (emotion, motion, face, distill), `kind` (of its export), `network` (what is exported;
    has a dataclass `config`), `losses(batch)` (terms named `..._loss`), and `validate(batch)` (metrics, averaged over
    the split). `config.loss` holds a weight for each term.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    network: nn.Module

    def __init__(self, config: Any, facts: DataFacts) -> None:
        super().__init__()
        self.config = config
        self.facts = facts
        self.num_batches = 0  # batches trained on so far: the whole position in the data, kept in the checkpoint
        self.inputs: dict[str, str] = {}  # checkpoint this stage was built on -> its SHA-256

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.losses(batch).items()}

    def preview(self, batch: Batch) -> dict[str, np.ndarray]:
        """Pictures (H, W, 3) uint8 of a validation batch, by name; kept in `samples/`."""
        return {}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms; a weight of 0 leaves a term out."""
        weighted = [value * getattr(self.config.loss, name) for name, value in losses.items()]
        return torch.stack(weighted).sum()

    def log_losses(self, losses: dict[str, Tensor]) -> None:
        # "step" names the row for the loggers: Lightning's own count starts at 0 and counts some steps twice.
        step = {"step": float(self.num_batches + 1)}
        self.log_dict(step | {f"train/{name}": value.detach() for name, value in losses.items()})

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        total = self.total(losses)
        if not torch.isfinite(total):
            terms = {name: float(value) for name, value in losses.items()}
            raise FloatingPointError(f"step {self.num_batches}: loss is not finite: {terms}; clips: {batch['key']}")
        self.log_losses(losses | {"loss": total})
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        metrics = self.validate(batch)
        size = len(batch["key"])
        step = {"step": float(self.num_batches)}
        self.log_dict(step | {f"val/{name}": value for name, value in metrics.items()}, batch_size=size, on_epoch=True)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        c = self.config
        # Dropout and the like draw from the global generator: seeded by position, a resumed run draws the same.
        torch.manual_seed((c.seed * 1_000_003 + self.num_batches) * 4099 + self.global_rank)
        scale = learning_rate_scale(
            self.num_batches,
            warmup_steps=c.optimizer.warmup_steps,
            max_steps=c.trainer.max_steps,
            final=c.optimizer.final_lr,
        )
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * scale

    def configure_optimizers(self) -> Any:
        c = self.config.optimizer
        parameters = [p for p in self.parameters() if p.requires_grad]
        decayed = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]  # norms, biases and temperatures are not decayed
        groups = [{"params": decayed, "weight_decay": c.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=c.lr, betas=(c.beta1, c.beta2))

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.clip_gradients(
            optimizer, gradient_clip_val=self.config.optimizer.clip_norm, gradient_clip_algorithm="norm"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage"] = self.name
        checkpoint["num_batches"] = self.num_batches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.num_batches = checkpoint["num_batches"]

    def export_tensors(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def export(self, path: Path, provenance: dict[str, Any]) -> str:
        """Write what the next stage starts from; returns the checksum of the weights."""
        config = as_dict(self.network.config)
        return save_checkpoint(path, self.export_tensors(), kind=self.kind, config=config, provenance=provenance)
