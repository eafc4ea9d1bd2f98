"""What a checkpoint costs: seconds that training stands still at a save, and bytes that each rank reads at a restore.

Two ways in turns, on real processes with DeepSpeed engines:

1. gathered: whole tensors are gathered on rank 0, which writes them, reads them again for their checksum, and lets the
   others go on; at a restore rank 0 reads all for the checksum, then each rank reads all.
2. in parts: the way of trainers/run/save_and_resume.py.

    python benchmarks/checkpoints.py [--million 100] [--repeat 3] [--out benchmarks/results/checkpoints.json]
"""

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from emohead.models.checkpoint import save_tensors
from emohead.trainers.engines.deepspeed import DeepSpeedEngine
from emohead.trainers.engines.plain import LossScale
from emohead.trainers.engines.shares import Share
from emohead.trainers.run.background import Background
from emohead.trainers.run.checkpoints import Checkpoints, flush, sha256
from emohead.trainers.run.preemption import Notice
from emohead.trainers.run.save_and_resume import Saver, load_weights, restore, shares_of
from emohead.trainers.run.stored import Stored
from safetensors.torch import load_file
from torch import Tensor, nn

SHAPES = ["2:2", "2:3", "4:2", "4:3"]  # processes : ZeRO stage
LAYERS = 8
LINE = "{ranks} ranks, ZeRO-{zero}, {way:9} stall {stall:6.2f} s  complete after {complete:6.2f} s  read {read} MB"


class Counted(Stored):
    """A checkpoint that counts the bytes of the values that are asked for."""

    bytes = 0

    def part(self, name: str, start: int, numel: int) -> Tensor:
        found = super().part(name, start, numel)
        Counted.bytes += found.nbytes
        return found


def make_stage(rank: int, num_ranks: int, zero: int, million: float) -> Any:
    """What of a stage a checkpoint is made of: one network and its engine, after a step."""
    torch.manual_seed(0)
    width = int((million * 1e6 / LAYERS) ** 0.5)
    network = nn.Sequential(*(nn.Linear(width, width) for _ in range(LAYERS)))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    common: dict[str, Any] = {"clip_norm": 1.0, "scale": LossScale(False), "offload": False}
    engine = DeepSpeedEngine(network, optimizer, zero_stage=zero, device=torch.device("cpu"), local_rank=rank, **common)
    engine.backward(network(torch.randn(1, width)).square().mean())
    engine.step()
    networks = {"network": network}
    return SimpleNamespace(
        name="benchmark", engines={"network": engine}, saved=lambda: networks, trained=lambda: networks, num_batches=0,
        skipped=0, num_ranks=num_ranks, global_rank=rank,
    )  # fmt: skip


def gather(shares: dict[str, Share]) -> dict[str, Tensor]:
    """Whole tensors on rank 0."""
    found = {}
    for name, share in shares.items():
        whole = share.values.detach()
        if not share.everywhere:
            whole = torch.zeros(share.shape.numel())
            whole[share.start :][: share.values.numel()] = share.values.flatten()
            dist.all_reduce(whole)
            whole = whole.view(share.shape)
        if dist.get_rank() == 0:
            found[name] = whole.clone()
    return found


def shares_of_all(shares: dict[str, Share]) -> dict[str, Share]:
    """Those that another rank holds too, so that all gather the same."""
    known: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(known, {name: share.shape for name, share in shares.items()})
    shapes = {name: shape for found in known for name, shape in found.items()}
    empty = torch.zeros(0)
    return {name: shares.get(name, Share(empty, shapes[name], 0, everywhere=False)) for name in sorted(shapes)}


def save_gathered(stage: Any, path: Path) -> None:
    tensors = gather(shares_of_all(shares_of(stage)))
    if dist.get_rank() == 0:
        save_tensors(tensors, path)
        path.with_suffix(".sha256").write_text(sha256(path))
        flush(path)
    dist.barrier()


class Whole(dict):
    def part(self, name: str, start: int, numel: int) -> Tensor:
        return self[name].flatten()[start : start + numel]


