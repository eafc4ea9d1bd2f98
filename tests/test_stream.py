"""Batches: the same for any ranks and workers, resumed exactly, of every stage, and inside Lightning."""

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.datamodules.batch import BATCH, Batch, check_batch
from emohead.datamodules.config import DataConfig
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.module import TalkingFaceData, pl
from emohead.datamodules.sample import EMOTIONS, NO_LABEL, SAMPLES_PER_FRAME
from emohead.datamodules.stream.examples import draw_pair, motion_window

from .shard_clips import NUM_EXPRESSION, NUM_IDENTITY, SIZE, write_clips
from .stream_data import FakeTrainer, data_of, keys_of, same, take

NUM_TRAIN, NUM_VAL = 10, 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stream") / "data"
    write_clips(out, counts={"train": NUM_TRAIN, "val": NUM_VAL})
    return out


# ---------------------------------------------------------------------------------------------- ranks, workers, resume


def global_batches(corpus: Path, count: int, num_ranks: int, workers: int, start: int = 0) -> list[Batch]:
    """Global batches put together from the ranks' slices."""
    parts = []
    for rank in range(num_ranks):
        data = data_of(corpus, trainer=FakeTrainer(rank, num_ranks, start), num_workers=workers)
        parts.append(take(data.train_dataloader(), count))
        assert all(len(batch["key"]) == 4 // num_ranks for batch in parts[-1])
    merged = []
    for slices in zip(*parts, strict=True):
        keys = keys_of(slices)
        tensors = {n: torch.cat([s[n] for s in slices]) for n, v in slices[0].items() if isinstance(v, torch.Tensor)}
        merged.append({"key": keys, "prompt": [p for s in slices for p in s["prompt"]], **tensors})
    return merged


@pytest.fixture(scope="module")
def reference(corpus: Path) -> list[Batch]:
    return global_batches(corpus, 8, 1, 0)


@pytest.mark.parametrize(("num_ranks", "workers"), [(1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (4, 0)])
def test_ranks_and_workers_change_nothing(corpus: Path, reference: list[Batch], num_ranks: int, workers: int) -> None:
    assert same(global_batches(corpus, 8, num_ranks, workers), reference)


@pytest.mark.parametrize(("start", "num_ranks", "workers"), [(1, 1, 0), (3, 2, 0), (5, 1, 2), (6, 2, 1)])
def test_resuming_goes_on_where_it_stopped(
    corpus: Path, reference: list[Batch], start: int, num_ranks: int, workers: int
) -> None:
    assert same(global_batches(corpus, 8 - start, num_ranks, workers, start), reference[start:])


def test_the_tail_of_an_epoch_runs_into_the_next(corpus: Path, reference: list[Batch]) -> None:
    keys = keys_of(reference)  # 32 samples of 10 clips
    for epoch in range(3):
        assert len(set(keys[epoch * NUM_TRAIN : (epoch + 1) * NUM_TRAIN])) == NUM_TRAIN
    assert sorted(set(keys)) == ClipReader(corpus).keys("train")


def test_a_loader_asks_for_its_start_each_time(corpus: Path, reference: list[Batch]) -> None:
    trainer = FakeTrainer()
    loader = data_of(corpus, trainer=trainer).train_dataloader()
    assert same(take(loader, 2), reference[:2])
    trainer.num_batches = 2  # as after a checkpoint was restored, or an interval of training
    assert same(take(loader, 2), reference[2:4])


def test_draws_differ_from_epoch_to_epoch_and_from_seed_to_seed(tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 1})  # always the same clip at the same place of its epoch
    starts = {}
    for seed in (0, 1):
        data = TalkingFaceData("motion", DataConfig([str(tmp_path)], window_frames=12, num_workers=0), seed=seed)
        starts[seed] = take(data.train_dataloader(), 1)[0]["motion"][:, 0, 0].tolist()  # of 8 epochs
        assert len(set(starts[seed])) > 3
    assert starts[0] != starts[1]


@pytest.mark.parametrize(("num_ranks", "workers"), [(1, 0), (1, 2), (2, 0)])
def test_validation_reads_every_clip_once_and_always_alike(corpus: Path, num_ranks: int, workers: int) -> None:
    passes = []
    for _ in range(2):
        batches = []
        for rank in range(num_ranks):
            data = data_of(corpus, stage="face", trainer=FakeTrainer(rank, num_ranks), num_workers=workers)
            loader = data.val_dataloader()
            batches.append(list(loader))
            assert len(batches[-1]) == len(loader) == 2
        passes.append(batches)
    counts = Counter(keys_of(itertools.chain(*passes[0])))
    assert sorted(counts) == ClipReader(corpus).keys("val")
    extra = num_ranks - 1  # the last batch holds one clip, which every rank reads
    assert sum(counts.values()) == NUM_VAL + extra
    assert all(same(a, b) for a, b in zip(*passes, strict=True))


# ---------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("stage", BATCH)
@pytest.mark.parametrize("size", [0, 16])
def test_batches_keep_the_contract(corpus: Path, stage: str, size: int) -> None:
    data = data_of(corpus, stage=stage, size=size)
    for batch in [*take(data.train_dataloader(), 3), *data.val_dataloader()]:
        sizes = check_batch(stage, batch)
        assert sizes.get("D", NUM_EXPRESSION + 6) == NUM_EXPRESSION + 6
        assert sizes.get("I", NUM_IDENTITY) == NUM_IDENTITY
        assert sizes.get("T", 12) == 12
        assert sizes["S"] == (size or SIZE) == data.facts.size


@pytest.mark.parametrize("window_frames", [12, 30, 40])
def test_speech_and_motion_are_aligned(corpus: Path, window_frames: int) -> None:
    for batch in take(data_of(corpus, window_frames=window_frames).train_dataloader(), 5):
        frames = batch["motion"][:, :, 0]  # (B, T): the clip's motion is its frame number
        speech = batch["speech"].reshape(*frames.shape, SAMPLES_PER_FRAME) * 1000  # and its speech a thousandth of it
        inside = torch.arange(window_frames) < 30  # beyond the clip: motion stands still, speech is silent
        torch.testing.assert_close(
            speech[:, inside], frames[:, inside, None].expand_as(speech[:, inside]), atol=0.05, rtol=0
        )
        assert (speech[:, ~inside] == 0).all()
        assert (frames[:, ~inside] == 29).all()
        assert (frames[:, inside].diff() == 1).all()


def test_a_face_sample_is_centred_on_its_target(corpus: Path) -> None:
    reader = ClipReader(corpus)
    for batch in take(data_of(corpus, stage="face").train_dataloader(), 4):
        for i, key in enumerate(batch["key"]):
            portrait, target = int(batch["portrait_motion"][i, 0]), int(batch["target_motion"][i, 13, 0])
            assert portrait != target
            frames = reader.frames(key, [portrait, target])
            assert (batch["portrait"][i].numpy() == frames[0]).all()
            assert (batch["target"][i].numpy() == frames[1]).all()
            expected = np.arange(target - 13, target + 14).clip(0, 29)
            assert batch["target_motion"][i, :, 0].tolist() == expected.tolist()
            landmarks = (batch["target_landmarks"][i].numpy() + 1) / 2 * SIZE
            np.testing.assert_allclose(landmarks, reader.landmarks(key)[target], atol=1e-3)


def test_windows_and_pairs() -> None:
    motion = np.arange(5, dtype=np.float32)[:, None]
    assert motion_window(motion, 0, 5)[:, 0].tolist() == [0, 0, 0, 1, 2]
    assert motion_window(motion, 4, 5)[:, 0].tolist() == [2, 3, 4, 4, 4]
    rng = np.random.default_rng(0)
    pairs = {draw_pair(4, rng) for _ in range(500)}
    assert pairs == set(itertools.permutations(range(4), 2))
    assert draw_pair(1, rng) == (0, 0)


def test_the_image_of_an_emotion_is_from_the_middle_of_its_clip(corpus: Path) -> None:
    reader, calm = ClipReader(corpus), (NO_LABEL, EMOTIONS.index("neutral"))
    frames = {key: reader.frames(key, range(30)) for key in reader.keys("train")}
    acted, others = set(), set()
    for batch in take(data_of(corpus, stage="emotion").train_dataloader(), 100):
        for key, image, emotion in zip(batch["key"], batch["image"].numpy(), batch["emotion"].tolist(), strict=True):
            place = int((frames[key] == image).all(axis=(1, 2, 3)).argmax())
            (others if emotion in calm else acted).add(place)
    assert acted == set(range(6, 24))
    assert min(others) < 3
    assert max(others) > 26


def test_unlabelled_clips_have_no_class(corpus: Path) -> None:
    reader = ClipReader(corpus)
    for batch in take(data_of(corpus, stage="emotion").train_dataloader(), 5):
        for key, emotion, level, prompt in zip(
            batch["key"], batch["emotion"], batch["level"], batch["prompt"], strict=True
        ):
            unlabelled = reader.info(key).emotion is None
            assert (
                unlabelled == (int(emotion) == NO_LABEL) == (int(level) == NO_LABEL) == (prompt == "a person talking")
            )


# ---------------------------------------------------------------------------------------------- signals


SIGNALLED = """
import itertools, os, subprocess, sys
from emohead.datamodules.config import DataConfig
from emohead.datamodules.module import TalkingFaceData
data = TalkingFaceData("face", DataConfig(shards=[sys.argv[1]], batch_size=2, num_workers=2))
batches = iter(data.train_dataloader())
next(batches)
for worker in batches._workers:
    for name in ("TERM", "USR1", "USR2"):
        subprocess.run(["kill", "-" + name, str(worker.pid)], check=True)
print(len(list(itertools.islice(batches, 20))))
"""


def test_signals_meant_for_the_trainer_do_not_kill_its_workers(corpus: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(corpus)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "20\n", "")


# ---------------------------------------------------------------------------------------------- inside Lightning


class Recorder(pl.LightningModule):
    """Learns nothing and notes the keys of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.num_batches = 0
        self.keys: list[str] = []
        self.val_keys: list[str] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.keys += batch["key"]
        self.num_batches += 1
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_keys += batch["key"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["num_batches"] = self.num_batches

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.num_batches = checkpoint["num_batches"]


def record(corpus: Path, steps: int, checkpoint: Path | None = None, save: Path | None = None) -> Recorder:
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        val_check_interval=3,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    data = data_of(corpus, num_workers=2)
    data.trainer = None
    module = Recorder()
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if save:
        trainer.save_checkpoint(save)
    return module


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__`")
def test_a_run_that_is_interrupted_sees_the_same_clips(corpus: Path, tmp_path: Path, reference: list[Batch]) -> None:
    whole = record(corpus, 8)
    assert whole.keys == keys_of(reference)
    assert whole.val_keys == ClipReader(corpus).keys("val") * 2
    first = record(corpus, 5, save=tmp_path / "a.ckpt")
    second = record(corpus, 8, checkpoint=tmp_path / "a.ckpt")
    assert first.keys + second.keys == whole.keys
