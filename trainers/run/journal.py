"""What a run tells: metrics.jsonl, Weights & Biases, a progress line, pictures."""

import json
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..engines.ranks import all_objects, from_first, mean_of_all
from ..stage import Stage, TrackingConfig
from .meter import Meter
from .preemption import SIGNALS

QUIET_INTERVAL = 30  # seconds between lines where there is no terminal
Show = Callable[[int, int, str], None]  # done, in all, a note


class Journal:
    """Where the numbers of a run go: `metrics.jsonl` and, where it is on, one W&B run. Of rank 0.

    A row is of a step and a kind (train or val): {"step": 40, "train/loss": 1.2, ...}. No row is ever there twice:
    those of steps that a resumed run does again are dropped from the file, and not sent to W&B a second time.
    """

    def __init__(self, run: Path, config: TrackingConfig, settings: dict[str, Any]) -> None:
        self.path = run / "metrics.jsonl"
        self.sent_file = run / "wandb" / "sent.json"
        self.wandb = start_wandb(config, run, settings)
        self.sent: dict[str, int] = json.loads(self.sent_file.read_text()) if self.sent_file.exists() else {}

    def forget_after(self, step: int) -> None:
        """Drop lines of steps that a resumed run will do again, and a last one that was cut off."""
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
            partial = self.path.with_name(self.path.name + ".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            partial.replace(self.path)

    def has(self, kind: str, step: int) -> bool:
        """Whether there is such a row."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return any(_step(line) == step and f'"{kind}/' in line for line in lines)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        row = {f"{kind}/{name}": value for name, value in values.items()}
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step} | row) + "\n")
        if self.wandb and step > self.sent.get(kind, 0):
            self.wandb.log(row, step=step)
            self._note(kind, step)

    def write_picture(self, name: str, step: int, picture: np.ndarray) -> None:
        import wandb

        if self.wandb and step > self.sent.get(name, 0):
            self.wandb.log({f"val/{name}": wandb.Image(picture)}, step=step)
            self._note(name, step)

    def close(self) -> None:
        if self.wandb:
            self.wandb.finish()

    def _note(self, kind: str, step: int) -> None:
        self.sent[kind] = step
        partial = self.sent_file.with_name(self.sent_file.name + ".partial")
        partial.write_text(json.dumps(self.sent))
        partial.replace(self.sent_file)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # cut off in the middle
        return math.inf


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.jsonl as curves: name -> [(step, value), ...]."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if name != "step":
                curves.setdefault(name, []).append((row["step"], value))
    return curves


def start_wandb(config: TrackingConfig, run: Path, settings: dict[str, Any]) -> Any:
    """One W&B run per run folder: its id is kept there, so that every resume goes on with the same run."""
    if config.wandb == "disabled":
        return None
    import wandb

    id_file = run / "wandb" / "id"
    if not id_file.exists():
        id_file.parent.mkdir(parents=True, exist_ok=True)
        id_file.write_text(wandb.util.generate_id())
    # A scheduler's signal goes to all processes of a job: W&B's own, which starts here, must outlive it to the end.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return wandb.init(
            project=config.project,
            name=run.name,
            id=id_file.read_text().strip(),
            dir=run,
            mode=config.wandb,  # type: ignore[arg-type]
            resume="allow" if config.wandb == "online" else None,  # offline, the id makes it one run at `wandb sync`
            config=settings,
            settings=wandb.Settings(silent=True),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class CountBatches(pl.Callback):
    """Counts for the others, so it comes first: Lightning calls callbacks in order, and the module after them."""

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        stage.num_batches += 1


class Tracker(pl.Callback):
    """Writes what a step and a validation say: means over all ranks, of which rank 0 writes."""

    def __init__(self, journal: Journal | None) -> None:
        self.journal = journal
        self.meter = Meter()
        self.totals: dict[str, float] = {}
        self.count = 0

    def on_fit_start(self, trainer: pl.Trainer, stage: Any) -> None:
        if self.journal:
            self.journal.forget_after(stage.num_batches)

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
        """Make up for a validation that a stop has prevented."""
        due = stage.num_batches > 0 and stage.num_batches % stage.config.trainer.val_every == 0
        if not due or not trainer.limit_val_batches:
            return
        if not from_first(bool(self.journal and self.journal.has("val", stage.num_batches))):
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_train_batch_start(self, trainer: pl.Trainer, stage: Any, batch: Any, batch_idx: int) -> None:
        self.meter.begin_step()

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        c = stage.config.trainer
        self.meter.end_step(len(batch["key"]))
        if stage.num_batches % c.log_every and stage.num_batches != c.max_steps:
            return
        values = mean_of_all(stage.logs, stage.device)
        values |= {f"grad_norm_{phase}": norm for phase, norm in stage.norms.items()}
        values |= {f"lr_{name}": engine.optimizer.param_groups[0]["lr"] for name, engine in stage.engines.items()}
        values |= {f"loss_scale_{n}": e.scale.scale for n, e in stage.engines.items() if e.scale.enabled}
        values |= self.meter.read(stage.num_ranks, stage.device, c.precision) | {"skipped_steps": float(stage.skipped)}
        if self.journal:
            self.journal.write("train", stage.num_batches, values)

    def on_validation_start(self, trainer: pl.Trainer, stage: Any) -> None:
        self.totals, self.count = {}, 0
        self.started = time.perf_counter()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        size = len(batch["key"])
        self.count += size
        for name, value in outputs.items():
            self.totals[name] = self.totals.get(name, 0.0) + float(value) * size

    def on_validation_end(self, trainer: pl.Trainer, stage: Any) -> None:
        ranks = all_objects((self.totals, self.count))
        count = sum(part for _, part in ranks)
        values = {name: sum(totals[name] for totals, _ in ranks) / count for name in self.totals}
        values |= stage.metrics()
        trainer.callback_metrics.update({f"val/{name}": torch.tensor(value) for name, value in values.items()})
        self.meter.leave_out(time.perf_counter() - self.started)
        if self.journal:
            self.journal.write("val", stage.num_batches, values)


class ProgressLine(pl.Callback):
    """Steps, loss, samples a second and time left: a bar in a terminal, a line now and then elsewhere.

    Or, if there is a bar already that this run is a part of: calls of `show` with steps done, steps in all and a note.
    """

    def __init__(self, label: str, max_steps: int, show: Show | None = None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.console = Console(file=sys.stderr)
        self.bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console, transient=True)
        self.label = label
        self.max_steps = max_steps
        self.show = show
        self.started = self.last_line = time.monotonic()
        self.first_batch = 0

    def on_train_start(self, trainer: pl.Trainer, stage: pl.LightningModule) -> None:
        assert isinstance(stage, Stage)
        self.started = self.last_line = time.monotonic()
        self.first_batch = stage.num_batches
        if self.show:
            self.show(stage.num_batches, self.max_steps, "")
        elif self.console.is_terminal:
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.max_steps, completed=stage.num_batches, note="")

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = stage.num_batches
        seconds = time.monotonic() - self.started
        speed = (step - self.first_batch) * len(batch["key"]) * trainer.world_size / seconds
        note = f"loss {float(stage.logs['loss']):.3f}  {speed:.1f} samples/s"
        if self.show:
            self.show(step, self.max_steps, note)
        elif self.console.is_terminal:
            self.bar.update(self.task, completed=step, note=note)
        elif time.monotonic() - self.last_line > QUIET_INTERVAL or step == self.max_steps:
            self.last_line = time.monotonic()
            left = seconds / max(1, step - self.first_batch) * (self.max_steps - step)
            self.console.print(f"{self.label}: step {step}/{self.max_steps}  {note}  {left:.0f} s left", soft_wrap=True)

    def on_train_end(self, trainer: pl.Trainer, stage: pl.LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, stage: pl.LightningModule, exception: BaseException) -> None:
        self.bar.stop()


class Pictures(pl.Callback):
    """Writes the stage's preview of the first validation batch to `samples/`, and to W&B where it is on.

    All ranks make it, for a sharded network needs them all; rank 0, which has the journal, writes it.
    """

    def __init__(self, folder: Path, journal: Journal | None) -> None:
        self.folder = folder
        self.journal = journal

    def on_validation_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx > 0:
            return
        pictures = stage.preview(batch)
        if self.journal is None:
            return
        for name, picture in pictures.items():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_picture(self.folder / f"{name}-{stage.num_batches:06d}.png", picture)
            self.journal.write_picture(name, stage.num_batches, picture)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB -> a PNG, written aside and renamed."""
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(encoded.tobytes())
    partial.replace(path)
