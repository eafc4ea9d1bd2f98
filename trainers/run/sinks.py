"""Other places for the figures of a run: metrics.csv, and event files for TensorBoard."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...models.files import written_aside

Row = dict[str, Any]  # {"step": 40, "train/loss": 1.2, ...}


class Sink(Protocol):
    """A place for figures. A run that goes on first says which rows stand; it makes those of later steps again."""

    def go_on(self, rows: list[Row], step: int) -> None: ...

    def write(self, row: Row) -> None: ...

    def write_picture(self, name: str, step: int, picture: np.ndarray) -> None: ...

    def close(self) -> None: ...


class CsvFile:
    """The rows of metrics.jsonl as metrics.csv: one column for each name, in the order in which names came up."""

    def __init__(self, path: Path, stored: Callable[[], list[Row]]) -> None:
        """stored: reads the rows of metrics.jsonl, in which a row is before it comes here."""
        self.path, self.stored = path, stored
        self.columns: list[str] = []

    def go_on(self, rows: list[Row], step: int) -> None:
        self._write_all(rows)

    def write(self, row: Row) -> None:
        if set(row) - set(self.columns):
            self._write_all(self.stored())
            return
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow(self._cells(row))

    def write_picture(self, name: str, step: int, picture: np.ndarray) -> None:
        """A table has no pictures."""

    def close(self) -> None:
        """Each row is in the file already."""

    def _write_all(self, rows: list[Row]) -> None:
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        with written_aside(self.path) as aside, open(aside, "w", newline="") as file:
            csv.writer(file).writerows([self.columns, *map(self._cells, rows)])

    def _cells(self, row: Row) -> list[str]:
        return [repr(row[name]) if name in row else "" for name in self.columns]


class TensorBoard:
    """Event files in a folder. TensorBoard does not show what an earlier process wrote of steps that are done again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def go_on(self, rows: list[Row], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        new = not any(self.folder.glob("events.*"))
        self.writer = SummaryWriter(str(self.folder), purge_step=step + 1)
        for row in rows if new else []:  # of a run that was started without TensorBoard
            self.write(row)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()  # a process that is killed has lost no row

    def write_picture(self, name: str, step: int, picture: np.ndarray) -> None:
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if self.writer:
            self.writer.close()
