"""The memory that batches are made in: a worker decodes into it, the trainer reads it in place, then it is used again.

Memory that is new for each batch costs half as much as decoding into it: its pages are cleared, filled, copied to where
another process can see them, and thrown away. A slot is used again as soon as nothing refers to the batch that lay in
it; as long as a batch is kept, its slot is, and another one is made in its place.
"""

import contextlib
import math
import os
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ...models.cgroups import OWN, ROOT, own_cgroups
from ..batch import Batch

ALIGN = 64  # every array begins at a multiple of so many bytes; as many at the end of a slot say whether it is in use


def available_memory(cgroups: Path = ROOT, own: Path = OWN) -> int | None:
    """Bytes that this process may still take: of the machine, or of its container or job if they have less.

    None if nothing tells. Limits of control groups stand in `memory.max` (version 2) or `memory.limit_in_bytes` (1).
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for group in own_cgroups("memory", cgroups, own):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
                free.append(int((group / limit).read_text()) - int((group / used).read_text()))
    return max(0, min(free)) if free else None


def room_for_sharing() -> int | None:
    """Bytes that are free where processes share memory, a small disk in a container; None: unknown."""
    try:
        disk = os.statvfs("/dev/shm")
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


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
        self.shared = shared
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

    def copy(self, value: Any) -> Any:
        """What was made, as it can be sent without shared memory: arrays instead of places and tensors."""
        if isinstance(value, SlotArray):
            return self.bytes[value.offset : value.offset + value.size].view(value.dtype).reshape(value.shape).copy()
        return value.numpy() if isinstance(value, Tensor) else value

    def keep(self, name: str, values: list[str]) -> None:
        self.made[name] = values


@dataclass
class MadeBatch:
    """A batch on its way to the trainer: tensors, texts, and places in a slot."""

    fields: dict[str, Any]
    memory: Tensor | None  # None: there was no room to share it, and the fields hold NumPy arrays

    def open(self) -> Batch:
        """The batch, whose tensors lie in the slot. Once all of them are gone, the slot is free."""
        if self.memory is None:
            return {name: _as_tensor(value) for name, value in self.fields.items()}
        whole = self.memory.numpy()  # a new array, which every tensor of the batch refers to: its end is theirs
        weakref.finalize(whole, release, self.memory).atexit = False
        batch: Batch = {}
        for name, value in self.fields.items():
            if isinstance(value, SlotArray):
                array = whole[value.offset : value.offset + value.size].view(value.dtype).reshape(value.shape)
                assert array.base is whole, "numpy has it refer to the memory, so the slot would be free too early"
                value = array
            batch[name] = _as_tensor(value)
        return batch

    def pin_memory(self, device: Any = None) -> Batch:
        """Called by the loader if there is a GPU: the batch in pinned memory."""
        return {name: v.pin_memory() if isinstance(v, Tensor) else v for name, v in self.open().items()}


def _as_tensor(value: Any) -> Any:
    """An array of a batch as a tensor; pictures (B, S, S, 3) as (B, 3, S, S), channels last, as decoders write them."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    return value.permute(0, 3, 1, 2) if isinstance(value, Tensor) and value.ndim == 4 else value


def release(memory: Tensor) -> None:
    memory[-1] = 0


class BatchMemory:
    """The slots of one process.

    If a worker finds too little room to share memory with the trainer, as in containers, where /dev/shm has 64 MB
    unless they are told otherwise, batches go through a pipe: slower, but to write there would end the process.
    """

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.size = 0  # of the largest batch so far
        self.told = False  # whether it was said that there is no room

    def take(self) -> Slot:
        """A slot that is free."""
        self.slots = [slot for slot in self.slots if slot.size >= self.size]  # smaller ones live as long as their batch
        for slot in self.slots:
            if slot.free:
                return slot.begin()
        worker = get_worker_info()
        self.slots.append(Slot(self.size, shared=worker is not None and self._fits(self.size, worker)))
        return self.slots[-1]

    def finish(self, slot: Slot) -> MadeBatch:
        """The batch in a slot, ready to be sent."""
        self.size = max(self.size, slot.used)
        worker = get_worker_info()
        if worker is None or (slot.shared and (slot.size >= slot.used or self._fits(slot.used, worker))):
            return MadeBatch(slot.made, slot.memory)
        fields = {name: slot.copy(value) for name, value in slot.made.items()}
        release(slot.memory)
        return MadeBatch(fields, None)

    def give_back(self, slot: Slot) -> None:
        """Take back a slot whose batch could not be made."""
        release(slot.memory)

    def _fits(self, size: int, worker: Any) -> bool:
        """Whether all workers find room to share one more batch of this size each."""
        room = room_for_sharing()
        if room is None or room >= size * worker.num_workers:
            return True
        if not self.told and worker.id == 0:
            batch = f"a batch takes {size / 1e6:.1f} MB for each of {worker.num_workers} workers"
            told = f"/dev/shm has {room / 1e6:.1f} MB free, {batch}; they go through pipes, which is slower"
            print(f"emohead: {told}; in a container, docker run --shm-size=8g", file=sys.stderr, flush=True)
        self.told = True
        return False
