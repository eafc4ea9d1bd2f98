"""Streams batches of a stage from prepared data sets.

Global batch b holds positions [b * G, (b + 1) * G) of an endless order over epochs. Rank r takes its slice of it,
worker w of W every W-th batch: the sequence of keys is the same for any number of ranks and workers, and the number of
batches already trained on is the whole state. Random choices of a sample are drawn from (seed, epoch, index in it).
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..models.errors import UserError
from ..models.face_model import FaceModel
from .batch import STAGES, Batch
from .order import EpochOrder, FixedOrder, rank_slice
from .reader import ClipReader
from .sample import FPS
from .samples import SAMPLES, collate
from .source import ClipSource, DataConfig, check_alike, check_config, describe_selection, pooled_statistics


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


class BatchStream(IterableDataset):
    """Collated micro-batches of one rank: an endless stream from `start_batch` on, or one pass over a fixed order."""

    def __init__(
        self,
        stage: str,
        source: ClipSource,
        order: EpochOrder | FixedOrder,
        *,
        size: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.stage, self.source, self.order, self.size, self.seed = stage, source, order, size, seed
        self.rank, self.num_ranks = rank, num_ranks
        self.batch_size = source.config.batch_size
        self.start_batch = 0

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        batch = self.start_batch + number
        while (size := self.global_size(batch)) > 0:
            first = batch * self.batch_size
            positions = rank_slice(first, size, rank=self.rank, num_ranks=self.num_ranks)
            yield collate([self.sample(position) for position in positions])
            batch += step

    def global_size(self, batch: int) -> int:
        """Samples in a global batch: batch_size, less in the last one of a fixed order, 0 after it."""
        if isinstance(self.order, EpochOrder):
            return self.batch_size
        return min(self.batch_size, self.order.num_samples - batch * self.batch_size)

    def sample(self, position: int) -> dict[str, Any]:
        place = self.order.sample_at(position)
        rng = np.random.default_rng([self.seed, place.epoch, place.index])
        clip = self.source.clip(place.shard, place.sample)
        return SAMPLES[self.stage](clip, rng, window_frames=self.source.config.window_frames, size=self.size)


class FiniteBatchStream(BatchStream):
    """One pass over a fixed order. Its length is known, which Lightning asks for."""

    def __len__(self) -> int:
        return -(-self.order.num_samples // self.batch_size)


class StreamLoader(DataLoader):
    """Asks where to start each time it is iterated, when a checkpoint has been restored by then."""

    def __init__(self, stream: BatchStream, start: Callable[[], int], **arguments: Any) -> None:
        super().__init__(stream, batch_size=None, **arguments)
        self.start = start

    def __iter__(self) -> Any:
        self.dataset.start_batch = self.start()  # type: ignore[attr-defined]
        return super().__iter__()


class TalkingFaceData(pl.LightningDataModule):
    """Train and validation batches of a stage.

    Raises UserError where a folder is no data set, where data sets do not fit together or a selection leaves nothing.
    """

    def __init__(self, stage: str, config: DataConfig, *, seed: int = 0) -> None:
        super().__init__()
        assert stage in STAGES
        self.stage, self.config, self.seed = stage, config, seed
        check_config(config)
        max_open = 2 * max(config.window_shards, 16)
        self.readers = [ClipReader(folder, config.decoder, max_open_shards=max_open) for folder in config.shards]
        check_alike(self.readers, config)
        self.train_source = ClipSource(self.readers, config, config.train_splits)
        self.val_source = ClipSource(self.readers, config, config.val_splits)
        if not self.train_source.num_clips:
            raise UserError(
                f"{', '.join(config.shards)}: no clip for training is selected; {describe_selection(config)}"
            )

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
        order = EpochOrder(self.train_source.counts, seed=self.seed, window_shards=self.config.window_shards)
        return self._loader(BatchStream, self.train_source, order, self.seed, self._batches_done)

    def val_dataloader(self) -> StreamLoader | list[StreamLoader]:
        if not self.val_source.num_clips:
            return []
        order = FixedOrder(self.val_source.counts)  # seed 0: the same draws in every run, so that runs compare
        return self._loader(FiniteBatchStream, self.val_source, order, 0, lambda: 0)

    def _loader(self, kind: type[BatchStream], source: ClipSource, order: Any, seed: int, start: Any) -> StreamLoader:
        rank, num_ranks = self._ranks()
        stream = kind(self.stage, source, order, size=self.size, seed=seed, rank=rank, num_ranks=num_ranks)
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

    A scheduler that preempts signals every process of a job. A worker that died of it would fail the trainer in the
    very step in which it is to save; the parent's own SIGTERM, at its exit, still ends the worker.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_await_parents_signal, args=(os.getppid(),), daemon=True).start()


def _await_parents_signal(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
