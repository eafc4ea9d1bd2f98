"""How fast a run is: samples a second, the share of time spent waiting for data, the share of the hardware's rate."""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..engines.precision import REDUCED

# Dense rates in FLOP/s (vendors' data sheets), by a part of the name that the driver gives.
PEAKS_16_BIT = {
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
    "A40": 150e12, "L4": 121e12, "V100": 125e12, "4090": 165e12, "3090": 71e12,
}  # fmt: skip
PEAKS_TF32 = {  # where the matrix units have it
    "B200": 1100e12, "H200": 495e12, "H100 PCIe": 378e12, "H100": 495e12, "A100": 156e12, "L40S": 183e12,
    "A40": 75e12, "L4": 60e12, "V100": 16e12, "4090": 83e12, "3090": 36e12,
}  # fmt: skip
PEAKS_32_BIT = {
    "B200": 75e12, "H200": 67e12, "H100 PCIe": 51e12, "H100": 67e12, "A100": 19.5e12, "L40S": 92e12,
    "A40": 37e12, "L4": 30e12, "V100": 16e12, "4090": 83e12, "3090": 36e12,
}  # fmt: skip
RECOUNT = 1000  # steps between two counts of a step's work, which changes when an adversary joins in
COUNTED = (1, 50)  # places in these at which it is counted: first, and when sentences that come again are all known


class WorkCounter(FlopCounterMode):
    """Counts the FLOPs of what is done inside, as a whole.

    By itself torch's counter also follows modules, by hooks on their inputs. They fail if the gradient with respect to
    an input is asked for, as R1 does.
    """

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker = _Untracked()  # type: ignore[assignment]


class _Untracked:
    """In place of torch's ModuleTracker."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


class Meter:
    """Follows the steps of one rank from one reading to the next."""

    def __init__(self) -> None:
        self.step = 0
        self.flops = 0.0  # of a step on this rank, forward and backward
        self.counter: WorkCounter | None = None
        self.peak = 0.0
        self.forget()

    def forget(self) -> None:
        self.since = time.perf_counter()
        self.samples = self.counted = 0
        self.busy = 0.0  # seconds within steps

    def leave_out(self, seconds: float) -> None:
        """Time that belongs to no step, such as a validation."""
        self.since += seconds

    def begin_step(self) -> None:
        if self.step % RECOUNT in COUNTED:
            self.counter = WorkCounter()
            self.counter.__enter__()
        self.started = time.perf_counter()

    def end_step(self, size: int) -> None:
        seconds = time.perf_counter() - self.started
        self.step += 1
        if self.counter is not None:  # counting is slow: this step is left out of the figures
            self.counter.__exit__(None, None, None)
            self.flops = float(self.counter.get_total_flops())
            self.counter = None
            self.leave_out(seconds)
            return
        self.busy += seconds
        self.samples += size
        self.counted += 1

    def read(self, num_ranks: int, device: torch.device, precision: str) -> dict[str, float]:
        """Figures since the last reading: the speed of all ranks together (they keep step), the shares of this rank."""
        seconds = time.perf_counter() - self.since
        if not self.counted or seconds <= 0:
            return {}
        values = {
            "samples_per_second": self.samples * num_ranks / seconds,
            "data_wait_share": max(0.0, 1 - self.busy / seconds),
        }
        if self.flops:
            self.peak = self.peak or peak_rate(device, precision)
            values["mfu"] = self.flops * self.counted / self.busy / self.peak
        self.forget()
        return values


def peak_rate(device: torch.device, precision: str) -> float:
    """FLOP/s that the device can reach: a data sheet's figure if its name is known, a measured product otherwise."""
    if device.type == "cuda":
        tf32 = torch.backends.cuda.matmul.allow_tf32
        peaks = PEAKS_16_BIT if precision in REDUCED else PEAKS_TF32 if tf32 else PEAKS_32_BIT
        for part, peak in peaks.items():
            if part in torch.cuda.get_device_name(device):
                return peak
    return measured_rate(device, REDUCED.get(precision, torch.float32))


@torch.no_grad()
def measured_rate(device: torch.device, dtype: torch.dtype, size: int = 1024, repeats: int = 8) -> float:
    """FLOP/s of a square matrix product, the best of a few."""
    a = torch.ones(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best