def restore_gathered(stage: Any, path: Path) -> int:
    """Returns the bytes that this rank has read."""
    first = dist.get_rank() == 0
    assert not first or sha256(path) == path.with_suffix(".sha256").read_text()
    dist.barrier()
    tensors = {name.removeprefix("network."): tensor for name, tensor in load_file(path).items()}
    if stage.engines["network"].zero_stage < 3:
        stage.saved()["network"].load_state_dict(
            {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")}
        )
    stage.engines["network"].load(Whole(tensors))
    return path.stat().st_size * (2 if first else 1)


def restore_parts(stage: Any, checkpoints: Checkpoints) -> int:
    found = checkpoints.newest(print)
    assert found is not None
    manifest = {"stage": found.stage, "step": found.step, "state": found.state}
    stored = Counted(found.folder, manifest | {"files": found.files, "tensors": found.tensors})
    Counted.bytes = sum(file["bytes"] for file in found.files[dist.get_rank() :: dist.get_world_size()])
    if stage.engines["network"].zero_stage < 3:  # else the engine reads them
        load_weights(stage, stored)
    restore(stage, stored)
    return Counted.bytes


def timed(do: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until the last rank is through, and what this one found."""
    dist.barrier()
    started = time.perf_counter()
    found = do()
    return time.perf_counter() - started, found


def rank_of_many(rank: int, num_ranks: int, zero: int, port: int, folder: Path, million: float, repeat: int) -> None:
    """A rank: `repeat` times both ways; writes what it found."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    stage = make_stage(rank, num_ranks, zero, million)
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=1, keep_best=0)
    notice = Notice()
    notice.close(leaving=False)  # it asks for no signals
    saver = Saver(checkpoints, notice, print)
    saver.background = Background(checkpoints)
    found: dict[str, list[Any]] = {"gathered": [], "in parts": []}
    for turn in range(repeat + 1):
        stall, _ = timed(lambda: save_gathered(stage, folder / "gathered.safetensors"))
        load, read = timed(lambda: restore_gathered(stage, folder / "gathered.safetensors"))
        gathered = {"stall": stall, "complete": stall, "restore": load, "read": read}
        stage.num_batches += 1
        stall, _ = timed(lambda: saver.save(stage))
        rest, _ = timed(saver.finish)
        load, read = timed(lambda: restore_parts(stage, checkpoints))
        parts = {"stall": stall, "complete": stall + rest, "restore": load, "read": read}
        if turn:  # the first one allocates memory
            found["gathered"].append(gathered)
            found["in parts"].append(parts)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def measure(num_ranks: int, zero: int, million: float, repeat: int, parent: Path) -> list[dict[str, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with tempfile.TemporaryDirectory(dir=parent) as name:
        arguments = (num_ranks, zero, port, Path(name), million, repeat)
        torch.multiprocessing.spawn(rank_of_many, arguments, nprocs=num_ranks)
        ranks = [json.loads((Path(name) / f"{rank}.json").read_text()) for rank in range(num_ranks)]
    rows = []
    for way in ("gathered", "in parts"):
        turns = [[found[way][turn] for found in ranks] for turn in range(repeat)]
        row: dict[str, Any] = {"ranks": num_ranks, "zero": zero, "way": way}
        for key in ("stall", "complete", "restore"):  # of the slowest rank, which the others wait for
            row[key] = statistics.median(max(found[key] for found in turn) for turn in turns)
        rows.append(row | {"read": [round(found["read"] / 1e6) for found in turns[0]]})
        print(LINE.format(**rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", type=float, default=100, help="parameters, in millions")
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="processes:stage of ZeRO")
    parser.add_argument("--repeat", type=int, default=3, help="saves of each way, of which the median counts")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()), help="a folder of the disk to measure"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "checkpoints.json")
    options = parser.parse_args()
    shapes = [tuple(map(int, shape.split(":"))) for shape in options.shapes]
    rows = [row for shape in shapes for row in measure(*shape, options.million, options.repeat, options.work)]
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps({"million": options.million, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
