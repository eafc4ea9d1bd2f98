"""Saves a run, and lets it go on from there.

`load_weights` gives a stage its position, the number of batches that it was trained on. The loader of
datamodules/module.py starts there, draws and learning rates follow from it, and loop.py counts on.
"""

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models.errors import UserError
from ..engines.ranks import from_first, num_ranks, rank
from ..engines.shares import Share, to_save
from ..stage import Stage, TrainerConfig
from .background import Background, Save
from .checkpoints import Checkpoints, Report
from .part_file import HostMemory, Part
from .preemption import Notice
from .stored import Stored
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
        self.stored: Stored | None = None
        self.latest = 0  # step of the last checkpoint, complete or being written
        self.memory = HostMemory()
        self.frozen: set[str] = set()  # names of the weights that are in a file of frozen ones
        self.agreement: Agreement | None = None
        self.background: Background | None = None

    def load_weights(self, stage: Stage) -> None:
        """Find the checkpoint to go on from, if any, and put its weights into the stage."""
        self.agreement, self.background = Agreement(), Background(self.checkpoints)
        if stage.global_rank == 0:
            self.checkpoints.sweep()
        stored = self.stored = self.checkpoints.newest(self.report)
        if stored is not None:
            load_weights(stage, stored, left=stage.trained() if sharded(stage.config.trainer) else ())
            self.latest, self.background.frozen = stored.step, stored.frozen()
            self.frozen = set(self.background.frozen["pieces"]) if self.background.frozen else set()

    def restore(self, stage: Stage) -> None:
        """Put the rest of that checkpoint into the stage, whose engines stand by now."""
        if self.stored is not None:
            restore(stage, self.stored)
        self.stored = None

    def asked_to_leave(self) -> Leave | None:
        """Why the run is to end, if any rank has been told to by the end of the step before, or of a validation.

        Raises the error of a checkpoint that could not be written, on all ranks.
        """
        assert self.agreement is not None
        assert self.background is not None
        notice, reason = self.notice, self.notice.reason or self.notice.verdict
        flags: list[float] = [reason is not None, notice.by_hand, notice.verdict is not None, self.background.failed]
        told, by_hand, pruned, failed = (found > 0 for found in self.agreement.greatest(flags))
        if failed:
            self.background.finish()
        return Leave(reason or "another rank was told to", by_hand, pruned) if told else None

    def save(self, stage: Stage) -> None:
        """Copy what a checkpoint holds, and have it written while the training goes on."""
        assert self.background is not None
        if stage.num_batches == self.latest:
            return
        self.background.finish()
        part = self.memory.hold(to_save(shares_of(stage), rank(), num_ranks()))
        frozen = self._hold_frozen(stage)
        self.background.begin(Save(stage.name, stage.num_batches, state_of(stage), part, frozen))
        self.latest = stage.num_batches

    def _hold_frozen(self, stage: Stage) -> Part | None:
        """A copy of the weights that never change, on rank 0; None if a file holds them already, or there are none."""
        names = {f"{name}.weights.{key}" for name, engine in stage.engines.items() for key in engine.frozen_names}
        assert self.background is not None
        if names == self.frozen:
            return None
        self.frozen, self.background.frozen = names, None
        kept: dict[str, Share] = {}
        for name, engine in stage.engines.items():
            for key, weights in engine.frozen():
                if stage.global_rank == 0:
                    kept[f"{name}.{key}"] = Share(weights.to("cpu", copy=True), weights.shape)
        return HostMemory().hold(kept) if kept else None

    def finish(self) -> None:
        """Have the last checkpoint complete; raises its error if it cannot be written."""
        assert self.background is not None
        self.background.finish()
        if rank() == 0:
            self.checkpoints.prune()  # a validation may have found another best since it was written

    def leave(self) -> None:
        """Have the last checkpoint complete, if that can be, in a run that has failed."""
        if self.background is not None:
            self.background.leave(self.report)

    def keep_if_best(self, stage: Stage, values: dict[str, float]) -> None:
        """Save if the stage's figure of this validation is among the best; then fewer others are kept."""
        name, sign = stage.monitor.removeprefix("-"), -1 if stage.monitor.startswith("-") else 1
        score = values.get(name)
        if score is None or not math.isfinite(score) or not stage.num_batches:
            return
        if from_first(stage.global_rank == 0 and self.checkpoints.rank_best(sign * score, stage.num_batches)):
            self.save(stage)


def shares_of(stage: Stage) -> dict[str, Share]:
    """What this rank holds of a checkpoint, by reference; frozen weights are left out."""
    found: dict[str, Share] = {}
    for name, module in stage.saved().items():
        if name in stage.engines:
            held = stage.engines[name].shares()
        else:
            held = {f"weights.{key}": Share(tensor, tensor.shape) for key, tensor in module.state_dict().items()}
        found |= {f"{name}.{key}": share for key, share in held.items()}
    return found


def state_of(stage: Stage) -> dict[str, Any]:
    """What a checkpoint holds besides tensors; plain containers."""
    scales = {name: [engine.scale.scale, engine.scale.good_steps] for name, engine in stage.engines.items()}
    return {"scales": scales, "skipped": stage.skipped, "world_size": stage.num_ranks}


def sharded(config: TrainerConfig) -> bool:
    """Whether each rank holds a part of the networks that are trained."""
    return config.strategy == "deepspeed" and config.zero_stage == 3


def load_weights(stage: Stage, stored: Stored, *, left: Collection[str] = ()) -> None:
    """Put saved weights into a stage that holds its networks. Raises UserError if they are those of other networks.

    left: networks whose parameters are left to their engines, which read no more than their ranks hold.
    """
    path = stored.folder
    if stored.stage != stage.name:
        raise UserError(path, f"is of stage {stored.stage}, this run is of {stage.name}", "set run= to another folder")
    for name, module in stage.saved().items():
        own = {key for key, _ in module.named_parameters(remove_duplicate=False)} if name in left else set()
        try:
            module.load_state_dict(weights_of(stored, name, own))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(path, f"does not fit the network of this emohead ({reason})", "start a new run") from None
    stage.num_batches = stored.step


def weights_of(stored: Stored, network: str, left: set[str]) -> dict[str, Tensor]:
    """The saved weights of a network; of those `left` to others only the shape is true."""
    prefix, found = f"{network}.weights.", {}
    for name in stored.tensors:
        if name.startswith(prefix):
            key = name.removeprefix(prefix)
            found[key] = torch.zeros(()).expand(stored.shape(name)) if key in left else stored.whole(name)
    return found


def restore(stage: Stage, stored: Stored) -> None:
    """Put the rest into a stage whose engines stand."""
    stage.skipped = stored.state["skipped"]
    for name, engine in stage.engines.items():
        engine.load(stored.under(name))
        engine.scale.scale, engine.scale.good_steps = stored.state["scales"][name]
