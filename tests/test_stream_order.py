"""The order of clips: a function of seed and position."""

import itertools

import numpy as np
import pytest
from emohead.datamodules.stream.groups import GroupedOrder, deal
from emohead.datamodules.stream.mixture import MixedOrder
from emohead.datamodules.stream.order import EpochOrder, FixedOrder, Order, rank_slice


def test_every_clip_comes_once_in_an_epoch() -> None:
    counts = [3, 0, 5, 2, 1, 7, 0, 4]
    everything = {(shard, i) for shard, count in enumerate(counts) for i in range(count)}
    order = EpochOrder(counts, seed=1, window_shards=3)
    epochs = []
    for epoch in range(3):
        places = [order.place_of(epoch * 22 + i) for i in range(22)]
        assert {(p.shard, p.clip) for p in places} == everything
        assert [(p.epoch, p.index) for p in places] == [(epoch, i) for i in range(22)]
        epochs.append([(p.shard, p.clip) for p in places])
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_is_a_function_of_seed_and_position() -> None:
    first = EpochOrder([4] * 9, seed=1, window_shards=4)
    sequence = [first.place_of(i) for i in range(100)]
    again = EpochOrder([4] * 9, seed=1, window_shards=4)
    for position in np.random.default_rng(0).permutation(100):
        assert again.place_of(int(position)) == sequence[position]
    other = EpochOrder([4] * 9, seed=2, window_shards=4)
    assert [other.place_of(i) for i in range(100)] != sequence


def test_shuffling_goes_across_the_shards_of_a_window() -> None:
    order = EpochOrder([50] * 8, seed=0, window_shards=4)
    first = [order.place_of(i).shard for i in range(200)]
    assert len(set(first)) == 4
    assert len(set(first[:20])) > 2


def test_fixed_order_and_slices() -> None:
    order = FixedOrder([2, 0, 3])
    assert [(order.place_of(i).shard, order.place_of(i).clip) for i in range(5)] == [
        (0, 0),
        (0, 1),
        (2, 0),
        (2, 1),
        (2, 2),
    ]
    for size, num_ranks in itertools.product((4, 7, 8), (1, 2, 3, 4)):
        parts = [rank_slice(10, size, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
        assert list(itertools.chain(*parts)) == list(range(10, 10 + size))
    assert [list(rank_slice(8, 1, rank=rank, num_ranks=3)) for rank in range(3)] == [[8], [8], [8]]


def test_replacements_are_a_function_of_position_and_attempt() -> None:
    counts = [3, 0, 5, 2]
    order = EpochOrder(counts, seed=1, window_shards=2)
    drawn = {}
    for position, attempt in itertools.product(range(30), range(1, 20)):
        place = order.replacement(position, attempt)
        assert place.clip < counts[place.shard]
        assert (place.epoch, place.index) == divmod(position, 10)
        drawn[position, attempt] = (place.shard, place.clip)
    assert len(set(drawn.values())) == 10
    again = EpochOrder(counts, seed=1, window_shards=2)
    assert all(again.replacement(*at).clip == clip for at, (_, clip) in drawn.items())
    fixed = FixedOrder(counts)
    assert [fixed.replacement(9, attempt).shard for attempt in (1, 3, 4, 9)] == [0, 0, 2, 3]


def test_windows_hold_what_is_read_about_a_position_and_after_it() -> None:
    mixed = MixedOrder([[3, 5, 2, 7], [4, 4]], [0.5, 0.5], seed=1, window_shards=2)
    for order in (EpochOrder([3, 0, 5, 2, 1, 7, 0, 4], seed=1, window_shards=3), mixed):
        for position in range(60):
            now, then = order.windows(range(position, position + 1))
            assert order.place_of(position).shard in now
            assert {*order.windows(range(position + 1, position + 2))[0]} <= {*now, *then}
            assert len(then) == len(now)
    fixed = FixedOrder([2, 0, 3])
    assert [fixed.windows(range(i, i + 1)) for i in range(5)] == [([0], [2])] * 2 + [([2], [])] * 3


def grouped(counts: list[list[int]], weights: list[float] | None = None) -> GroupedOrder:
    def make(part: list[list[int]]) -> Order:
        return MixedOrder(part, weights, seed=1, window_shards=2) if weights else EpochOrder(part[0], seed=1)

    return GroupedOrder(make, counts, groups=4, batch_size=8, seed=1)


def test_each_group_gives_an_equal_part_of_every_batch_and_all_its_clips_in_turn() -> None:
    counts = [3, 0, 5, 2, 4, 7, 1, 4, 6, 8, 2, 6]
    order = grouped([counts])
    groups = [{i for i, count in enumerate(part[0]) if count} for part in deal([counts], 4, seed=1)]
    assert set.union(*groups) == {i for i, count in enumerate(counts) if count}
    sizes = [sum(counts[shard] for shard in group) for group in groups]
    assert sum(sizes) == order.num_clips == 48
    assert max(sizes) - min(sizes) <= max(counts)
    seen: list[list[tuple[int, int]]] = [[] for _ in groups]
    for position in range(400):
        place, group = order.place_of(position), position % 8 // 2
        assert (place.epoch, place.index) == divmod(position, 48)
        assert place.shard in groups[group]
        assert order.replacement(position, 1).shard in groups[group]
        seen[group].append((place.shard, place.clip))
    for clips, size in zip(seen, sizes, strict=True):
        for start in range(0, len(clips) - size, size):
            assert len(set(clips[start : start + size])) == size, "none twice before all came once"


@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])
def test_a_rank_reads_the_shards_of_its_groups_alone(num_ranks: int) -> None:
    mixed = grouped([[3, 5, 2, 7, 4, 4], [4, 4, 4, 4, 4]], [0.5, 0.5])
    read: dict[int, set[int]] = {rank: set() for rank in range(num_ranks)}
    for batch in range(40):
        for rank, own in read.items():
            positions = rank_slice(batch * 8, 8, rank=rank, num_ranks=num_ranks)
            now, _ = mixed.windows(positions)
            shards = {mixed.place_of(position).shard for position in positions}
            assert shards <= {*now}
            own |= shards
    if num_ranks <= 4:
        assert sum(map(len, read.values())) == 11, "each shard is read by one rank"
