"""When a run saves, and how it goes on from what was saved."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ...models.errors import UserError
from ..engines.ranks import from_first
from ..stage import Stage
from .checkpoints import Checkpoints, Report, Saved
from .preemption import Notice, Preempted
from .strategy import agreement_group, greatest


class Saving(pl.Callback):
    """Goes on from the newest sound checkpoint, saves every so often, at the best, when told to leave, and at the end.

    Comes after the callbacks that count and log a step. All ranks decide alike.
    """

    def __init__(self, checkpoints: Checkpoints, notice: Notice, report: Report) -> None:
        self.checkpoints = checkpoints
        self.notice = notice
        self.report = report
        self.saved: Saved | None = None
        self.group: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:  # the names are Lightning's
        """Weights go into the plain networks, before an engine shards them."""
        self.group = agreement_group()
        step = from_first(self.checkpoints.newest(self.report) if trainer.is_global_zero else None)
        if step is not None:
            self.saved = self.checkpoints.load(step)
            load_weights(pl_module, self.saved, self.checkpoints.path(step))

    def on_fit_start(self, trainer: pl.Trainer, stage: Any) -> None:
        if self.saved is None:
            return
        restore(stage, self.saved)
        counts = trainer.fit_loop.epoch_loop.batch_progress.total  # by which Lightning knows when to validate
        counts.ready = counts.started = counts.processed = counts.completed = stage.num_batches
        self.saved = None

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
        trainer.should_stop = stage.num_batches >= stage.config.trainer.max_steps  # it had finished before

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        c = stage.config.trainer
        reason = self.notice.reason
        told, by_hand = (found > 0 for found in greatest([reason is not None, self.notice.by_hand], self.group))
        done = stage.num_batches >= c.max_steps
        if done or told or stage.num_batches % c.checkpoint_every == 0:
            self.save(trainer, stage)
        if told and not done:
            raise Preempted(stage.num_batches, reason or "another rank was told to", by_hand=by_hand)
        trainer.should_stop = trainer.should_stop or done

    def on_validation_end(self, trainer: pl.Trainer, stage: Any) -> None:
        name, sign = stage.monitor.removeprefix("-"), -1 if stage.monitor.startswith("-") else 1
        score = trainer.callback_metrics.get(name)
        if score is None or not torch.isfinite(score) or not stage.num_batches:
            return
        is_best = trainer.is_global_zero and self.checkpoints.rank_best(sign * float(score), stage.num_batches)
        if from_first(is_best):
            self.save(trainer, stage)
        if trainer.is_global_zero:
            self.checkpoints.prune()

    def save(self, trainer: pl.Trainer, stage: Stage) -> None:
        """For all ranks together; none goes on before the checkpoint is complete."""
        saved = capture(stage, keep=trainer.is_global_zero)
        if trainer.is_global_zero:
            self.checkpoints.save(saved)
        trainer.strategy.barrier()


def capture(stage: Stage, *, keep: bool) -> Saved:
    """What goes into a checkpoint, on the CPU. For all ranks together; only those that `keep` it get tensors."""
    weights: dict[str, Tensor] = {}
    optimizer: dict[str, Tensor] = {}
    for name, module in stage.saved().items():
        with stage.engines[name].whole() if name in stage.engines else torch.no_grad():
            if keep:
                items = module.state_dict().items()
                weights |= {f"{name}.{key}": tensor.to("cpu", copy=True).contiguous() for key, tensor in items}
    for name, engine in stage.engines.items():
        optimizer |= {f"{name}.{key}": tensor.contiguous() for key, tensor in engine.state(keep=keep).items()}
    scales = {name: [engine.scale.scale, engine.scale.good_steps] for name, engine in stage.engines.items()}
    state = {"scales": scales, "skipped": stage.skipped, "world_size": stage.num_ranks}
    return Saved(stage.name, stage.num_batches, weights, optimizer, json.loads(json.dumps(state)))


def load_weights(stage: Stage, saved: Saved, path: Path) -> None:
    """Put saved weights into a stage without engines. Raises UserError where they are those of another network."""
    if saved.stage != stage.name:
        raise UserError(f"{path}: is of stage {saved.stage}, this run is of {stage.name}; set run= to another folder")
    for name, module in stage.saved().items():
        try:
            module.load_state_dict(under(name, saved.weights))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: does not fit the network of this emohead ({reason}); start a new run") from None
    stage.num_batches = saved.step


def restore(stage: Stage, saved: Saved) -> None:
    """Put the rest into a stage whose engines stand."""
    stage.skipped = saved.state["skipped"]
    for name, engine in stage.engines.items():
        engine.load_state(under(name, saved.optimizer))
        engine.scale.scale, engine.scale.good_steps = saved.state["scales"][name]


def under(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors called `name.…`, without that."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
