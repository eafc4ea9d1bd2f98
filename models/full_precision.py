"""Arithmetic that stays in float32 within mixed precision: positions, distances, sums of squares."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """No autocast within, on GPU and CPU; as a context or around a function. Inputs have to be float32 already.

    float16 ends at 65,504 and bfloat16 has 8 bits: not enough for a place among 256 pixels.
    """
    with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        yield
