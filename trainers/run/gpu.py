"""What a process settles before it first speaks to a GPU or to another machine."""

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ...datamodules.batch import Batch
from ..engines.precision import use_tf32
from ..stage import TrainerConfig

EVENTS = "2000"  # collective operations that NCCL's flight recorder remembers
SIOCGIFADDR = 0x8915  # of Linux's ioctl: the address of an interface


def settle_gpus(config: TrainerConfig, run: Path) -> None:
    """Arithmetic of the GPUs, and NCCL's flight recorder, which tells afterwards what each rank was waiting for.

    Variables that are set already stay.
    """
    use_tf32(config.tf32)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)  # what has no such form is named
    os.environ.setdefault("RDMAV_FORK_SAFE", "1")  # workers are forked once NCCL has memory registered at the network
    trace = f"{run.absolute()}/nccl_trace_"  # each rank appends its number
    recorder = {"TORCH_FR_BUFFER_SIZE": EVENTS, "TORCH_NCCL_DUMP_ON_TIMEOUT": "1", "TORCH_FR_DUMP_TEMP_FILE": trace}
    for name, value in recorder.items():
        os.environ.setdefault(name, value)


@contextmanager
def beside_the_work(device: torch.device) -> Iterator[Callable[[Batch], Batch]]:
    """Within it, copies from pinned memory go on while the device is at work on what was asked of it before.

    The batch that they bring is given to the function that this yields; the work that follows then waits for them.
    """
    if device.type != "cuda":
        yield lambda batch: batch
        return
    copying, working = copies(device), torch.cuda.current_stream(device)

    def arrived(batch: Batch) -> Batch:
        working.wait_stream(copying)
        for value in batch.values():
            if isinstance(value, torch.Tensor):
                value.record_stream(working)  # its memory is not given away before the work on it is done
        return batch

    with torch.cuda.stream(copying):
        yield arrived


@cache
def copies(device: torch.device) -> torch.cuda.Stream:
    """The stream of a device on which it takes in batches."""
    return torch.cuda.Stream(device)


def stay_near(gpu: Any, devices: Path = Path("/sys/bus/pci/devices")) -> None:
    """Keep this process, and the workers that it will start, on those of its CPUs that are next to its GPU.

    gpu: its properties, as `torch.cuda.get_device_properties` gives them. Where none of the process's CPUs is next to
    it, or the machine does not say, nothing changes.
    """
    address = f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0"
    try:
        near = numbers((devices / address / "local_cpulist").read_text())
    except (OSError, ValueError):
        return
    if mine := near & os.sched_getaffinity(0):
        os.sched_setaffinity(0, mine)


def numbers(listed: str) -> set[int]:
    """The numbers of a list as Linux writes it: "0-3,8" -> {0, 1, 2, 3, 8}."""
    found: set[int] = set()
    for part in listed.strip().split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def settle_interface(main_address: str) -> None:
    """Have gloo use the network interface that leads to the first node.

    By itself it takes the one that the host's name resolves to: on many nodes 127.0.1.1, which no other node reaches.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    if name := interface_to(main_address):
        os.environ["GLOO_SOCKET_IFNAME"] = name


def interface_to(address: str) -> str | None:
    """The network interface by which this machine reaches a host; None if there is no way or no such name."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing: it asks for the route
            own = probe.getsockname()[0]
            if own.startswith("127."):  # the first node knows itself by a name that leads nowhere else
                return None
            for _, name in socket.if_nameindex():
                if address_of(probe, name) == own:
                    return name
    except OSError:
        pass
    return None


def address_of(probe: socket.socket, interface: str) -> str | None:
    """The IPv4 address of an interface; None if it has none."""
    try:
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
    except OSError:
        return None
    return socket.inet_ntoa(answer[20:24])
