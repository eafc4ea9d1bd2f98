"""The memory that batches are made in: a worker decodes into it, the trainer reads it in place, then it is used again.

Memory that is new for each batch costs half as much as decoding into it: its pages are cleared, filled, copied to where
another process can see them, and thrown away. A slot is used again as soon as nothing refers to the batch that lay in
it; as long as a batch is kept, its slot is, and another one is made in its place.
"""

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ..batch import Batch

ALIGN = 64  # every array begins at a multiple of so many bytes; as many at the end of a slot say whether it is in use


@dataclass
class SlotArray:
    """The place of an array in a slot."""

    offset: int
    size: int  # bytes
    shape: tuple[int, ...]
    dtype: np.dtype


class Slot:
    """Room for one batch at a time. What does not fit gets memory of its own, and the next slot is made larger."""

    def __init__(self, size: int, *, shared: bool) -> None:
        self.memory = torch.zeros(size + ALIGN, dtype=torch.uint8)
        if shared:
            self.memory.share_memory_()
        self.bytes = self.memory.numpy()
        self.size = size
        self.begin()

    def begin(self) -> "Slot":
        self.bytes[-1] = True
        self.used = 0
        self.made: dict[str, Any] = {}
        return self

    @property
    def free(self) -> bool:
        return not self.bytes[-1]

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        """An array of the batch, to be filled in."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        start, self.used = self.used, self.used + -(-size // ALIGN) * ALIGN
        if self.used > self.size:
            array = np.empty(shape, dtype)
            self.made[name] = torch.from_numpy(array)
            return array
        array = self.bytes[start : start + size].view(dtype).reshape(shape)
        self.made[name] = SlotArray(start, size, shape, array.dtype)
        return array

    def stack(self, name: str, values: Sequence[Any]) -> None:
        """Arrays or numbers of all samples as one array."""
        first = np.asarray(values[0])
        rows = self.array(name, (len(values), *first.shape), first.dtype)
        for row, value in enumerate(values):
            assert np.shape(value) == first.shape, f"{name}: shapes {np.shape(value)} and {first.shape} in one batch"
            rows[row] = value

    def keep(self, name: str, values: list[str]) -> None:
        self.made[name] = values


@dataclass
class MadeBatch:
    """A batch on its way to the trainer: tensors, texts, and places in a slot."""

    fields: dict[str, Any]
    memory: Tensor

    def open(self) -> Batch:
        """The batch, whose tensors lie in the slot. Once all of them are gone, the slot is free."""
        whole = self.memory.numpy()  # a new array, which every tensor of the batch refers to: its end is theirs
        weakref.finalize(whole, release, self.memory).atexit = False
        batch: Batch = {}
        for name, value in self.fields.items():
            if isinstance(value, SlotArray):
                array = whole[value.offset : value.offset + value.size].view(value.dtype).reshape(value.shape)
                assert array.base is whole, "numpy has it refer to the memory, so the slot would be free too early"
                value = torch.from_numpy(array)
            if isinstance(value, Tensor) and value.ndim == 4:
                value = value.permute(0, 3, 1, 2)  # (B, 3, S, S), channels last in memory, as decoders write them
            batch[name] = value
        return batch

    def pin_memory(self, device: Any = None) -> Batch:
        """Called by the loader if there is a GPU: the batch in pinned memory."""
        return {name: v.pin_memory() if isinstance(v, Tensor) else v for name, v in self.open().items()}


def release(memory: Tensor) -> None:
    memory[-1] = 0


class BatchMemory:
    """The slots of one process."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.size = 0  # of the largest batch so far

    def take(self) -> Slot:
        """A slot that is free."""
        self.slots = [slot for slot in self.slots if slot.size >= self.size]  # smaller ones live as long as their batch
        for slot in self.slots:
            if slot.free:
                return slot.begin()
        self.slots.append(Slot(self.size, shared=get_worker_info() is not None))
        return self.slots[-1]

    def finish(self, slot: Slot) -> MadeBatch:
        """The batch in a slot, ready to be sent."""
        self.size = max(self.size, slot.used)
        return MadeBatch(slot.made, slot.memory)

    def give_back(self, slot: Slot) -> None:
        """Take back a slot whose batch could not be made."""
        release(slot.memory)
