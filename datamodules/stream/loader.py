"""Streams batches of a stage from prepared data sets.

Global batch b holds positions [b * G, (b + 1) * G) of an endless order over epochs. Rank r takes its slice of it,
worker w of W every W-th batch: the sequence of keys is the same for any number of ranks and workers, and the number of
batches already trained on is the whole state. Random choices of a sample are drawn from (seed, epoch, index in it).
A damaged clip costs that clip: another one, which the position determines, stands in for it (see damaged.py).
"""

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ...models.errors import UserError
from ..batch import BATCH, Batch
from ..dataset.clip import DamagedClip
from .ahead import ReadAhead
from .damaged import BadSamples
from .examples import Pictures, Room, collate, draw_sample
from .memory import BatchMemory, MadeBatch
from .order import Order, Place, rank_slice
from .selection import ClipSource

MAX_ATTEMPTS = 100  # clips that are tried for one position


@dataclass
class FailedBatch:
    """Stands for a batch that cannot be made: an exception would lose its one line on its way out of a worker."""

    where: str
    problem: str
    remedy: str


class BatchStream(IterableDataset):
    """Collated micro-batches of one rank: an endless stream from `start_batch` on, or one pass over a fixed order."""

    def __init__(
        self,
        stage: str,
        source: ClipSource,
        order: Order,
        bad: BadSamples,
        *,
        size: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.stage, self.source, self.order, self.bad = stage, source, order, bad
        self.size, self.seed = size, seed
        self.rank, self.num_ranks = rank, num_ranks
        self.batch_size = source.config.batch_size
        self.start_batch = 0
        self.memory = BatchMemory()

    def __iter__(self) -> Iterator["MadeBatch | FailedBatch"]:
        worker = get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        batch, ahead = self.start_batch + number, ReadAhead(self.source, self.order)
        try:
            while (size := self.global_size(batch)) > 0:
                first = batch * self.batch_size
                positions = rank_slice(first, size, rank=self.rank, num_ranks=self.num_ranks)
                ahead.move_to(positions)
                try:
                    made: MadeBatch | FailedBatch = self.batch(positions, worker=number)
                except UserError as error:
                    made = FailedBatch(error.where, error.problem, error.remedy)
                yield made
                batch += step
        finally:
            ahead.end()

    def global_size(self, batch: int) -> int:
        """Samples in a global batch: batch_size, less in the last one of a fixed order, 0 after it."""
        if self.order.endless:
            return self.batch_size
        return min(self.batch_size, self.order.num_clips - batch * self.batch_size)

    def batch(self, positions: Sequence[int], worker: int = 0) -> MadeBatch:
        slot = self.memory.take()
        pictures = Pictures(slot, len(positions), self.size)
        rooms = [pictures.of_row(row) for row in range(len(positions))]
        try:
            samples = [self.sample(p, room, worker=worker) for p, room in zip(positions, rooms, strict=True)]
            collate(samples, slot)
        except BaseException:
            self.memory.give_back(slot)
            raise
        return self.memory.finish(slot)

    def sample(self, position: int, room: Room, worker: int = 0) -> dict[str, Any]:
        """The sample of a position, or its replacement; raises UserError if too many are bad."""
        for attempt in range(MAX_ATTEMPTS):
            place = self.order.replacement(position, attempt) if attempt else self.order.place_of(position)
            try:
                return self._read(place, attempt, room)
            except DamagedClip as error:
                where = {"position": position, "attempt": attempt, "rank": self.rank, "worker": worker}
                self.bad.add(error, place, **where)
        raise UserError(f"{self.bad.path or 'data'}", f"{MAX_ATTEMPTS} clips read in a row are bad", "repair the data")

    def _read(self, place: Place, attempt: int, room: Room) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, place.epoch, place.index] + [attempt] * bool(attempt))
        clip = self.source.clip(place.shard, place.clip)
        config = self.source.config
        return draw_sample(
            BATCH[self.stage],
            clip,
            rng,
            window_frames=config.window_frames,
            cross_clip=self.source.cross_clip,
            room=room,
            held_out=config.holdout_emotions,
        )


class FiniteBatchStream(BatchStream):
    """One pass over a fixed order. Its length is known, which Lightning asks for."""

    def __len__(self) -> int:
        return -(-self.order.num_clips // self.batch_size)


class StreamLoader(DataLoader):
    """Asks for the first batch each time it is iterated: by then a checkpoint has been restored."""

    def __init__(self, stream: BatchStream, start: Callable[[], int], **arguments: Any) -> None:
        super().__init__(stream, batch_size=None, collate_fn=as_it_is, **arguments)
        self.start = start

    def __iter__(self) -> Any:
        self.dataset.start_batch = self.start()  # type: ignore[attr-defined]
        return Batches(super().__iter__())


def as_it_is(batch: Any) -> Any:
    """Return the batch unchanged: the stream has collated it, and the default would look at every string in it."""
    return batch


class Batches:
    """The batches of a loader; raises UserError in place of a failure."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        made = next(self.iterator)
        if isinstance(made, FailedBatch):
            raise UserError(made.where, made.problem, made.remedy)
        return made.open() if isinstance(made, MadeBatch) else made  # opened already if it was pinned

    def __getattr__(self, name: str) -> Any:
        return getattr(self.iterator, name)


def start_worker(worker: int) -> None:
    """Workers share the cores with the trainer, and leave signals to it that are sent to the whole job.

    A scheduler that preempts signals every process of a job, and Ctrl-C every process of a terminal. If a worker died
    of it, the trainer would fail in the step in which it must save. The parent's own SIGTERM, at its exit, still ends
    the worker.
    """
    torch.set_num_threads(1)
    gc.freeze()  # what the trainer made is neither collected here nor, by being looked at, copied
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_await_parents_signal, args=(os.getppid(),), daemon=True).start()


def _await_parents_signal(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
