"""The order of a mixture of data sets by weight, as exact and as independent of ranks and workers as that of one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..config import whole_shares
from .order import EpochOrder, Order, Place


class MixedOrder(Order):
    """After any number of positions, each data set has had its share of them to within one.

    Each data set runs through its own epochs, at its own pace. An epoch of the mixture is as many positions as there
    are clips: one of a data set's clips may come twice in it and another one's not at all, but none comes twice
    before all others of its data set came once.
    """

    endless = True

    def __init__(
        self,
        counts: Sequence[Sequence[int]],  # of the shards of each data set
        weights: Sequence[float],
        *,
        seed: int,
        window_shards: int = 16,
    ) -> None:
        self.orders = [EpochOrder(part, seed=seed, window_shards=window_shards) for part in counts]
        self.first_shards = np.cumsum([0, *map(len, counts)])  # of each data set, in the list of all shards
        self.num_clips = sum(order.num_clips for order in self.orders)
        self.shares = whole_shares(weights)
        self.period = sum(self.shares)
        self.pattern = interleave(self.shares)  # (period,) data set of each position, and so on again
        taken = self.pattern[:, None] == np.arange(len(self.shares))
        self.before = np.cumsum(taken, axis=0) - taken  # (period, data sets) positions each had before this one

    def place_of(self, position: int) -> Place:
        number, inner = self._inner(position)
        return self._outer(self.orders[number].place_of(inner), number, position)

    def windows(self, positions: range) -> tuple[list[int], list[int]]:
        """Those that all data sets are in, and their next ones."""
        periods, slot = divmod(positions[0], self.period)
        now: list[int] = []
        then: list[int] = []
        for number, order in enumerate(self.orders):
            inner = periods * self.shares[number] + int(self.before[slot, number])
            for shards, own in zip((now, then), order.windows(range(inner, inner + 1)), strict=True):
                shards += [shard + int(self.first_shards[number]) for shard in own]
        return now, then

    def replacement(self, position: int, attempt: int) -> Place:
        """A clip of the same data set."""
        number, inner = self._inner(position)
        return self._outer(self.orders[number].replacement(inner, attempt), number, position)

    def _inner(self, position: int) -> tuple[int, int]:
        """The data set of a position, and the position in its own order."""
        periods, slot = divmod(position, self.period)
        number = int(self.pattern[slot])
        return number, periods * self.shares[number] + int(self.before[slot, number])

    def _outer(self, place: Place, number: int, position: int) -> Place:
        # Draws depend on epoch and index: those of the mixture, so that data sets of one size do not draw alike.
        epoch, index = divmod(position, self.num_clips)
        return replace(place, epoch=epoch, index=index, shard=place.shard + int(self.first_shards[number]))


def interleave(shares: Sequence[int]) -> np.ndarray:
    """A pattern (sum(shares),) in which i comes shares[i] times, and in any beginning of it its quota to within one.

    Balinski and Young's quota method (1975): of those that would not pass their upper quota, take the one next due.
    """
    share = np.asarray(shares, np.int64)
    counts, period = np.zeros_like(share), int(share.sum())
    pattern = np.zeros(period, np.int64)
    for slot in range(period):
        allowed = counts * period < (slot + 1) * share
        due = np.where(allowed, (counts + 1) / np.maximum(share, 1), np.inf)
        pattern[slot] = np.argmin(due)
        counts[pattern[slot]] += 1
    return pattern
