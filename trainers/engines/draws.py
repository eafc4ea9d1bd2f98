"""Random numbers of a step that belong to samples, not to processes.

They are drawn for the whole global batch on every rank, which then takes the rows of its own samples: a run on any
number of ranks, in any number of parts, draws the same for the same sample.
"""

import numpy as np
import torch
from torch import Tensor


def seeded_generator(*integers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that is a pure function of the integers, such as (seed, batch number)."""
    seed = int(np.random.default_rng(list(integers)).integers(2**62))
    return torch.Generator(device).manual_seed(seed)


class Draws:
    """Draws for `rows` of a global batch of `total` samples. Shapes: R rows."""

    def __init__(self, *seeds: int, rows: range, total: int, device: torch.device | str = "cpu") -> None:
        # The device `meta`, on which only shapes are known, has no generator.
        self.generator = None if torch.device(device).type == "meta" else seeded_generator(*seeds, device=device)
        self.device = device
        self.rows = slice(rows.start, rows.stop)
        self.total = total

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1) -> (R, *shape)."""
        return torch.rand(self.total, *shape, generator=self.generator, device=self.device)[self.rows]

    def normal(self, *shape: int) -> Tensor:
        """Mean 0, deviation 1 -> (R, *shape)."""
        return torch.randn(self.total, *shape, generator=self.generator, device=self.device)[self.rows]

    def integers(self, high: int) -> Tensor:
        """In [0, high) -> int64 (R,)."""
        return torch.randint(high, (self.total,), generator=self.generator, device=self.device)[self.rows]
