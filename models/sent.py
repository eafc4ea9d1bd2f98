"""Numbers that Python has made, on their way to a GPU."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU on a device. They leave from pinned memory: otherwise Python would wait for the GPU's work."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
