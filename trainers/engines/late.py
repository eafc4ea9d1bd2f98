"""A number that a GPU computes, read once the GPU has come to it: the CPU goes on meanwhile."""

import torch
from torch import Tensor


class Late:
    """A scalar on its way to the CPU."""

    def __init__(self, value: Tensor | float) -> None:
        value = torch.as_tensor(value, dtype=torch.float32).detach()
        self.ready: torch.cuda.Event | None = None
        if value.device.type == "cuda":
            self.host = torch.empty((), dtype=torch.float32, pin_memory=True)
            self.host.copy_(value, non_blocking=True)
            self.ready = torch.cuda.Event()
            self.ready.record(torch.cuda.current_stream(value.device))
        else:
            self.host = value

    def read(self) -> float:
        """Wait until it is there. A step later it is, and nobody waits."""
        if self.ready is not None:
            self.ready.synchronize()
            self.ready = None
        return float(self.host)
