"""Where the figures and pictures of a run go: metrics.jsonl, samples/, and the places that `tracking` names."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...models.files import written_aside
from ..tracking import TrackingConfig
from .sinks import CsvFile, Row, Sink, TensorBoard
from .wandb_run import Level, Say, WandbRun


class Journal:
    """The figures of a run: `metrics.jsonl` has all, and the other places are told of each. Only rank 0 has one.

    A row is of a step and a kind (train or val): {"step": 40, "train/loss": 1.2, ...}. No row is ever there twice:
    those of steps that a resumed run does again are dropped from the file, and not sent to W&B a second time.
    """

    def __init__(
        self,
        run: Path,
        config: TrackingConfig,
        settings: dict[str, Any],  # W&B's configuration of the run
        *,
        stage: str = "",
        monitor: str = "",  # the metric of which the best counts, with - if less is better
        say: Say | None = None,
    ) -> None:
        self.path = run / "metrics.jsonl"
        self.wandb = WandbRun(run, config, settings, stage=stage, monitor=monitor, say=say)
        others: dict[str, Sink] = {
            "csv": CsvFile(run / "metrics.csv", self.rows),
            "tensorboard": TensorBoard(run / "tensorboard"),
        }
        self.others: list[Sink] = [others[name] for name in dict.fromkeys(config.also)]

    def rows(self) -> list[Row]:
        """All whole rows of metrics.jsonl, the oldest first."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines if _step(line) < math.inf]

    def forget_after(self, step: int) -> None:
        """Called before the first row: drop those of steps that a resumed run will do again, and one cut off."""
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
            with written_aside(self.path) as partial:
                partial.write_text("".join(line + "\n" for line in kept))
        rows = self.rows()
        for place in (self.wandb, *self.others):
            place.go_on(rows, step)

    def has(self, kind: str, step: int) -> bool:
        """Whether there is such a row."""
        return any(row["step"] == step and any(name.startswith(f"{kind}/") for name in row) for row in self.rows())

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        row = {"step": step} | {f"{kind}/{name}": value for name, value in values.items()}
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        for place in (self.wandb, *self.others):
            place.write(row)

    def write_picture(self, name: str, step: int, picture: np.ndarray) -> None:
        for place in (self.wandb, *self.others):
            place.write_picture(f"val/{name}", step, picture)

    def write_video(self, name: str, step: int, path: Path) -> None:
        self.wandb.write_video(f"val/{name}", step, path)

    def write_table(self, name: str, step: int, columns: list[str], rows: list[list[Any]]) -> None:
        self.wandb.write_table(f"val/{name}", step, columns, rows)

    def alert(self, what: str, text: str, level: Level) -> None:
        """Have W&B send a message, if it is on."""
        self.wandb.alert(what, text, level)

    def close(self, error: BaseException | None = None) -> None:
        """error: what the run ended with, if it did not end well."""
        try:
            for place in self.others:
                place.close()
        finally:
            self.wandb.close(error)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # cut off in the middle
        return math.inf


def write_picture(path: Path, picture: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB -> a PNG, written aside and renamed."""
    with written_aside(path) as partial:
        Image.fromarray(picture).save(partial, format="png")
