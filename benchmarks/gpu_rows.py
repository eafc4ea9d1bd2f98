"""What the rows of the acceptance run share: options, stages at full size, batches, engines, the clock. See gpu.sh.

A file of rows is called with the name of one of its functions; each prints what it finds as lines of JSON.
"""

import argparse
import json
import os
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from emohead.datamodules.batch import Batch, made_up_batch
from emohead.models.errors import UserError
from emohead.trainers.all_stages import STAGES
from emohead.trainers.engines.precision import use_tf32
from emohead.trainers.run.train import quieten
from emohead.trainers.stage import Stage
from engines import attach_engines
from overhead import make_stage

FRAMES = {"emotion": 75, "motion": 100, "face": 27, "distill": 75}
BATCHES = {"emotion": 64, "motion": 64, "face": 16, "distill": 16}
WARM_UP = 3  # steps


@dataclass
class Machine:
    """Where a row is measured, and how large."""

    device: torch.device
    folder: Path  # of the whole run: the exports that stages start from, a tiny chain
    tiny: bool  # debug sizes and few steps: the same code on a CPU

    @property
    def pixels(self) -> int:
        return 128 if self.tiny else 256

    @property
    def steps(self) -> int:
        return 2 if self.tiny else 15

    def stage(self, name: str, *overrides: str, device: torch.device | None = None) -> Stage:
        """A stage of the base size with random weights, the same each time, ready to train."""
        for before in STAGES[name].starts_from:
            path = self.folder / f"{before.kind}.safetensors"
            if before.needed and not path.is_file():
                self.stage(before.kind).export(path, {})
        stage = make_stage(name, self.folder, *overrides, size="debug" if self.tiny else "base", pixels=self.pixels)
        stage.to(device or self.device).train().on_fit_start()  # which moves the networks that it asks only
        return stage

    def batch(self, name: str, count: int | None = None, device: torch.device | None = None) -> Batch:
        frames = 20 if self.tiny else FRAMES[name]
        count = count or (2 if self.tiny else BATCHES[name])
        return moved(made_up_batch(name, batch_size=count, size=self.pixels, num_frames=frames), device or self.device)

    def engines(self, stage: Stage, zero: int | None = None) -> Stage:
        attach_engines(stage, zero)
        return stage

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], Any], times: int, warm_up: int = WARM_UP) -> float:
        """Seconds that a call takes, one after another without waiting in between."""
        for _ in range(warm_up):
            call()
        self.wait()
        began = time.perf_counter()
        for _ in range(times):
            call()
        self.wait()
        return (time.perf_counter() - began) / times

    def peak_gib(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0

    def join(self) -> None:
        """A process group of one, which DeepSpeed wants."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
        dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", rank=0, world_size=1)


Row = Callable[[Machine, list[str]], None]


def moved(batch: Batch, device: torch.device) -> Batch:
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def tell(what: str, **figures: Any) -> None:
    """Print one finding."""
    print(json.dumps({"what": what} | figures), flush=True)


def run_row(rows: dict[str, Row]) -> None:
    """Call the row that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("row", choices=rows)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    quieten()
    warnings.filterwarnings("ignore", category=FutureWarning)  # DeepSpeed's calls of torch.distributed
    use_tf32(False)
    try:
        rows[options.row](Machine(torch.device(options.device), options.folder, options.tiny), options.words)
    except UserError as error:
        raise SystemExit(f"{options.row}: {error}") from None
    if dist.is_initialized():
        dist.destroy_process_group()
