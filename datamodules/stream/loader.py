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
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ...models.errors import UserError
from ...models.face_model import FaceModel
from ..batch import BATCH, Batch
from ..dataset.reader import DamagedClip
from ..sample import FPS
from .damaged import BadSamples
from .examples import Pictures, Room, collate, draw_sample
from .memory import BatchMemory, MadeBatch
from .order import FixedOrder, Order, Place, rank_slice
from .selection import (
    ClipSource,
    DataConfig,
    check_alike,
    check_config,
    check_selection,
    open_readers,
    pooled_statistics,
)

MAX_ATTEMPTS = 100  # clips that are tried for one position


@dataclass
class DataFacts:
    """What a model must know of its data: D values of motion, I identity coefficients."""

    motion_dim: int
    identity_dim: int
    motion_mean: np.ndarray  # float32 (D,), over the train splits of all data sets
    motion_std: np.ndarray  # float32 (D,)
    face_model: FaceModel
    size: int
    num_train: int
    num_val: int
    fps: int = FPS
    emotions: list[str] = field(default_factory=list)  # those present in the selected clips for training


@dataclass
class Failure:
    """What a stream brings in place of a batch that it cannot make: an exception would lose its one line on the way."""

    message: str


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

    def __iter__(self) -> Iterator["MadeBatch | Failure"]:
        worker = get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        batch = self.start_batch + number
        while (size := self.global_size(batch)) > 0:
            first = batch * self.batch_size
            positions = rank_slice(first, size, rank=self.rank, num_ranks=self.num_ranks)
            try:
                made: MadeBatch | Failure = self.batch(positions, worker=number)
            except UserError as error:
                made = Failure(str(error))
            yield made
            batch += step

    def global_size(self, batch: int) -> int:
        """Samples in a global batch: batch_size, less in the last one of a fixed order, 0 after it."""
        if self.order.endless:
            return self.batch_size
        return min(self.batch_size, self.order.num_samples - batch * self.batch_size)

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
        """The sample of a position, or what stands in for it; raises UserError where too many are bad."""
        for attempt in range(MAX_ATTEMPTS):
            place = self.order.replacement(position, attempt) if attempt else self.order.sample_at(position)
            try:
                return self._read(place, attempt, room)
            except DamagedClip as error:
                where = {"position": position, "attempt": attempt, "rank": self.rank, "worker": worker}
                self.bad.add(error, place, **where)
        raise UserError(f"{self.bad.path or 'data'}: {MAX_ATTEMPTS} clips read in a row are bad; repair the data")

    def _read(self, place: Place, attempt: int, room: Room) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, place.epoch, place.index] + [attempt] * bool(attempt))
        clip = self.source.clip(place.shard, place.sample)
        frames, cross_clip = self.source.config.window_frames, self.source.cross_clip
        return draw_sample(BATCH[self.stage], clip, rng, window_frames=frames, cross_clip=cross_clip, room=room)


