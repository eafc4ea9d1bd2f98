"""Mixtures of data sets by weight: exact counts, own epochs, no long runs, any ranks and workers, resuming."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from emohead.datamodules.config import whole_shares
from emohead.datamodules.stream.mixture import MixedOrder, interleave
from emohead.models.errors import UserError
from emohead.trainers.config import load_config
from emohead.trainers.motion import MotionStageConfig

from .shard_clips import write_clips
from .stream_data import FakeTrainer, data_of, keys_of, take

COUNTS = [[3, 4, 2], [1, 0, 5, 2, 2], [2]]  # clips of the shards of three data sets: 9, 10 and 2


def mixed(weights=(0.5, 0.3, 0.2), seed: int = 1) -> MixedOrder:
    return MixedOrder(COUNTS, weights, seed=seed, window_shards=2)


def data_set_of(shard: int) -> int:
    return 0 if shard < 3 else 1 if shard < 8 else 2


def test_shares_are_the_smallest_whole_numbers() -> None:
    assert whole_shares([0.7, 0.3]) == [7, 3]
    assert whole_shares([1, 2, 3]) == [1, 2, 3]
    assert whole_shares([1e6, 1e6]) == [1, 1]
    assert whole_shares([0.25]) == [1]
    shares = whole_shares([1 / 3, 0.123456789, 2 / 3])
    assert sum(shares) == 10_000
    assert abs(shares[0] - 10_000 * (1 / 3) / (1 + 0.123456789)) < 1
    assert whole_shares([1, 1e-6])[1] == 0


def test_every_beginning_holds_each_share_to_within_one() -> None:
    rng = np.random.default_rng(0)
    cases = [[7, 3], [1], [1, 999], [5000, 3000, 2000], [3333, 3333, 3334], *rng.integers(1, 200, (20, 6)).tolist()]
    for shares in cases:
        pattern = interleave(shares)
        taken = np.cumsum(pattern[:, None] == np.arange(len(shares)), axis=0)  # (period, data sets)
        quota = np.arange(1, len(pattern) + 1)[:, None] * np.array(shares) / sum(shares)
        assert np.abs(taken - quota).max() < 1
        assert taken[-1].tolist() == shares


def test_a_data_set_does_not_come_in_long_runs() -> None:
    assert max(runs(np.tile(interleave([7, 3]), 2))) <= 3
    rng = np.random.default_rng(1)
    for shares in rng.integers(1, 50, (20, 4)).tolist():
        pattern = np.tile(interleave(shares), 2)
        largest = max(shares)
        # even spacing would give runs of this length; two more are what the quotas of the others may cost
        assert max(runs(pattern)) <= -(-largest // (sum(shares) - largest)) + 2


def runs(pattern: np.ndarray) -> list[int]:
    return [len(list(group)) for _, group in itertools.groupby(pattern.tolist())]


def test_each_data_set_runs_through_its_own_epochs() -> None:
    order = mixed()
    places = [order.place_of(i) for i in range(500)]
    for number, counts in enumerate(COUNTS):
        clips = [(p.shard, p.clip) for p in places if data_set_of(p.shard) == number]
        size = sum(counts)
        for epoch in range(len(clips) // size):
            assert len(set(clips[epoch * size : (epoch + 1) * size])) == size
        assert abs(len(clips) - 500 * (0.5, 0.3, 0.2)[number]) < 1
    assert [(p.epoch, p.index) for p in places] == [divmod(i, 21) for i in range(500)]


def test_a_mixture_is_a_function_of_seed_and_position() -> None:
    sequence = [mixed().place_of(i) for i in range(200)]
    again = mixed()
    for position in np.random.default_rng(0).permutation(200):
        assert again.place_of(int(position)) == sequence[position]
    assert [mixed(seed=2).place_of(i) for i in range(200)] != sequence
    far = mixed().place_of(10**15 + 3)
    assert far == again.place_of(10**15 + 3)


def test_a_replacement_comes_from_the_same_data_set() -> None:
    order = mixed()
    for position in range(100):
        place = order.place_of(position)
        for attempt in (1, 2, 9):
            other = order.replacement(position, attempt)
            assert data_set_of(other.shard) == data_set_of(place.shard)
            assert other.clip < list(itertools.chain(*COUNTS))[other.shard]
            assert (other.epoch, other.index) == (place.epoch, place.index)
            assert other == mixed().replacement(position, attempt)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("mixture")
    write_clips(folder / "a", counts={"train": 7, "val": 2})
    write_clips(folder / "b", counts={"train": 4, "val": 1}, num_frames=20)  # the same keys: told apart by length
    return folder / "a", folder / "b"


@pytest.mark.parametrize(("num_ranks", "workers", "start"), [(1, 0, 0), (2, 0, 3), (2, 2, 5)])
def test_batches_of_a_mixture(corpora: tuple[Path, Path], num_ranks: int, workers: int, start: int) -> None:
    changes = {"weights": [0.25, 0.75], "window_frames": 30}
    whole = take(data_of(*corpora, **changes).train_dataloader(), 8)
    lengths = [int(motion[-1, 0]) + 1 for batch in whole for motion in batch["motion"]]
    assert [lengths[: n + 1].count(30) for n in range(32)] == [(n + 2) // 4 for n in range(32)]
    ranks = [FakeTrainer(rank, num_ranks, start) for rank in range(num_ranks)]
    parts = [
        take(data_of(*corpora, trainer=rank, num_workers=workers, **changes).train_dataloader(), 8 - start)
        for rank in ranks
    ]
    assert [key for slices in zip(*parts, strict=True) for key in keys_of(slices)] == keys_of(whole[start:])


def test_validation_takes_no_weights(corpora: tuple[Path, Path]) -> None:
    data = data_of(*corpora, weights=[0.9, 0.1])
    assert len(keys_of(data.val_dataloader())) == 3


def test_weights_on_the_command_line() -> None:
    config = load_config(MotionStageConfig, [], ["data.shards=[a,b]", "data.weights=[0.7,0.3]"])
    assert config.data.weights == [0.7, 0.3]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([0.5], "1 of them for 2 data.shards"),
        ([1.0, 0.0], "numbers above 0"),
        ([1.0, float("nan")], "numbers above 0"),
        ([1.0, 1e-9], "b has less than a ten-thousandth"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(corpora: tuple[Path, Path], weights: list, words: str) -> None:
    with pytest.raises(UserError, match=words):
        data_of(*corpora, weights=weights)


def test_a_weight_for_nothing_is_refused(corpora: tuple[Path, Path], tmp_path: Path) -> None:
    write_clips(tmp_path / "none", counts={"val": 2})
    with pytest.raises(UserError, match=r"none: no clip for training is selected, but it has a weight"):
        data_of(corpora[0], tmp_path / "none", weights=[0.5, 0.5])
