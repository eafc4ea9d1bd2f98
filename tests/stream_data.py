"""A data module on made-up clips, outside a trainer, for all tests of streaming."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from emohead.datamodules.batch import Batch
from emohead.datamodules.config import DataConfig
from emohead.datamodules.module import TalkingFaceData


class FakeTrainer:
    """As much of a trainer as the data module asks for."""

    def __init__(self, rank: int = 0, num_ranks: int = 1, num_batches: int = 0) -> None:
        self.global_rank, self.world_size = rank, num_ranks
        self.num_nodes = 1
        self.lightning_module = self
        self.num_batches = num_batches


def data_of(
    *corpora: Path | str,
    stage: str = "motion",
    trainer: FakeTrainer | None = None,
    bad_samples: Path | None = None,
    **changes,
) -> TalkingFaceData:
    defaults = {"batch_size": 4, "window_frames": 12, "num_workers": 0, "window_shards": 2}
    config = DataConfig(shards=[str(corpus) for corpus in corpora], **(defaults | changes))
    data = TalkingFaceData(stage, config, seed=3, bad_samples=bad_samples)
    data.trainer = trainer or FakeTrainer()  # type: ignore[assignment]
    return data


def take(batches: Iterable[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(iter(batches), count))


def keys_of(batches: Iterable[Batch]) -> list[str]:
    return [key for batch in batches for key in batch["key"]]


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x[name], y[name]) if isinstance(x[name], torch.Tensor) else x[name] == y[name]  # type: ignore[arg-type]
        for x, y in zip(a, b, strict=True)
        for name in x
    )


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
