"""Saves a run, and lets it go on from there.

`load_weights` gives a stage its position, the number of batches that it was trained on. The loader of
datamodules/module.py starts there, draws and learning rates follow from it, and loop.py counts on.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...models.errors import UserError
from ..engines.ranks import from_first
from ..stage import Stage
from .checkpoints import Checkpoints, Report, Saved
from .preemption import Notice
from .strategy import Agreement


class Leave(NamedTuple):
    """The run is to end: by Ctrl-C, by a signal or the end of the job's time, or because others are better."""

    reason: str
    by_hand: bool
    pruned: bool


class Saver:
    """Goes on from the newest sound checkpoint, saves, keeps the best. All ranks call each method together."""

    def __init__(self, checkpoints: Checkpoints, notice: Notice, report: Report) -> None:
        self.checkpoints = checkpoints
        self.notice = notice
        self.report = report
        self.saved: Saved | None = None
        self.agreement: Agreement | None = None

    def load_weights(self, stage: Stage) -> None:
        """Find the checkpoint to go on from, if any, and put its weights into the stage."""
        self.agreement = Agreement()
        step = from_first(self.checkpoints.newest(self.report) if stage.global_rank == 0 else None)
        if step is not None:
            self.saved = self.checkpoints.load(step)
            load_weights(stage, self.saved, self.checkpoints.path(step))

    def restore(self, stage: Stage) -> None:
        """Put the rest of that checkpoint into the stage, whose engines stand by now."""
        if self.saved is not None:
            restore(stage, self.saved)
        self.saved = None

    def asked_to_leave(self) -> Leave | None:
        """Why the run is to end, if any rank has been told to by the end of the step before, or of a validation."""
        assert self.agreement is not None
        notice, reason = self.notice, self.notice.reason or self.notice.verdict
        flags: list[float] = [reason is not None, notice.by_hand, notice.verdict is not None]
        told, by_hand, pruned = (found > 0 for found in self.agreement.greatest(flags))
        return Leave(reason or "another rank was told to", by_hand, pruned) if told else None

    def save(self, stage: Stage) -> None:
        """No rank goes on before the checkpoint is complete."""
        saved = capture(stage, keep=stage.global_rank == 0)
        if stage.global_rank == 0:
            self.checkpoints.save(saved)
        stage.trainer.strategy.barrier()

    def keep_if_best(self, stage: Stage, values: dict[str, float]) -> None:
        """Save if the stage's figure of this validation is among the best; drop checkpoints that are too many."""
        name, sign = stage.monitor.removeprefix("-"), -1 if stage.monitor.startswith("-") else 1
        score = values.get(name)
        if score is None or not math.isfinite(score) or not stage.num_batches:
            return
        first = stage.global_rank == 0
        if from_first(first and self.checkpoints.rank_best(sign * score, stage.num_batches)):
            self.save(stage)
        if first:
            self.checkpoints.prune()


def capture(stage: Stage, *, keep: bool) -> Saved:
    """The contents of a checkpoint, on the CPU. For all ranks together; only those that `keep` it get tensors."""
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
    """Put saved weights into a stage without engines. Raises UserError if they are those of another network."""
    if saved.stage != stage.name:
        raise UserError(path, f"is of stage {saved.stage}, this run is of {stage.name}", "set run= to another folder")
    for name, module in stage.saved().items():
        try:
            module.load_state_dict(under(name, saved.weights))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(path, f"does not fit the network of this emohead ({reason})", "start a new run") from None
    stage.num_batches = saved.step


def restore(stage: Stage, saved: Saved) -> None:
    """Put the rest into a stage whose engines stand."""
    stage.skipped = saved.state["skipped"]
    for name, engine in stage.engines.items():
        engine.load_state(under(name, saved.optimizer))
        engine.scale.scale, engine.scale.good_steps = saved.state["scales"][name]


def under(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors called `name.…`, without that prefix."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
