"""Three habits of a CPU process that cost training much of its speed, and how to lose them."""

import ctypes
import os
import sys
from pathlib import Path

import numpy as np
import torch

from ...models.cgroups import OWN, ROOT, own_cgroups

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt(3)
NEVER = -1


def spare_cpu() -> None:
    """For a process that computes on a CPU, before its first tensor operation; saves a third of the face stage's time.

    glibc maps a large block anew each time, gives it back when its tensor dies, and the kernel clears every page again:
    the process keeps its memory, up to its peak. And arithmetic on denormals (below 1e-38: tails of a softmax and their
    gradients) takes many times as long: they count as zero. And in a container torch starts a thread for each core of
    the host, though it may use only a few: too many threads would slow each other down.
    """
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # NumPy warns when it first looks at the limits of a type without denormals; it looks once
    torch.set_flush_denormal(True)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, NEVER)


def usable_cores(cgroups: Path = ROOT, own: Path = OWN) -> int:
    """Cores that this process may keep busy: those it may run on, or the quota of its container if that is less.

    Quotas stand in `cpu.max` of the process's cgroup and of those above it (version 2), or in `cpu.cfs_quota_us`
    (version 1): https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in own_cgroups("cpu", cgroups, own) if (quota := _quota(folder))]
    return max(1, min([cores, *map(round, quotas)]))


def _quota(folder: Path) -> float | None:
    """Cores that a cgroup may use; None if it has no limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return float(quota) / float(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None
