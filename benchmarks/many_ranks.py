"""A run of the motion stage on many real processes of this machine: start, memory, a signal, a restart, ranks lost.

    python benchmarks/many_ranks.py --ranks 64

One process imports everything and forks the ranks, each with the variables that torchrun would give it, so that all
share the memory of the imports. They meet over gloo and train a tiny network on made-up clips, one a rank. The machine
has far fewer cores than there are ranks: times are those of the ranks' work one after another.
"""

import argparse
import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch
from emohead.apps import cli
from emohead.trainers.lightning_private import rank_zero_only
from emohead.trainers.run.preemption import EXIT_CODE
from emohead.trainers.run.train import quieten
from overhead import make_stage
from stream_scale import make_data_set

SETTINGS = (
    *("network.dim=16", "network.layers=1", "network.heads=2", "critics.dim=16", "data.window_frames=12"),
    *("data.num_workers=0", "trainer.max_steps=1000000", "trainer.log_every=1", "trainer.checkpoint_every=1000000"),
    *("trainer.threads=1", "trainer.accelerator=cpu", "trainer.precision=32-true", "tracking.wandb=disabled"),
)
PATIENCE = 900  # seconds for anything


class Run:
    """The ranks of one start of a run."""

    def __init__(self, ranks: int, folder: Path, name: str, *settings: str) -> None:
        self.run, self.logs = folder / name, folder / "logs"
        self.logs.mkdir(exist_ok=True)
        self.steps_before = len(self.rows())
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        given = [f"run={self.run}", f"data.shards=[{folder / 'data'}]", f"emotion={folder / 'emotion.safetensors'}"]
        given += [f"trainer.devices={ranks}", f"data.batch_size={ranks}", *SETTINGS, *settings]
        sys.argv = ["emohead", "train", "motion", "-c", "motion-debug", *given]
        self.began = time.monotonic()
        self.codes: dict[int, int] = {}  # exit codes by process
        self.left: dict[int, float] = {}  # when each of them had ended
        self.processes = [self.fork(rank, ranks, port) for rank in range(ranks)]

    def fork(self, rank: int, ranks: int, port: int) -> int:
        process = os.fork()
        if process:
            return process
        code = 1
        try:
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
            own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "many"}
            os.environ |= {name: str(value) for name, value in own.items()}
            rank_zero_only.rank = rank  # which Lightning has read when it was imported
            log = os.open(self.logs / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            cli.main()
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def rows(self) -> list[str]:
        path = self.run / "metrics.jsonl"
        return path.read_text().splitlines() if path.exists() else []

    def reap(self) -> None:
        for process in self.processes:
            if process not in self.codes:
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    self.codes[process] = os.waitstatus_to_exitcode(status)
                    self.left[process] = time.monotonic()

    def wait_for_steps(self, count: int) -> float:
        """Seconds from the start until so many steps of this start are done."""
        while len(self.rows()) < self.steps_before + count:
            self.reap()
            assert not self.codes, f"{self.codes}: {self.said(0)}"
            assert time.monotonic() - self.began < PATIENCE, "too slow"
            time.sleep(0.1)
        return time.monotonic() - self.began

    def wait_for_end(self, but: int | None = None) -> tuple[float, float]:
        """Seconds from now until the first rank and all (`but` one) have ended."""
        now = time.monotonic()
        awaited = [process for process in self.processes if process != but]
        while not all(process in self.codes for process in awaited):
            self.reap()
            assert time.monotonic() - now < PATIENCE, "too slow"
            time.sleep(0.1)
        ends = [self.left[process] - now for process in awaited]
        return min(ends), max(ends)

    def said(self, rank: int) -> str:
        lines = (self.logs / f"{rank}.log").read_text().strip().splitlines()
        return next((line for line in lines if line.startswith("emohead: ")), lines[-1] if lines else "nothing")

    def kill(self) -> None:
        self.reap()
        for process in self.processes:
            if process not in self.codes:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def memory(processes: list[int]) -> str:
    """MiB of a rank: its share of what is shared (PSS), and what it has for itself."""
    pss, own = [], []
    for process in processes:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
        found = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines}
        pss.append(found["Pss:"])
        own.append(found["Private_Clean:"] + found["Private_Dirty:"])
    mean = sum(pss) / len(pss)
    return f"PSS {mean:.0f} MiB a rank ({max(pss):.0f} the largest), {sum(own) / len(own):.0f} MiB of its own"


def lose(ranks: int, folder: Path, number: signal.Signals) -> None:
    """Take a rank away in the middle of a run: how long until the others have left, and whom they name."""
    run, lost = Run(ranks, folder, "run"), ranks // 2
    try:
        run.wait_for_steps(2)
        os.kill(run.processes[lost], number)
        first, last = run.wait_for_end(but=run.processes[lost])
        right = [rank for rank in range(ranks) if rank != lost and f"rank {lost} " in run.said(rank)]
        print(f"{number.name} to rank {lost}: the first rank left after {first:.1f} s, the last after {last:.1f} s")
        print(f"  {len(right)} of {ranks - 1} name it. Rank 0: {run.said(0)}", flush=True)
        for rank in [rank for rank in range(ranks) if rank != lost and rank not in right][:3]:
            print(f"  rank {rank}, code {run.codes[run.processes[rank]]}: {run.said(rank)}", flush=True)
    finally:
        run.kill()


def survive(ranks: int, folder: Path) -> None:
    run = Run(ranks, folder, "run")
    try:
        start, third = run.wait_for_steps(1), run.wait_for_steps(3)
        print(f"{ranks} ranks: first step done after {start:.1f} s, then {(third - start) / 2:.2f} s a step")
        print(f"  {memory(run.processes)}", flush=True)
        told = time.monotonic()
        os.kill(run.processes[-1], signal.SIGUSR1)
        run.wait_for_end()
        codes = set(run.codes.values())
        print(f"SIGUSR1 to the last rank: all left after {time.monotonic() - told:.1f} s, codes {codes}", flush=True)
        assert codes == {EXIT_CODE}
    finally:
        run.kill()
    run = Run(ranks, folder, "run")
    try:
        again = run.wait_for_steps(1)
        print(f"again from the checkpoint: first step done after {again:.1f} s", flush=True)
        os.kill(run.processes[0], signal.SIGTERM)
        run.wait_for_end()
    finally:
        run.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=64)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    quieten()
    folder = Path(tempfile.mkdtemp(prefix="many-ranks-"))
    try:
        make_data_set(folder / "data", 1, options.ranks, frames=40)
        make_stage("emotion", folder).export(folder / "emotion.safetensors", {})
        gc.freeze()  # a collection in a rank would copy what is shared
        survive(options.ranks, folder)
        lose(options.ranks, folder, signal.SIGSTOP)
        lose(options.ranks, folder, signal.SIGKILL)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
