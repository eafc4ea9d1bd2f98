"""Train and validation batches of a stage for the trainer, and the facts of the data that a model must know."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from ..models.errors import UserError
from ..models.face_model import FaceModel
from .batch import BATCH, batch_bytes
from .config import DataConfig, check_config, uneven_batch
from .dataset.reader import ClipReader
from .stream.ahead import plan_reading
from .stream.damaged import BadSamples
from .stream.loader import BatchStream, FiniteBatchStream, StreamLoader, start_worker
from .stream.memory import available_memory
from .stream.order import FixedOrder, Order
from .stream.selection import ClipSource, check_alike, check_selection, open_readers, pooled_statistics


@dataclass
class DataFacts:
    """The facts that a model must know of its data: D values of motion, I identity coefficients."""

    motion_dim: int
    identity_dim: int
    motion_mean: np.ndarray  # float32 (D,), over the train splits of all data sets
    motion_std: np.ndarray  # float32 (D,)
    face_model: FaceModel
    size: int
    num_train: int
    num_val: int
    num_silent: int = 0  # clips for training that are left out since they have no sound
    emotions: list[str] = field(default_factory=list)  # those present in the selected clips for training
    shown_to_face_model: list[str] = field(default_factory=list)  # held out, but its axes were built of them too


class TalkingFaceData(pl.LightningDataModule):
    """Train and validation batches of a stage.

    Raises UserError if a folder is no data set, if data sets do not fit together or if a selection leaves nothing.
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
        heard = "speech" in BATCH[stage]
        self.train_source = ClipSource(
            self.readers, config, config.train_splits, heard=heard, cross_clip=config.cross_clip
        )
        # Portraits of validation are of another clip where there is one, whatever training has, so that runs compare:
        # in two frames of a clip too much is alike.
        self.val_source = ClipSource(self.readers, config, config.val_splits, heard=heard, cross_clip=1.0)
        check_selection(self.train_source, config)
        self._planned = False

    @cached_property
    def facts(self) -> DataFacts:
        face_model = self.readers[0].face_model
        mean, std = pooled_statistics(self.readers, self.config.holdout_emotions)
        return DataFacts(
            motion_dim=face_model.motion_dim,
            identity_dim=face_model.num_identity,
            motion_mean=mean,
            motion_std=std,
            face_model=face_model,
            size=self.size,
            num_train=self.train_source.num_clips,
            num_val=self.val_source.num_clips,
            num_silent=self.train_source.num_silent,
            emotions=self.train_source.emotions,
            shown_to_face_model=sorted({name for reader in self.readers for name in self._shown(reader)}),
        )

    def _shown(self, reader: ClipReader) -> set[str]:
        """Emotions that training holds out and preparation did not, when it built the face model of a data set."""
        made, train = reader.manifest.preparation, reader.manifest.splits.get("train")
        if train is None or made.get("face_model") != "landmark":
            return set()
        return set(self.config.holdout_emotions) & set(train.emotions) - set(made.get("holdout_emotions", []))

    @property
    def size(self) -> int:
        """S: pixels a side of the frames in a batch."""
        return self.config.size or self.readers[0].manifest.size

    def provenance(self) -> list[dict[str, Any]]:
        """The data that is read: folder name, clips, seconds, face model, and a checksum over those of the shards."""
        return [reader.provenance() for reader in self.readers]

    def train_dataloader(self) -> StreamLoader:
        num_ranks = self._ranks()[1]
        if uneven := uneven_batch(self.config.batch_size, num_ranks, "the number of processes"):
            raise uneven
        self._check_memory(num_ranks)
        order = self.train_source.training_order(self.seed)
        return self._loader(BatchStream, "train", order, self.seed, self._batches_done)

    def val_dataloader(self) -> StreamLoader | list[StreamLoader]:
        if not self.val_source.num_clips:
            return []
        order = FixedOrder(self.val_source.counts)  # seed 0: the same draws in every run, so that runs compare
        return self._loader(FiniteBatchStream, "val", order, 0, lambda: 0)

    def _loader(
        self, kind: type[BatchStream], use: str, order: Order, seed: int, start: Callable[[], int]
    ) -> StreamLoader:
        rank, num_ranks = self._ranks()
        self._plan_reading()
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

    def _plan_reading(self) -> None:
        """Once for training and validation, which share folders and cache."""
        if self._planned:
            return
        self._planned = True
        told = plan_reading(self.train_source, self.trainer.num_nodes if self.trainer else 1)
        if told and self._ranks()[0] == 0:
            print(f"emohead: {told}", file=sys.stderr, flush=True)

    def _check_memory(self, num_ranks: int) -> None:
        """Refuse batches that do not fit: the system would end the process, or another one, without a word."""
        c, ranks_here = self.config, num_ranks // self.trainer.num_nodes if self.trainer else 1
        motion_dim, identity_dim = self.readers[0].dims
        dims = {"motion_dim": motion_dim, "identity_dim": identity_dim}
        whole = batch_bytes(self.stage, batch_size=c.batch_size, size=self.size, num_frames=c.window_frames, **dims)
        held = 1 + c.num_workers * (c.prefetch + 1)  # batches at a time
        wanted, there = whole // num_ranks * held * ranks_here, available_memory()
        if there is not None and wanted > there:
            raise UserError(
                f"data.batch_size={c.batch_size} data.window_frames={c.window_frames}",
                f"{held} batches of a rank take {wanted / 1e9:.1f} GB, {there / 1e9:.1f} GB are free",
                "lower one of them, or data.num_workers",
            )

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _batches_done(self) -> int:
        return int(self.trainer.lightning_module.num_batches) if self.trainer else 0  # type: ignore[arg-type]
