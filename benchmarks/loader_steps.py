"""The time of a training step with data that two workers read, beside the same step on a batch held in memory.

The step is a stand-in of known length: products of matrices on one thread, after the batch's pictures were turned into
numbers between 0 and 1. On two cores the workers have the other one to themselves.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from emohead.datamodules.batch import BATCH, Batch
from loader_contestants import open_data

STEP_SECONDS = 0.32
ROUNDS = 3


@dataclass
class StepTime:
    """Medians over all steps."""

    stage: str
    held_ms: float
    read_ms: float
    growth: float  # read over held, less 1


class Step:
    """As many products of matrices as take `STEP_SECONDS`."""

    def __init__(self) -> None:
        self.matrix = torch.randn(512, 512) / 23
        self.count = 20
        self.count = max(1, round(20 * STEP_SECONDS / min(self._time_products() for _ in range(5))))

    def _time_products(self) -> float:
        start = time.perf_counter()
        self._multiply()
        return time.perf_counter() - start

    def _multiply(self) -> None:
        value = self.matrix
        for _ in range(self.count):
            value = value @ self.matrix

    def __call__(self, batch: Batch) -> None:
        for value in batch.values():
            if isinstance(value, torch.Tensor) and value.ndim == 4:
                (value.float() / 255).mean()
        self._multiply()


def time_steps(folder: Path, num_steps: int) -> list[StepTime]:
    """Every stage, held and read by turns."""
    step = Step()
    times = []
    for stage in BATCH:
        batches = iter(open_data(stage, folder, workers=2).train_dataloader())
        kept = next(batches)
        for _ in range(2):
            step(next(batches))  # the workers fill their queues
        held: list[float] = []
        read: list[float] = []
        for _ in range(ROUNDS):
            held += [timed(step, iter([kept])) for _ in range(num_steps // 2)]
            read += [timed(step, batches) for _ in range(num_steps // 2)]
        a, b = statistics.median(held), statistics.median(read)
        times.append(StepTime(stage, 1000 * a, 1000 * b, b / a - 1))
    return times


def timed(step: Step, batches: Iterator[Batch]) -> float:
    """Seconds of getting a batch and of the step on it."""
    start = time.perf_counter()
    step(next(batches))
    return time.perf_counter() - start
