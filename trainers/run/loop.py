"""A run from its first step to its last: what happens around a step and around a validation, in order.

Lightning calls the hooks below, and between `on_train_batch_start` and `on_train_batch_end` the stage's own step:
`Stage.training_step` in stage.py, or that of motion.py or face.py, which train two networks a step. All ranks go
through all of it together: what a hook decides, it decides on every rank alike.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from ...datamodules.batch import Batch
from ...models.talker import PROVENANCE
from .. import lightning_private
from ..engines.ranks import all_objects, from_first, mean_of_all
from ..stage import Film, Stage
from .clip_table import ClipTable
from .guards import SkippedSteps
from .journal import Journal, write_picture
from .meter import Meter
from .preemption import Preempted
from .progress_bar import ProgressLine
from .pruning import Pruned, Watch
from .save_and_resume import Saver
from .watchdog import Watchdog


class Loop(pl.Callback):
    """The one callback of a run. Rank 0 has a journal and a progress line; the other ranks have none."""

    def __init__(
        self,
        *,
        saver: Saver,
        guard: SkippedSteps,
        watchdog: Watchdog,
        journal: Journal | None,
        progress: ProgressLine | None,
        samples: Path,  # the folder of pictures
        watch: Watch | None = None,
    ) -> None:
        self.saver, self.guard, self.watchdog = saver, guard, watchdog
        self.journal, self.progress, self.samples = journal, progress, samples
        self.watch = watch
        self.meter = Meter()
        self.validation = Means()
        self.clips = ClipTable()

    # ------------------------------------------------------------------------------------------ start

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:  # the names are Lightning's
        """Weights go into the plain networks, before an engine shards them."""
        self.saver.load_weights(pl_module)

    def on_fit_start(self, trainer: pl.Trainer, stage: Any) -> None:
        self.watchdog.start()
        self.saver.restore(stage)
        lightning_private.go_on_from(trainer, stage.num_batches)
        if self.journal:
            self.journal.forget_after(stage.num_batches)

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
        # Make up for a validation that a stop has prevented.
        due = stage.num_batches > 0 and stage.num_batches % stage.config.trainer.val_every == 0
        if due and trainer.limit_val_batches:
            done = from_first(bool(self.journal and self.journal.has("val", stage.num_batches)))
            if not done:
                lightning_private.validate(trainer)
        if self.progress:
            self.progress.start(stage.num_batches)
        trainer.should_stop = finished(stage)  # it had finished before

    # ------------------------------------------------------------------------------------------ a step

    def on_train_batch_start(self, trainer: pl.Trainer, stage: Any, batch: Batch, batch_idx: int) -> None:
        self.watchdog.beat(stage.num_batches + 1, batch["key"])
        self.meter.begin_step()

    # Now Lightning calls stage.training_step(batch, batch_idx).

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        c = stage.config.trainer

        # Count.
        stage.num_batches += 1
        self.watchdog.beat(stage.num_batches)
        self.meter.end_step(len(batch["key"]))

        # Guard: first the step before, which a GPU has done by now.
        self.look_back(stage)
        self.guard.note(stage, list(batch["key"]))

        # Log.
        if stage.num_batches % c.log_every == 0 or finished(stage):
            values = self.figures(stage)
            if self.journal:
                self.journal.write("train", stage.num_batches, values)
        if self.progress:
            self.progress.show(stage.num_batches, stage.logs["loss"], len(batch["key"]) * stage.num_ranks)

        # Save, and leave if somebody asks for it.
        leave = self.saver.asked_to_leave()
        if leave and leave.pruned and not finished(stage):
            raise Pruned(stage.num_batches)
        if finished(stage) or leave or stage.num_batches % c.checkpoint_every == 0:
            self.look_back(stage)
            self.saver.save(stage)
        if leave and not finished(stage):
            self.saver.finish()
            raise Preempted(stage.num_batches, leave.reason, by_hand=leave.by_hand)
        trainer.should_stop = trainer.should_stop or finished(stage)

    def look_back(self, stage: Stage) -> None:
        """Name the step that was done last, if it had to be skipped."""
        if self.guard.look(stage) and self.journal:
            told = f"step {self.guard.latest} has no finite loss and gradient; {self.guard.path} names its samples"
            self.journal.alert("steps are skipped", told, "WARN")

    def figures(self, stage: Stage) -> dict[str, float]:
        """The figures of a step: losses as means over all ranks, norms, rates, speed."""
        values = mean_of_all(stage.logs, stage.device)
        values |= {f"grad_norm_{phase}": norm.read() for phase, norm in stage.norms.items()}
        values |= {f"lr_{name}": engine.optimizer.param_groups[0]["lr"] for name, engine in stage.engines.items()}
        values |= {f"loss_scale_{n}": e.scale.scale for n, e in stage.engines.items() if e.scale.enabled}
        values |= self.meter.read(stage.num_ranks, stage.device, stage.config.trainer.precision)
        return values | {"skipped_steps": float(stage.skipped)}

    # ------------------------------------------------------------------------------------------ a validation

    def on_validation_start(self, trainer: pl.Trainer, stage: Any) -> None:
        self.look_back(stage)  # before the best one is saved
        self.validation = Means()
        self.clips = ClipTable()

    def on_validation_batch_start(
        self, trainer: Any, stage: Any, batch: Batch, batch_idx: int, loader: int = 0
    ) -> None:
        self.watchdog.beat(stage.num_batches, batch["key"])

    def on_validation_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.validation.add(outputs, len(batch["key"]))
        self.clips.add(batch, stage.by_clip)
        if batch_idx == 0:
            pictures = stage.preview(batch)  # on all ranks, for a sharded network needs them all
            if self.journal:
                self.keep_pictures(self.journal, stage.num_batches, pictures)

    def on_validation_end(self, trainer: pl.Trainer, stage: Any) -> None:
        values = self.validation.over_ranks() | stage.metrics()
        self.meter.leave_out(self.validation.seconds())
        figures = {f"val/{name}": value for name, value in values.items()}
        if self.watch:  # before the row is written: a resumed run validates again if there is none
            self.saver.notice.verdict = self.watch(stage.num_batches, figures)
        assert self.saver.agreement is not None
        self.saver.agreement.at_once()  # a run that has been ended takes no more than one step
        if self.journal:
            self.journal.write("val", stage.num_batches, values)
            if self.clips.rows:
                self.journal.write_table("clips", stage.num_batches, self.clips.columns, self.clips.rows)
        self.saver.keep_if_best(stage, figures)

    def keep_pictures(self, journal: Journal, step: int, pictures: dict[str, np.ndarray | Film]) -> None:
        for name, picture in pictures.items():
            self.samples.mkdir(parents=True, exist_ok=True)
            if isinstance(picture, Film):
                from ...datamodules.media.write import write_video  # FFmpeg's libraries: few stages make films

                path = self.samples / f"{name}-{step:06d}.mp4"
                write_video(path, picture.frames, picture.speech, metadata={"comment": PROVENANCE, "title": name})
                journal.write_video(name, step, path)
            else:
                write_picture(self.samples / f"{name}-{step:06d}.png", picture)
                journal.write_picture(name, step, picture)

    # ------------------------------------------------------------------------------------------ end

    def on_train_end(self, trainer: pl.Trainer, stage: Any) -> None:
        self.saver.finish()
        if self.progress:
            self.progress.stop()

    def on_exception(self, trainer: pl.Trainer, stage: Any, exception: BaseException) -> None:
        if self.progress:
            self.progress.stop()
        if not isinstance(exception, SystemExit):  # whoever presses Ctrl-C twice does not want to wait
            self.saver.leave()


def finished(stage: Stage) -> bool:
    return stage.num_batches >= stage.config.trainer.max_steps


class Means:
    """Means of a validation over its clips, on all ranks."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.count = 0
        self.started = time.perf_counter()

    def add(self, values: dict[str, Any], size: int) -> None:
        self.count += size
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + float(value) * size

    def over_ranks(self) -> dict[str, float]:
        ranks = all_objects((self.totals, self.count))
        count = sum(part for _, part in ranks)
        return {name: sum(totals[name] for totals, _ in ranks) / count for name in self.totals}

    def seconds(self) -> float:
        return time.perf_counter() - self.started
