"""A table of single validation clips, for W&B: which ones a run does well on, and which it does not."""

from typing import Any

from torch import Tensor

from ...datamodules.batch import Batch
from ...datamodules.sample import EMOTIONS

MOST = 64  # clips in a table: the first ones, the same at each validation


class ClipTable:
    """Key, emotion (if the batch has it) and figures of the first clips that rank 0 validates on."""

    def __init__(self) -> None:
        self.columns: list[str] = []
        self.rows: list[list[Any]] = []

    def add(self, batch: Batch, figures: dict[str, Tensor]) -> None:
        """The clips of a batch; figures: name -> a value of each clip (B,)."""
        own = min(MOST - len(self.rows), len(batch["key"]))
        if not figures or own <= 0:
            return
        told: dict[str, list[Any]] = {"key": batch["key"][:own]}
        if "emotion" in batch:
            told["emotion"] = [EMOTIONS[number] if number >= 0 else "" for number in batch["emotion"][:own].tolist()]
        told |= {name: values[:own].float().cpu().tolist() for name, values in figures.items()}
        self.columns = list(told)
        self.rows += [list(row) for row in zip(*told.values(), strict=True)]
