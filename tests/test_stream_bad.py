"""A damaged clip costs that clip: it is named, replaced in the same way everywhere, and too many stop the run."""

from pathlib import Path

import pytest
from emohead.datamodules.dataset.clip import DamagedClip
from emohead.datamodules.stream.damaged import BadSamples
from emohead.datamodules.stream.order import Place
from emohead.models.errors import UserError
from emohead.trainers.run.train import train

from .shard_clips import damage, write_clips
from .stream_data import FakeTrainer, data_of, keys_of, lines_of, take

NUM_TRAIN, NUM_VAL = 10, 5


def corpus_with(folder: Path, *damaged: str, codec: str = "mjpeg") -> Path:
    write_clips(folder, counts={"train": NUM_TRAIN, "val": NUM_VAL}, codec=codec)
    for key in damaged:
        damage(folder, key)
    return folder


def test_a_damaged_clip_is_replaced_and_named(tmp_path: Path) -> None:
    good = keys_of(take(data_of(corpus_with(tmp_path / "good")).train_dataloader(), 10))
    data = data_of(corpus_with(tmp_path / "bad", "clip004"), bad_samples=tmp_path / "run" / "bad_samples.jsonl")
    keys = keys_of(take(data.train_dataloader(), 10))
    assert "clip004" not in keys
    assert [key for key, other in zip(good, keys, strict=True) if key != other] == ["clip004"] * 4  # of 4 epochs
    lines = lines_of(tmp_path / "run" / "bad_samples.jsonl")
    positions = [i for i, key in enumerate(good) if key == "clip004"]
    assert [(line["position"], line["epoch"]) for line in lines if line["attempt"] == 0] == [
        (position, position // NUM_TRAIN) for position in positions
    ]
    assert {(line["key"], line["member"], line["use"]) for line in lines} == {("clip004", "motion.npy", "train")}
    assert lines[0]["shard"].endswith("train-000001.tar")
    assert "SHA-256" in lines[0]["reason"]
    assert (lines[0]["rank"], lines[0]["worker"]) == (0, 0)


@pytest.mark.parametrize(("num_ranks", "workers", "start"), [(2, 0, 0), (1, 2, 4), (2, 2, 3)])
def test_replacements_depend_on_nothing_but_the_position(
    tmp_path: Path, num_ranks: int, workers: int, start: int
) -> None:
    corpus, log = corpus_with(tmp_path / "data", "clip004", "clip007"), tmp_path / "log.jsonl"
    reference = take(data_of(corpus).train_dataloader(), 8)
    parts = []
    for rank in range(num_ranks):
        trainer = FakeTrainer(rank, num_ranks, start)
        data = data_of(corpus, trainer=trainer, num_workers=workers, bad_samples=log)
        parts.append(take(data.train_dataloader(), 8 - start))
    merged = list(zip(*parts, strict=True))
    assert [key for slices in merged for key in keys_of(slices)] == keys_of(reference[start:])
    starts = [float(v) for slices in merged for batch in slices for v in batch["motion"][:, 0, 0]]
    assert starts == [float(v) for batch in reference[start:] for v in batch["motion"][:, 0, 0]]
    assert {line["key"] for line in lines_of(log)} == {"clip004", "clip007"}
    assert {line["rank"] for line in lines_of(log)} <= set(range(num_ranks))


def test_a_bad_clip_of_validation_is_replaced_by_the_next(tmp_path: Path) -> None:
    data = data_of(corpus_with(tmp_path / "data", "clip012"), stage="face", bad_samples=tmp_path / "log.jsonl")
    assert keys_of(data.val_dataloader()) == ["clip010", "clip011", "clip013", "clip013", "clip014"]
    assert [(line["key"], line["use"], line["position"]) for line in lines_of(tmp_path / "log.jsonl")] == [
        ("clip012", "val", 2)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_stop_the_run(tmp_path: Path, workers: int) -> None:
    names = ["clip001", "clip004", "clip007", "clip008"]
    corpus, log = corpus_with(tmp_path / "data", *names), tmp_path / "log.jsonl"
    with pytest.raises(UserError) as error:
        take(data_of(corpus, num_workers=workers, bad_samples=log).train_dataloader(), 30)
    message = str(error.value)
    assert "\n" not in message
    assert "4 of 10 clips for train are bad, 3 may be" in message
    assert str(log) in message
    assert all(f"{name}.motion.npy" in message for name in names)
    assert "data.max_bad_share=0.001" in message
    allowed = data_of(corpus, num_workers=workers, bad_samples=log, max_bad_share=0.4)
    assert not set(names) & set(keys_of(take(allowed.train_dataloader(), 10)))


def test_a_few_never_stop_a_run(tmp_path: Path) -> None:
    corpus = corpus_with(tmp_path / "data", "clip001", "clip004", "clip007")
    assert len(keys_of(take(data_of(corpus, max_bad_share=0.0).train_dataloader(), 20))) == 80


def test_a_damaged_clip_stops_the_stream_by_name_where_there_is_no_other(tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 1})
    damage(tmp_path, "clip000", "flac")
    with pytest.raises(UserError, match=r"train-000000\.tar: clip000\.flac"):
        take(data_of(tmp_path).train_dataloader(), 1)


def test_a_missing_shard_is_no_bad_sample(tmp_path: Path) -> None:
    corpus, log = corpus_with(tmp_path / "data"), tmp_path / "log.jsonl"
    (corpus / "train-000001.tar").unlink()
    with pytest.raises(UserError, match=r"train-000001\.tar: cannot be opened"):
        take(data_of(corpus, bad_samples=log).train_dataloader(), 10)
    assert not log.exists()


def damaged(number: int) -> DamagedClip:
    return DamagedClip(shard=f"s{number % 3}.tar", key=f"k{number:02d}", member="mp4", problem="broken\nbadly")


def where(position: int, rank: int = 0) -> dict[str, int]:
    return {"position": position, "attempt": 0, "rank": rank, "worker": 0}


def test_processes_count_together_and_a_restart_goes_on(tmp_path: Path) -> None:
    path, place = tmp_path / "log.jsonl", Place(0, 0, 0, 0)
    first, second = (BadSamples(path, "train", 15_000, 0.001) for _ in range(2))
    for number in range(14):
        (first if number % 2 else second).add(damaged(number), place, **where(number))
        first.add(damaged(0), place, **where(1000 + number))  # one met again is no new one
    path.write_bytes(path.read_bytes() + b'{"half a line\n')
    restarted = BadSamples(path, "train", 15_000, 0.001)
    restarted.add(damaged(14), place, **where(20))
    with pytest.raises(UserError) as error:
        second.add(damaged(15), place, **where(21))
    message = str(error.value)
    assert "16 of 15000 clips for train are bad, 15 may be" in message
    assert message.count(".tar: k") == 10
    assert "and 6 more" in message
    BadSamples(path, "val", 15_000, 0.001).add(damaged(1), place, **where(0))  # validation is counted apart
    assert len(path.read_text().splitlines()) == 14 * 2 + 1 + 3


def test_a_run_keeps_its_bad_samples_and_goes_on_with_other_workers(tmp_path: Path) -> None:
    corpus, run = corpus_with(tmp_path / "data"), tmp_path / "run"
    damage(corpus, "clip004", "flac")

    def start(*overrides: str) -> None:
        fixed = [f"data.shards=[{corpus}]", f"run={run}", "data.batch_size=4", "data.window_frames=12"]
        fixed += ["trainer.accelerator=cpu", "trainer.val_every=9", "tracking.wandb=disabled"]
        train("emotion", [Path("emotion-debug")], [*fixed, *overrides])

    start("trainer.max_steps=3", "data.num_workers=0")
    found = lines_of(run / "bad_samples.jsonl")
    assert {(line["key"], line["member"]) for line in found} == {("clip004", "flac")}
    start("trainer.max_steps=6", "data.num_workers=1", "data.max_bad_share=0.5")
    assert len(lines_of(run / "bad_samples.jsonl")) > len(found)
    with pytest.raises(UserError, match="was started with another 'data'"):
        start("trainer.max_steps=6", "data.weights=[1.0]")
