"""Runs that are killed at any step and go on with other ranks and workers read what an undisturbed run reads.

A few shapes with every test run; EMOHEAD_SOAK=1 goes through all of them, for longer.
"""

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from emohead.datamodules.dataset.reader import ClipReader

from .shard_clips import damage, write_clips
from .stream_data import FakeTrainer, data_of, keys_of, take

SOAK = os.environ.get("EMOHEAD_SOAK") == "1"
ALL_SHAPES = list(itertools.product((1, 2, 3, 4), (0, 1, 2, 3)))  # ranks, workers of each
SHAPES = ALL_SHAPES if SOAK else [(1, 2), (3, 0), (2, 3), (4, 1)]
STEPS = 60 if SOAK else 16
NUM_TRAIN, BATCH = 41, 12
CHANGES = {"batch_size": BATCH, "window_shards": 3}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("resume")
    write_clips(folder / "a", counts={"train": NUM_TRAIN, "val": 1}, num_frames=14)
    write_clips(folder / "b", counts={"train": 9}, num_frames=14)
    for key in ("clip003", "clip021"):  # of the first alone
        damage(folder / "a", key)
    return [folder / "a", folder / "b"]


def read(corpora: list[Path], start: int, steps: int, num_ranks: int, workers: int, **changes) -> list[str]:
    """Keys of `steps` global batches from `start`, in order, as so many ranks read them with so many workers."""
    parts = []
    for rank in range(num_ranks):
        trainer = FakeTrainer(rank, num_ranks, start)
        data = data_of(*corpora, trainer=trainer, num_workers=workers, **CHANGES | changes)
        parts.append(take(data.train_dataloader(), steps))
    return [key for slices in zip(*parts, strict=True) for key in keys_of(slices)]


@pytest.mark.parametrize("mixed", [False, True], ids=["one", "mixture"])
@pytest.mark.parametrize("seed", range(10 if SOAK else 1))
def test_killed_runs_read_what_an_undisturbed_one_reads(corpora: list[Path], seed: int, mixed: bool) -> None:
    draw = random.Random(seed)
    chosen, changes = (corpora, {"weights": [0.6, 0.4]}) if mixed else (corpora[:1], {})
    whole = read(chosen, 0, STEPS, 1, 0, **changes)
    shapes = draw.sample(SHAPES, len(SHAPES))
    steps = sorted(draw.sample(range(1, STEPS), len(shapes) - 1))
    keys: list[str] = []
    for (num_ranks, workers), start, stop in zip(shapes, [0, *steps], [*steps, STEPS], strict=True):
        keys += read(chosen, start, stop - start, num_ranks, workers, **changes)
    assert keys == whole


@pytest.mark.parametrize("shape", SHAPES if SOAK else SHAPES[:1], ids=str)
def test_every_key_once_an_epoch(corpora: list[Path], tmp_path: Path, shape: tuple[int, int]) -> None:
    good = tmp_path / "good"
    write_clips(good, counts={"train": NUM_TRAIN}, num_frames=14)
    keys = read([good], 0, NUM_TRAIN, *shape)  # so many batches of 12 are 12 epochs
    everything = ClipReader(good).keys("train")
    for epoch in range(BATCH):
        assert sorted(keys[epoch * NUM_TRAIN : (epoch + 1) * NUM_TRAIN]) == everything


TRAINING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.stream_data import FakeTrainer, data_of
folder, start = sys.argv[2], int(sys.argv[3])
data = data_of(folder, trainer=FakeTrainer(0, 1, start), num_workers=2, batch_size=12, window_shards=3)
for batch in data.train_dataloader():
    print(*batch["key"], flush=True)
"""


def test_a_killed_process_loses_and_repeats_nothing(corpora: list[Path]) -> None:
    """SIGKILL in the middle of training; only the number of finished steps is known of it."""
    keys: list[str] = []
    for stop in (4, 9, 13) if SOAK else (5,):
        command = [sys.executable, "-c", TRAINING, str(Path(__file__).parent.parent), str(corpora[0])]
        process = subprocess.Popen([*command, str(len(keys) // BATCH)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        while len(keys) < stop * BATCH:
            keys += process.stdout.readline().split()
        process.kill()
        process.wait()
        process.stdout.close()
    keys += read(corpora[:1], len(keys) // BATCH, 3, 2, 1)
    assert keys == read(corpora[:1], 0, len(keys) // BATCH, 1, 0)
