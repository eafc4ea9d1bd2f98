"""Guards that stop a run before it does harm: steps that cannot be done are named, and too many of them end it."""

import json
import math
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ...models.errors import Failure
from ..engines.late import Late
from ..engines.ranks import all_objects
from ..stage import Stage
from .checkpoints import Checkpoints

BURST = 100  # steps without a skipped one that end a burst of them


class Done(NamedTuple):
    """A step that nobody has looked at yet."""

    step: int
    norms: dict[str, Late]
    losses: dict[str, Tensor]
    keys: list[str]  # of this rank's samples


class SkippedSteps:
    """Counts the steps that were left out for a loss or gradient that was not finite, and writes down their samples.

    A step is looked at when the next one has been asked for: until then a GPU may be at work on it. The norm of the
    averaged gradients is the same on all ranks, so they skip the same steps. In 16-mixed a few such steps are how the
    loss scale is found.
    """

    def __init__(self, path: Path, checkpoints: Checkpoints) -> None:
        self.path = path
        self.checkpoints = checkpoints
        self.in_a_row = 0
        self.latest: int | None = None  # skipped step
        self.done: Done | None = None

    def note(self, stage: Stage, own_keys: list[str]) -> None:
        """A step has been asked for."""
        self.done = Done(stage.num_batches, stage.norms, stage.logs, own_keys)

    def look(self, stage: Stage) -> bool:
        """At the step noted last, on all ranks together; raises Failure if too many in a row were skipped.

        Returns whether a burst of skipped steps began with it: none of those before was skipped.
        """
        done, self.done = self.done, None
        if done is None:
            return False
        skipped = [phase for phase, norm in done.norms.items() if not norm.read() < math.inf]
        if not skipped:
            self.in_a_row = 0
            return False
        self.in_a_row += 1
        stage.skipped += 1
        keys = [key for keys in all_objects(done.keys) for key in keys]
        if stage.global_rank == 0:
            self._write(stage, done, skipped, keys)
        began = self.latest is None or done.step - self.latest > BURST
        self.latest = done.step
        limit = stage.config.trainer.max_skipped
        if self.in_a_row >= limit:
            raise Failure(self._message(done.step, limit))
        return began

    def _write(self, stage: Stage, done: Done, skipped: list[str], keys: list[str]) -> None:
        losses = {name: float(value) for name, value in done.losses.items()}
        scales = {name: engine.scale.scale for name, engine in stage.engines.items() if engine.scale.enabled}
        row = {"step": done.step, "phases": skipped, "losses": losses, "keys": keys}
        with open(self.path, "a") as file:
            file.write(json.dumps(row | ({"loss_scale": scales} if scales else {})) + "\n")

    def _message(self, step: int, limit: int) -> str:
        good = self.checkpoints.steps()
        saved = f"the last good checkpoint is {self.checkpoints.path(good[-1])}" if good else "nothing was saved yet"
        return (
            f"{self.path}: {limit} steps in a row had no finite loss and gradient, up to step {step}; "
            f"{saved}; lower optimizer.lr or look at the samples named there (trainer.max_skipped={limit})"
        )
