"""The tally of a data set: the same counts and digits, in whatever order and parts it was added up."""

import itertools
import json
import random

import numpy as np
import pytest
from emohead.datamodules.dataset.manifest import MotionStatistics
from emohead.datamodules.dataset.tally import Moments, Tally

CLIPS = 40


def clip(number: int) -> tuple[str, dict, np.ndarray]:
    """Split, record and motion; one value is far from zero, one never changes."""
    frames = 5 + number % 7
    record = {"frames": frames, "identity": f"id{number % 3}", "emotion": "happy" if number % 4 else None}
    record["level"] = number % 2 + 1 if number % 4 else None
    motion = np.random.default_rng(number).normal(size=(frames, 3)) * (1e-3, 1, 0) + (1e4, 0, 0.3)
    return "val" if number % 5 == 0 else "train", record, motion.astype(np.float32)


def tally_of(numbers: list[int]) -> Tally:
    tally = Tally()
    for number in numbers:
        tally.add_clip(*clip(number))
    return tally


def test_order_and_parts_change_no_digit() -> None:
    numbers, whole = list(range(CLIPS)), tally_of(list(range(CLIPS)))
    for seed in range(5):
        random.Random(seed).shuffle(numbers)
        cuts = [0, *sorted(random.Random(seed).sample(range(CLIPS), 4)), CLIPS]
        merged = Tally()
        for start, stop in itertools.pairwise(cuts):
            merged.merge(tally_of(numbers[start:stop]))
        assert merged == whole
        assert all(
            merged.motion[emotion].statistics() == whole.motion[emotion].statistics() for emotion in whole.motion
        )


def test_the_statistics_are_those_of_the_frames_of_each_emotion() -> None:
    motion, clips = tally_of(list(range(CLIPS))).motion, [clip(n) for n in range(CLIPS)]
    assert sorted(motion) == ["happy", "none"]
    for emotion, moments in motion.items():
        own = [m for split, record, m in clips if split == "train" and (record["emotion"] or "none") == emotion]
        frames, found = np.concatenate(own).astype(np.float64), moments.statistics()
        assert found.count == len(frames)
        np.testing.assert_allclose(found.mean, frames.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.std, frames.std(axis=0), rtol=1e-9, atol=1e-15)
        assert found.std[2] == pytest.approx(0, abs=1e-15)
    assert Moments().statistics() == MotionStatistics()


def test_a_tally_can_be_written_down() -> None:
    tally = tally_of([1, 2, 3, 5])
    assert Tally.of_dict(json.loads(json.dumps(tally.as_dict()))) == tally
    assert Tally.of_dict(json.loads(json.dumps(Tally().as_dict()))) == Tally()


def test_motion_that_is_not_finite_is_counted_and_spoils_nothing() -> None:
    tally = tally_of([1, 2])
    before = tally.motion["happy"].statistics()
    split, record, motion = clip(3)
    tally.add_clip(split, record, np.where(motion > 1, np.nan, motion))
    assert tally.motion["happy"].statistics() == before
    assert tally.splits["train"].clips == 3
