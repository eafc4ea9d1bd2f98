"""The order of clips: a pure function of (seed, epoch), the same for any number of ranks and workers.

Shards are permuted, then the clips within windows of shards: near to a full shuffle, while only a window of indexes
is in use at a time. Positions run on without end; position p lies in epoch p // num_clips.

A clip that turns out to be bad is replaced by another, which depends only on its position and on how many
replacements were bad as well: an order is the same whatever was found before, and by whichever process.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Place:
    """The place of a position's clip, and the numbers that the random choices of its sample are drawn from."""

    epoch: int
    index: int  # within the epoch
    shard: int
    clip: int  # within the shard's selected clips


class Order(ABC):
    """Maps positions to clips."""

    num_clips: int  # of an epoch
    endless: bool  # whether positions run on after an epoch

    @abstractmethod
    def place_of(self, position: int) -> Place:
        """The clip at a position; consecutive positions cost little."""

    @abstractmethod
    def windows(self, positions: range) -> tuple[list[int], list[int]]:
        """The shards that are read at these positions of a batch, and those that are read after them."""

    @abstractmethod
    def replacement(self, position: int, attempt: int) -> Place:
        """The clip that stands in if the one at a position and `attempt` - 1 replacements of it are bad."""


class EpochOrder(Order):
    """Every clip once an epoch, shuffled; `counts` holds the number of selected clips of each shard."""

    endless = True

    def __init__(self, counts: Sequence[int], *, seed: int, window_shards: int = 16) -> None:
        self.counts = np.asarray(counts, np.int64)
        self.ends = np.cumsum(self.counts)
        self.num_clips = int(self.counts.sum())
        self.seed, self.window_shards = seed, window_shards
        self._layouts: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of an epoch or two: see `_layout`
        self._window = (-1, -1, np.zeros(0, np.int64))  # epoch, window, its permutation

    def place_of(self, position: int) -> Place:
        """A jump costs one permutation of a window."""
        epoch, index = divmod(position, self.num_clips)
        shards, starts = self._layout(epoch)
        window = int(np.searchsorted(starts, index, side="right")) - 1
        if self._window[:2] != (epoch, window):
            size = int(starts[window + 1] - starts[window])
            rng = np.random.default_rng([self.seed, epoch, 1, window])
            self._window = (epoch, window, rng.permutation(size))
        within = int(self._window[2][index - starts[window]])  # counts through the shards of the window
        shards = shards[window * self.window_shards :][: self.window_shards]
        which, clip = locate(within, np.cumsum(self.counts[shards]))
        return Place(epoch, index, int(shards[which]), clip)

    def windows(self, positions: range) -> tuple[list[int], list[int]]:
        """The window of the first one and the next window, which may be the first of the next epoch."""
        epoch, index = divmod(positions[0], self.num_clips)
        shards, starts = self._layout(epoch)
        first = (int(np.searchsorted(starts, index, side="right")) - 1) * self.window_shards
        stop = first + self.window_shards
        following = shards[stop:] if stop < len(shards) else self._layout(epoch + 1)[0]
        return shards[first:stop].tolist(), following[: self.window_shards].tolist()

    def replacement(self, position: int, attempt: int) -> Place:
        """Any clip: the neighbours of a bad one may be as bad."""
        epoch, index = divmod(position, self.num_clips)
        number = int(np.random.default_rng([self.seed, epoch, 2, index, attempt]).integers(self.num_clips))
        return Place(epoch, index, *locate(number, self.ends))

    def _layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards of an epoch in their order, and the index that each window begins at, with the end."""
        if epoch not in self._layouts:
            filled = np.flatnonzero(self.counts)
            shards = np.random.default_rng([self.seed, epoch, 0]).permutation(filled)
            firsts = range(0, len(filled), self.window_shards)
            sizes = [int(self.counts[shards[first : first + self.window_shards]].sum()) for first in firsts]
            near = {e: layout for e, layout in self._layouts.items() if abs(e - epoch) == 1}
            self._layouts = near | {epoch: (shards, np.concatenate([[0], np.cumsum(sizes)]))}
        return self._layouts[epoch]


class FixedOrder(Order):
    """Every selected clip once, as stored; its random choices are the same in every epoch."""

    endless = False

    def __init__(self, counts: Sequence[int]) -> None:
        self.ends = np.cumsum(np.asarray(counts, np.int64))
        self.num_clips = int(self.ends[-1]) if len(self.ends) else 0

    def place_of(self, position: int) -> Place:
        return Place(0, position, *locate(position, self.ends))

    def windows(self, positions: range) -> tuple[list[int], list[int]]:
        """One shard each."""
        shard = locate(positions[0], self.ends)[0]
        end = int(self.ends[shard])
        return [shard], [locate(end, self.ends)[0]] if end < self.num_clips else []

    def replacement(self, position: int, attempt: int) -> Place:
        """The next ones, from the first again after the last."""
        return Place(0, position, *locate((position + attempt) % self.num_clips, self.ends))


def locate(number: int, ends: np.ndarray) -> tuple[int, int]:
    """Shard and clip in it of a number that counts through all clips; `ends` sums up the shards' counts."""
    shard = int(np.searchsorted(ends, number, side="right"))
    return shard, number - int(ends[shard - 1] if shard else 0)


def rank_slice(first: int, size: int, *, rank: int, num_ranks: int) -> range:
    """The positions of one rank in a global batch of `size` positions from `first`; in order, they make up the batch.

    A batch smaller than the number of ranks leaves nobody empty-handed: the last position is then read more than once,
    so that every rank has something to bring to a collective operation.
    """
    start, stop = first + size * rank // num_ranks, first + size * (rank + 1) // num_ranks
    if start == stop:
        start, stop = first + min(rank, size - 1), first + min(rank, size - 1) + 1
    return range(start, stop)
