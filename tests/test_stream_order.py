"""The order of clips: a function of seed and position."""

import itertools

import numpy as np
from emohead.datamodules.stream.mixture import MixedOrder
from emohead.datamodules.stream.order import EpochOrder, FixedOrder, rank_slice


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
            now, then = order.windows(position)
            assert order.place_of(position).shard in now
            assert {*order.windows(position + 1)[0]} <= {*now, *then}
            assert len(then) == len(now)
    fixed = FixedOrder([2, 0, 3])
    assert [fixed.windows(i) for i in range(5)] == [([0], [2])] * 2 + [([2], [])] * 3
