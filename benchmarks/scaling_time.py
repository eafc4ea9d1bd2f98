"""A model of the time of a step on many ranks, beside real steps of real gloo processes.

    python benchmarks/scaling_time.py             prints the table
    python benchmarks/scaling_time.py --results   and puts it into docs/results.md

    time of a step = time of its computing + operations * start of one + bytes sent * time of a byte

The ranks share two threads of one processor, so each part is measured with as many processes as the step has ranks:
computing by ranks that do the same step and exchange nothing, the start of an operation by all-reduces of one number,
the time of a byte by all-reduces of 4 MB. Operations and bytes are counted (collectives.py). What the model leaves out
is what it is checked for: that ranks wait for each other, and that an operation in the middle of computing costs more
than one by itself.
"""

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from collectives import Traffic
from emohead.datamodules.batch import made_up_batch
from emohead.trainers.engines.batch_norm import use_global_statistics
from emohead.trainers.run.train import quieten
from engines import attach_engines
from overhead import make_stage
from tables import put_into_results

RANKS = (2, 4, 8, 16)
BATCH = 2  # clips a rank
STEPS = 4
TINY = ("network.dim=16", "network.layers=1", "network.heads=2", "critics.dim=16", "critics.heads=2")
LARGE = 2**20  # float32 values of the all-reduces that give the time of a byte


def median(call: Callable[[], Any], times: int, together: Callable[[], Any]) -> float:
    """Seconds of a call that all ranks begin together; the first does not count."""
    seconds = []
    for _ in range(times + 1):
        together()
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def rank_of_many(rank: int, num_ranks: int, port: int, barrier: Any, folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    stage: Any = make_stage("motion", folder, *TINY).train()
    use_global_statistics(stage, stage.device)
    attach_engines(stage)
    batch = made_up_batch("motion", batch_size=BATCH, size=64, num_frames=12)

    def step() -> None:
        stage.training_step(batch, 0)

    def steps() -> None:  # one after another, as in a run
        for _ in range(STEPS):
            step()

    found = {"computing": median(steps, 2, barrier.wait) / STEPS}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    attach_engines(stage)  # that share their gradients
    small, large = torch.zeros(1), torch.zeros(LARGE)
    found["start"] = median(lambda: [dist.all_reduce(small) for _ in range(10)], 3, dist.barrier) / 10
    sent = 2 * 4 * LARGE * (num_ranks - 1) / num_ranks
    found["byte"] = (median(lambda: dist.all_reduce(large), 3, dist.barrier) - found["start"]) / sent
    step()
    with Traffic() as traffic:
        step()
    found |= {"operations": traffic.calls.total(), "bytes": traffic.sent.total()}
    found["step"] = median(steps, 2, dist.barrier) / STEPS
    if rank == 0:
        out.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def measure(num_ranks: int, folder: Path) -> dict[str, float]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    forks = multiprocessing.get_context("fork")  # what is imported is shared
    out, barrier = folder / "found.json", forks.Barrier(num_ranks)
    arguments = (num_ranks, port, barrier, folder, out)
    processes = [forks.Process(target=rank_of_many, args=(rank, *arguments)) for rank in range(num_ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return json.loads(out.read_text())


def predicted(found: dict[str, float]) -> float:
    """Seconds of a step."""
    return found["computing"] + found["operations"] * found["start"] + found["bytes"] * found["byte"]


def rows() -> list[str]:
    lines = [
        "| ranks | computing | operations | start of one | MB sent | GB/s | predicted | measured | of predicted |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_stage("emotion", folder).export(folder / "emotion.safetensors", {})
        for num_ranks in RANKS:
            found = measure(num_ranks, folder)
            expected = predicted(found)
            lines.append(
                f"| {num_ranks} | {found['computing'] * 1e3:.0f} ms | {found['operations']} "
                f"| {found['start'] * 1e3:.2f} ms | {found['bytes'] / 1e6:.1f} | {1e-9 / found['byte']:.2f} "
                f"| {expected * 1e3:.0f} ms | {found['step'] * 1e3:.0f} ms | {found['step'] / expected:.2f} |"
            )
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    table = "\n".join(rows())
    if options.results:
        put_into_results("scaling-time", table)


if __name__ == "__main__":
    main()
