"""Pairs across clips: whose frame serves as the portrait, and what such pairs leave unchanged."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.datamodules.batch import Batch, check_batch
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.datamodules.stream.examples import draw_pair
from emohead.models.errors import UserError

from .shard_clips import SIZE, damage, face_model, make_clip, write_clips
from .stream_data import FakeTrainer, data_of, keys_of, lines_of, same, take

FRAMES = 30
CLIPS = [  # person, emotion, view; the first six share a shard
    ("anna", "neutral", "front"),
    ("anna", "angry", "front"),
    ("anna", "sad", "front"),
    ("anna", "happy", "left_30"),
    ("bert", "angry", "front"),
    ("bert", None, "top"),
    ("anna", "fear", "front"),
    ("carl", "fear", "front"),
]
RELATIVES = {0: {1, 2}, 1: {0, 2}, 2: {0, 1}}  # of the others there are none in the shard


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "data"
    write_people(out)
    return out


def write_people(out: Path) -> None:
    """Clips whose motion[t] is 100 times their number, plus t."""
    with ShardWriter(out, size=SIZE, codec="mjpeg", clips_per_shard=6) as writer:
        for split, first in (("train", 0), ("val", 20)):
            for number, (identity, emotion, view) in enumerate(CLIPS, first):
                clip, level = make_clip(number, split), None if emotion is None else 1
                clip.info = replace(clip.info, identity=identity, emotion=emotion, level=level, view=view)
                writer.write(replace(clip, motion=clip.motion + 100 * number))
        writer.close(face_model())


def lent(batches: Iterable[Batch]) -> list[tuple[int, int]]:
    """Of each sample the number of its clip and that of the portrait's clip."""
    return [
        (int(key.removeprefix("clip")), int(motion) // 100)
        for batch in batches
        for key, motion in zip(batch["key"], batch["portrait_motion"][:, 0], strict=True)
    ]


def batches_of(corpus: Path, share: float, count: int = 20, stage: str = "face", **changes) -> list[Batch]:
    return take(data_of(corpus, stage=stage, cross_clip=share, **changes).train_dataloader(), count)


def test_without_a_share_pairs_are_of_one_clip_and_drawn_as_ever(corpus: Path) -> None:
    reader, data = ClipReader(corpus), data_of(corpus, stage="face")
    order = data.train_source.training_order(3)
    batches = take(data.train_dataloader(), 4)
    assert all(torch.equal(batch["identity"], batch["portrait_identity"]) for batch in batches)
    for position, key in enumerate(keys_of(batches)):
        batch, row = batches[position // 4], position % 4
        place = order.place_of(position)
        drawn = draw_pair(FRAMES, np.random.default_rng([3, place.epoch, place.index]))
        for name, frame in zip(("portrait", "target"), reader.frames(key, drawn), strict=True):
            assert (batch[name][row].numpy() == frame).all()


def test_a_relative_lends_its_frame_motion_and_identity(corpus: Path) -> None:
    reader, seen = ClipReader(corpus), set()
    for batch in batches_of(corpus, 1.0):
        for row, (own, other) in enumerate(lent([batch])):
            assert other in RELATIVES.get(own, {own})
            seen.add((own, other))
            frame, key = int(batch["portrait_motion"][row, 0]) % 100, f"clip{other:03d}"
            assert (batch["portrait"][row].numpy() == reader.frames(key, [frame])[0]).all()
            assert (batch["portrait_motion"][row].numpy() == reader.motion(key)[frame]).all()
            assert (batch["portrait_identity"][row].numpy() == reader.identity(key)).all()
            frame, key = int(batch["target_motion"][row, 13, 0]) % 100, f"clip{own:03d}"
            assert (batch["target"][row].numpy() == reader.frames(key, [frame])[0]).all()
            assert (batch["identity"][row].numpy() == reader.identity(key)).all()
            landmarks = (batch["target_landmarks"][row].numpy() + 1) / 2 * SIZE
            np.testing.assert_allclose(landmarks, reader.landmarks(key)[frame], atol=1e-3)
    assert seen == {(own, other) for own in range(len(CLIPS)) for other in RELATIVES.get(own, {own})}


def test_a_share_of_the_pairs_is_across_clips(corpus: Path) -> None:
    pairs = [(own, other) for own, other in lent(batches_of(corpus, 0.25, count=60)) if own in RELATIVES]
    assert 0.1 < np.mean([own != other for own, other in pairs]) < 0.4


@pytest.mark.parametrize(("num_ranks", "workers", "start"), [(1, 0, 0), (2, 0, 3), (1, 2, 5)])
def test_pairs_depend_on_nothing_but_the_position(corpus: Path, num_ranks: int, workers: int, start: int) -> None:
    reference, parts = batches_of(corpus, 0.5, count=9), []
    for rank in range(num_ranks):
        trainer = FakeTrainer(rank, num_ranks, start)
        parts.append(batches_of(corpus, 0.5, count=9 - start, trainer=trainer, num_workers=workers))
    for expected, *slices in zip(reference[start:], *parts, strict=True):
        for name in ("portrait", "portrait_motion", "portrait_identity", "target"):
            assert torch.equal(torch.cat([part[name] for part in slices]), expected[name])


def test_only_selected_clips_lend(corpus: Path) -> None:
    """Neither what is held out nor another view or another shard."""
    pairs = set(lent(batches_of(corpus, 1.0, holdout_emotions=["neutral"])))
    assert pairs == {(1, 2), (2, 1), *((number, number) for number in (3, 4, 5, 6, 7))}
    assert set(lent(batches_of(corpus, 1.0, emotions=["sad", "angry"], views=["front"]))) == {(1, 2), (2, 1), (4, 4)}
    assert set(lent(batches_of(corpus, 1.0, views=["left_30"]))) == {(3, 3)}


def test_without_relatives_a_share_changes_nothing(tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 8})  # three people to a shard of three clips
    assert same(batches_of(tmp_path, 1.0, count=6), batches_of(tmp_path, 0.0, count=6))


@pytest.mark.parametrize("stage", ["face", "distill"])
def test_validation_has_pairs_across_clips_where_it_can_whatever_training_has(corpus: Path, stage: str) -> None:
    data, plain = data_of(corpus, stage=stage, cross_clip=1.0), data_of(corpus, stage=stage)
    for batch in [*take(data.train_dataloader(), 3), *data.val_dataloader()]:
        check_batch(stage, batch)
    assert same(list(data.val_dataloader()), list(plain.val_dataloader()))
    pairs = [(own - 20, other - 20) for own, other in lent(data.val_dataloader())]
    assert [own for own, _ in pairs] == list(range(len(CLIPS)))
    assert all(other in RELATIVES.get(own, {own}) for own, other in pairs)


def test_a_portrait_lent_leaves_the_rest_of_a_distill_sample_alone(corpus: Path) -> None:
    for batch, plain in zip(*(batches_of(corpus, share, 6, "distill") for share in (1.0, 0.0)), strict=True):
        assert batch["prompt"] == plain["prompt"]
        for name in ("image", "speech", "emotion", "level", "motion", "identity"):
            assert torch.equal(batch[name], plain[name])
    assert same(batches_of(corpus, 1.0, 3, "motion"), batches_of(corpus, 0.0, 3, "motion"))


@pytest.mark.parametrize("member", ["motion.npy", "identity.npy"])
def test_a_damaged_relative_costs_one_named_sample(corpus: Path, tmp_path: Path, member: str) -> None:
    write_people(tmp_path / "data")
    damage(tmp_path / "data", "clip000", member)
    log = tmp_path / "log.jsonl"
    batches = batches_of(tmp_path / "data", 1.0, bad_samples=log)
    assert same(batches, batches_of(tmp_path / "data", 1.0, num_workers=2))
    lines = lines_of(log)
    assert {(line["key"], line["member"], line["use"]) for line in lines} == {("clip000", member, "train")}
    sound = keys_of(batches_of(corpus, 1.0))
    met = {sound[line["position"]] for line in lines if line["attempt"] == 0}
    assert met == {"clip000", "clip001", "clip002"}, "as a target, and as the portrait of its relatives"
    assert 0 not in {number for pair in lent(batches) for number in pair}


def test_an_index_without_identities_is_refused(tmp_path: Path) -> None:
    write_people(tmp_path)
    path = tmp_path / "train-000000.index.json"
    content = json.loads(path.read_text())
    del content["samples"][2]["identity"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"train-000000\.index\.json: not an index of this tar \(KeyError 'identity'\)"):
        batches_of(tmp_path, 1.0)
