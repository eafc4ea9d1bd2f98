"""The bytes that are alive at the peak of something, counted on any device, `meta` included.

    python benchmarks/memory.py [STAGE]

checks the count: a step of a debug stage on real tensors, its peak as counted here and as PyTorch's profiler saw
the CPU's allocator.
"""

import argparse
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Memory(TorchDispatchMode):
    """Follows the storages on a device that were made while it is entered, until nobody holds them any more."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.now = self.peak = 0  # bytes
        self.known: dict[int, weakref.finalize] = {}  # by address

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.device.type == self.device:
                self._follow(leaf.untyped_storage())
        return out

    def _follow(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.now += size
            self.peak = max(self.peak, self.now)
            self.known[key] = weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.now -= size
        del self.known[key]

    def begin(self) -> int:
        """Look for a new peak from here; returns the bytes that are alive now."""
        self.peak = self.now
        return self.now


def profiled_peak(step: Any) -> int:
    """The most bytes that the CPU's allocator held beyond those that it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    held = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def check(name: str, folder: Path) -> tuple[float, float]:
    """MiB above the start at the peak of a step of a debug stage, as counted and as profiled."""
    from engines import attach_engines
    from overhead import SIZES, make_batch, make_stage

    given = ("emotion", "motion", "face") if name in ("motion", "distill") else ()
    for before in given:
        if before != name:
            make_stage(before, folder).export(folder / f"{before}.safetensors", {})
    with Memory("cpu") as memory:
        stage: Any = make_stage(name, folder).train()
        stage.on_fit_start()
        stage.num_batches = 1  # no gradient penalty, which comes in one step of sixteen
        attach_engines(stage)
        batch = make_batch(name, SIZES[name] // 4)
        stage.training_step(batch, 0)  # what is kept from step to step is there then
        before_step = memory.begin()
        stage.training_step(batch, 0)
    counted = memory.peak - before_step
    profiled = profiled_peak(lambda: stage.training_step(batch, 0))
    return counted / 2**20, profiled / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", default="motion")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        counted, profiled = check(options.stage, Path(folder))
    print(f"{options.stage}: counted {counted:,.1f} MiB, profiled {profiled:,.1f} MiB above the start of a step")


if __name__ == "__main__":
    main()
