"""Shards dealt into groups, for many machines that read from a store: each needs only a part of what all read.

An equal part of every batch comes from each group, which is shuffled by itself. Ranks take neighbouring parts of a
batch, so that a machine reads the shards of its groups and no others: each shard once an epoch by one machine, where
otherwise each machine would need some clips of every shard. Like any order this one is the same for any number of
ranks; how many groups there are is a setting, as the size of a batch is.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .order import Order, Place

Counts = list[list[int]]  # of the selected clips of each shard of each data set


class GroupedOrder(Order):
    """Row r of a batch of B comes from group r * groups // B.

    Groups have about the same number of clips, and each runs through epochs of its own. So an epoch of the whole is as
    many positions as there are clips, and a clip of a smaller group comes a little more often than others.
    """

    endless = True

    def __init__(self, make: Callable[[Counts], Order], counts: Counts, *, groups: int, batch_size: int, seed: int):
        assert batch_size % groups == 0
        self.orders = [make(part) for part in deal(counts, groups, seed)]
        self.num_clips = sum(order.num_clips for order in self.orders)
        self.batch_size, self.share = batch_size, batch_size // groups

    def place_of(self, position: int) -> Place:
        group, inner = self._inner(position)
        return self._outer(self.orders[group].place_of(inner), position)

    def windows(self, positions: range) -> tuple[list[int], list[int]]:
        """Those of the groups that the positions, all of one batch, belong to."""
        now: list[int] = []
        then: list[int] = []
        first, last = (self._inner(position)[0] for position in (positions[0], positions[-1]))
        inner = positions[0] // self.batch_size * self.share
        for order in self.orders[first : last + 1]:
            for shards, own in zip((now, then), order.windows(range(inner, inner + self.share)), strict=True):
                shards += own
        return now, then

    def replacement(self, position: int, attempt: int) -> Place:
        """A clip of the same group."""
        group, inner = self._inner(position)
        return self._outer(self.orders[group].replacement(inner, attempt), position)

    def _inner(self, position: int) -> tuple[int, int]:
        """The group of a position, and the position in the group's own order."""
        batch, row = divmod(position, self.batch_size)
        group, within = divmod(row, self.share)
        return group, batch * self.share + within

    def _outer(self, place: Place, position: int) -> Place:
        # Draws depend on epoch and index: those of the whole, so that groups do not draw alike.
        epoch, index = divmod(position, self.num_clips)
        return replace(place, epoch=epoch, index=index)


def deal(counts: Counts, groups: int, seed: int) -> list[Counts]:
    """The counts of each group's shards, 0 for those of others; every data set is dealt out by itself.

    In a random order, and each shard to the group that has the fewest clips so far.
    """
    dealt: list[Counts] = [[[0] * len(part) for part in counts] for _ in range(groups)]
    for number, part in enumerate(counts):
        rng, held = np.random.default_rng([seed, number, 3]), np.zeros(groups)
        for shard in rng.permutation(np.flatnonzero(part)):
            group = int(held.argmin())
            dealt[group][number][shard] = part[shard]
            held[group] += part[shard]
    return dealt
