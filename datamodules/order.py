"""The order of samples: a pure function of (seed, epoch), the same for any number of ranks and workers.

Shards are permuted, then the samples within windows of shards: near to a full shuffle, while only a window of indexes
is in use at a time. Positions run on without end; position p lies in epoch p // num_samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Place:
    """Where the sample of a position lies, and what its random choices are drawn from."""

    epoch: int
    index: int  # within the epoch
    shard: int
    sample: int  # within the shard's selected samples


class EpochOrder:
    """Maps positions to samples; `counts` holds the number of selected samples of each shard."""

    def __init__(self, counts: Sequence[int], *, seed: int, window_shards: int = 16) -> None:
        self.counts = np.asarray(counts, np.int64)
        self.num_samples = int(self.counts.sum())
        self.seed, self.window_shards = seed, window_shards
        self._epoch, self._shards, self._starts = -1, np.zeros(0, np.int64), np.zeros(1, np.int64)
        self._window = (-1, -1, np.zeros(0, np.int64))  # epoch, window, its permutation

    def sample_at(self, position: int) -> Place:
        """The sample at a position; consecutive positions cost little, a jump costs one permutation of a window."""
        epoch, index = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._start_epoch(epoch)
        window = int(np.searchsorted(self._starts, index, side="right")) - 1
        if self._window[:2] != (epoch, window):
            size = int(self._starts[window + 1] - self._starts[window])
            rng = np.random.default_rng([self.seed, epoch, 1, window])
            self._window = (epoch, window, rng.permutation(size))
        within = int(self._window[2][index - self._starts[window]])  # counts through the shards of the window
        shards = self._shards[window * self.window_shards :][: self.window_shards]
        ends = np.cumsum(self.counts[shards])
        which = int(np.searchsorted(ends, within, side="right"))
        sample = within - int(ends[which - 1] if which else 0)
        return Place(epoch, index, int(shards[which]), sample)

    def _start_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        filled = np.flatnonzero(self.counts)
        self._shards = np.random.default_rng([self.seed, epoch, 0]).permutation(filled)
        firsts = range(0, len(filled), self.window_shards)
        sizes = [int(self.counts[self._shards[first : first + self.window_shards]].sum()) for first in firsts]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])


class FixedOrder:
    """Every selected sample once, as stored; its random choices are the same in every epoch."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.ends = np.cumsum(np.asarray(counts, np.int64))
        self.num_samples = int(self.ends[-1]) if len(self.ends) else 0

    def sample_at(self, position: int) -> Place:
        shard = int(np.searchsorted(self.ends, position, side="right"))
        return Place(0, position, shard, position - int(self.ends[shard - 1] if shard else 0))


def rank_slice(first: int, size: int, *, rank: int, num_ranks: int) -> range:
    """The positions of one rank in a global batch of `size` positions from `first`; in order, they make up the batch.

    A batch smaller than the number of ranks leaves nobody empty-handed: the last position is then read more than once,
    so that every rank has something to bring to a collective operation.
    """
    start, stop = first + size * rank // num_ranks, first + size * (rank + 1) // num_ranks
    if start == stop:
        start, stop = first + min(rank, size - 1), first + min(rank, size - 1) + 1
    return range(start, stop)
