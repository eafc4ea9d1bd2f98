"""What a run tells: metrics.jsonl, Weights & Biases, a progress line, pictures."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .stage import Stage, TrackingConfig

QUIET_INTERVAL = 30  # seconds between lines where there is no terminal


class JsonlLogger(Logger):
    """Every logged number as a line of `metrics.jsonl`: {"step": 40, "train/loss": 1.2, ...}."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.written: list[tuple] = []  # step and names of the latest rows

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return "0"

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass  # config.yaml holds them

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": int(step or 0)} | {name: value for name, value in metrics.items() if name != "epoch"}
        place = (row["step"], *row)
        if len(row) > 1 and place not in self.written:  # Lightning logs and validates the last step again as it stops
            self.written = [*self.written[-10:], place]
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop lines of steps that a resumed run will do again, so that no step stands twice."""
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= step]
            partial = self.path.with_name(self.path.name + ".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            partial.replace(self.path)


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.jsonl as curves: name -> [(step, value), ...]."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if name != "step":
                curves.setdefault(name, []).append((row["step"], value))
    return curves


def wandb_logger(config: TrackingConfig, run: Path, settings: dict[str, Any]) -> WandbLogger | None:
    """One W&B run per run folder: its id is kept there, so that every resume goes on with the same run."""
    if config.wandb == "disabled":
        return None
    import wandb

    id_file = run / "wandb" / "id"
    if not id_file.exists():
        id_file.parent.mkdir(parents=True, exist_ok=True)
        id_file.write_text(wandb.util.generate_id())
    experiment = wandb.init(
        project=config.project,
        name=run.name,
        id=id_file.read_text().strip(),
        dir=run,
        mode=config.wandb,  # type: ignore[arg-type]
        resume="allow" if config.wandb == "online" else None,  # offline, the id alone makes it one run at `wandb sync`
        config=settings,
        settings=wandb.Settings(silent=True),
    )
    return WandbLogger(experiment=experiment)


class ProgressLine(pl.Callback):
    """Steps, loss, samples a second and time left: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, label: str, max_steps: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.console = Console(file=sys.stderr)
        self.bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console, transient=True)
        self.label = label
        self.max_steps = max_steps
        self.started = self.last_line = time.monotonic()
        self.first_batch = 0

    def on_train_start(self, trainer: pl.Trainer, stage: pl.LightningModule) -> None:
        assert isinstance(stage, Stage)
        self.started = self.last_line = time.monotonic()
        self.first_batch = stage.num_batches
        if self.console.is_terminal:
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.max_steps, completed=stage.num_batches, note="")

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = stage.num_batches
        loss = float(trainer.logged_metrics.get("train/loss", math.nan))
        seconds = time.monotonic() - self.started
        speed = (step - self.first_batch) * len(batch["key"]) / seconds
        note = f"loss {loss:.3f}  {speed:.1f} samples/s"
        if self.console.is_terminal:
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
    """Writes the stage's preview of the first validation batch to `samples/`, and to W&B where it is on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @rank_zero_only
    def on_validation_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx > 0:
            return
        for name, picture in stage.preview(batch).items():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_picture(self.folder / f"{name}-{stage.num_batches:06d}.png", picture)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(key=f"val/{name}", images=[picture], step=stage.num_batches)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB -> a PNG, written aside and renamed."""
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(encoded.tobytes())
    partial.replace(path)