class FiniteBatchStream(BatchStream):
    """One pass over a fixed order. Its length is known, which Lightning asks for."""

    def __len__(self) -> int:
        return -(-self.order.num_samples // self.batch_size)


class StreamLoader(DataLoader):
    """Asks where to start each time it is iterated, when a checkpoint has been restored by then."""

    def __init__(self, stream: BatchStream, start: Callable[[], int], **arguments: Any) -> None:
        super().__init__(stream, batch_size=None, collate_fn=as_it_is, **arguments)
        self.start = start

    def __iter__(self) -> Any:
        self.dataset.start_batch = self.start()  # type: ignore[attr-defined]
        return Batches(super().__iter__())


def as_it_is(batch: Any) -> Any:
    """What the stream yields is a batch already; the default would look at every string in it."""
    return batch


class Batches:
    """The batches of a loader; raises UserError in place of a failure."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        made = next(self.iterator)
        if isinstance(made, Failure):
            raise UserError(made.message)
        return made.open() if isinstance(made, MadeBatch) else made  # opened already where it was pinned

    def __getattr__(self, name: str) -> Any:
        return getattr(self.iterator, name)


class TalkingFaceData(pl.LightningDataModule):
    """Train and validation batches of a stage.

    Raises UserError where a folder is no data set, where data sets do not fit together or a selection leaves nothing.
    """

    def __init__(
        self,
        stage: str,
        config: DataConfig,
        *,
        seed: int = 0,
        bad_samples: Path | None = None,  # the file that names them
    ) -> None:
        super().__init__()
        assert stage in BATCH, f"datamodules/batch.py has no batch of stage {stage}"
        self.stage, self.config, self.seed, self.bad_samples = stage, config, seed, bad_samples
        check_config(config)
        self.readers = open_readers(config)
        check_alike(self.readers, config)
        self.train_source = ClipSource(self.readers, config, config.train_splits, cross_clip=config.cross_clip)
        # Validation has pairs of one clip, whatever training has, so that runs compare.
        self.val_source = ClipSource(self.readers, config, config.val_splits)
        check_selection(self.train_source, config)

    @cached_property
    def facts(self) -> DataFacts:
        face_model = self.readers[0].face_model
        mean, std = pooled_statistics(self.readers)
        return DataFacts(
            motion_dim=face_model.motion_dim,
            identity_dim=face_model.num_identity,
            motion_mean=mean,
            motion_std=std,
            face_model=face_model,
            size=self.size,
            num_train=self.train_source.num_clips,
            num_val=self.val_source.num_clips,
            emotions=self.train_source.emotions,
        )

    @property
    def size(self) -> int:
        """S: pixels a side of the frames in a batch."""
        return self.config.size or self.readers[0].manifest.size

    @property
    def micro_batch_size(self) -> int:
        """Samples of a training batch on this rank."""
        return self.config.batch_size // self._ranks()[1]

    def provenance(self) -> list[dict[str, Any]]:
        """What was read: folder name, clips, seconds, face model, and a checksum over the shards' checksums."""
        return [reader.provenance() for reader in self.readers]

    def train_dataloader(self) -> StreamLoader:
        num_ranks = self._ranks()[1]
        if self.config.batch_size % num_ranks:
            raise UserError(
                f"data.batch_size={self.config.batch_size}: must be a multiple of the {num_ranks} processes"
            )
        order = self.train_source.training_order(self.seed)
        return self._loader(BatchStream, "train", order, self.seed, self._batches_done)

    def val_dataloader(self) -> StreamLoader | list[StreamLoader]:
        if not self.val_source.num_clips:
            return []
        order = FixedOrder(self.val_source.counts)  # seed 0: the same draws in every run, so that runs compare
        return self._loader(FiniteBatchStream, "val", order, 0, lambda: 0)

    def _loader(self, kind: type[BatchStream], use: str, order: Order, seed: int, start: Any) -> StreamLoader:
        rank, num_ranks = self._ranks()
        source = self.train_source if use == "train" else self.val_source
        bad = BadSamples(self.bad_samples, use, source.num_clips, self.config.max_bad_share)
        stream = kind(self.stage, source, order, bad, size=self.size, seed=seed, rank=rank, num_ranks=num_ranks)
        workers = self.config.num_workers
        return StreamLoader(  # workers are not kept from one pass to the next: they would not learn of a new start
            stream,
            start,
            num_workers=workers,
            prefetch_factor=self.config.prefetch if workers else None,
            worker_init_fn=start_worker,
            pin_memory=torch.cuda.is_available(),
        )

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _batches_done(self) -> int:
        return int(self.trainer.lightning_module.num_batches) if self.trainer else 0  # type: ignore[arg-type]


def start_worker(worker: int) -> None:
    """Workers share the cores with the trainer, and leave signals that are sent to the whole job to it.

    A scheduler that preempts signals every process of a job, and Ctrl-C every process of a terminal. A worker that died
    of it would fail the trainer in the very step in which it is to save; the parent's own SIGTERM, at its exit, still
    ends the worker.
    """
    torch.set_num_threads(1)
    gc.freeze()  # what the trainer made is neither collected here nor, by being looked at, copied
    cv2.setNumThreads(0)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_await_parents_signal, args=(os.getppid(),), daemon=True).start()


def _await_parents_signal(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
