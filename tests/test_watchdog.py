"""Ranks that die or hang: the others end soon, and say which, where and with which samples."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from emohead.trainers.config import load_config
from emohead.trainers.emotion import EmotionStageConfig
from emohead.trainers.engines.precision import settled
from emohead.trainers.run import watchdog
from emohead.trainers.run.lost_nodes import lost_often, note_lost
from emohead.trainers.run.memory_error import explain
from emohead.trainers.run.watchdog import CHECK, SILENCE

from .survival import children, start, wait_for_step

SOAK = bool(os.environ.get("EMOHEAD_SOAK"))
RANK = """
import os, sys, time, torch, torch.distributed as dist
from emohead.trainers.run import watchdog as watchdog_module
from emohead.trainers.run.watchdog import Watchdog
watchdog_module.SILENCE, watchdog_module.CHECK = float(sys.argv[5]), float(sys.argv[6])
rank, ranks, timeout, trouble = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
if ranks > 1:
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
blame = lambda hosts: print("blamed:", *hosts, file=sys.stderr)
watchdog = Watchdog(num_ranks=ranks, timeout=timeout, host=f"n{rank}", blame=blame)
watchdog.start()
for step in range(1, 1000):
    watchdog.beat(step, [f"clip{step}-of-{rank}"])
    print(step, flush=True)
    if trouble == "slow" and step < 5:
        time.sleep(0.8 * timeout)
    elif trouble == "slow":
        break
    elif trouble == f"hang{rank}" and step == 20:
        time.sleep(1000)
    elif trouble in ("late1", "fails1") and step == 20:
        break
    time.sleep(0.1)
    if ranks > 1:
        try:
            dist.all_reduce(torch.ones(3))
        except RuntimeError as error:
            print("emohead:", watchdog.explain(error), file=sys.stderr, flush=True)
            os._exit(1)
if trouble == f"fails{rank}":
    watchdog.stop(well=False)
    os._exit(7)
if trouble == "fails1":
    time.sleep(60)
if trouble == f"late{rank}":
    time.sleep(watchdog_module.SILENCE + 3 * watchdog_module.CHECK)
watchdog.stop()
if ranks > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


def ranks(
    count: int, timeout: float, trouble: str = "none", patience: tuple[float, float] = (SILENCE, CHECK)
) -> list[subprocess.Popen]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK]
    return [
        subprocess.Popen(
            [*command, str(rank), str(count), str(timeout), trouble, *map(str, patience)],
            env=os.environ | address,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def until_step(process: subprocess.Popen, step: int) -> None:
    while process.stdout.readline().strip() != str(step):
        assert process.poll() is None, process.stderr.read()


def said(process: subprocess.Popen, code: int = 1) -> str:
    error = process.communicate(timeout=300)[1]
    assert process.returncode == code, error
    return error


@pytest.mark.parametrize(("trouble", "number"), [("dies", signal.SIGKILL), ("freezes", signal.SIGSTOP)])
def test_the_others_name_the_rank_that_is_gone(trouble: str, number: int) -> None:
    first, second, third = ranks(3, timeout=2)
    until_step(third, 20)
    third.send_signal(number)
    began = time.monotonic()
    try:
        for process in (first, second):
            message = said(process)
            assert "rank 2 (host n2)" in message
            assert "blamed: n2\n" in message
            assert "has died or is frozen" in message
            assert "-of-2" in message
        assert time.monotonic() - began < 30
    finally:
        third.kill()


def test_a_rank_that_hangs_is_named_by_all() -> None:
    for process in ranks(2, timeout=2, trouble="hang1"):
        message = said(process)
        assert "rank 1" in message
        assert "step 20" in message
        assert "clip20-of-1" in message
        assert "blamed: n1\n" in message


@pytest.mark.parametrize("frozen", [0, 2])
def test_a_frozen_rank_ends_the_job_long_before_a_collective_would(frozen: int) -> None:
    """Its neighbour misses it and tells the others; if it is rank 0, each misses the store."""
    started = ranks(4, timeout=600, patience=(SILENCE, CHECK) if SOAK else (6.0, 1.0))
    until_step(started[frozen], 20)
    started[frozen].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        for process in (process for rank, process in enumerate(started) if rank != frozen):
            message = said(process)
            assert f"rank {frozen}" in message
            others = [rank for rank in range(4) if rank != frozen]
            assert frozen == 0 or not any(f"rank {rank} (host" in message for rank in others), "nobody else is blamed"
        assert time.monotonic() - began < (60 if SOAK else 30)
    finally:
        started[frozen].kill()


def test_a_rank_that_has_failed_is_missed_by_those_that_do_not_notice() -> None:
    """As with NCCL, where the others would stand in a collective operation."""
    first, second = ranks(2, timeout=600, trouble="fails1", patience=(3.0, 0.5))
    said(second, code=7)
    message = said(first)
    assert "rank 1 (host" in message
    assert "has died or is frozen" in message


def test_a_rank_that_has_ended_its_training_is_not_missed() -> None:
    for process in ranks(2, timeout=600, trouble="late1", patience=(3.0, 0.5)):
        said(process, code=0)


def test_the_first_rank_holds_the_others_together() -> None:
    first, second = ranks(2, timeout=2)
    until_step(second, 20)
    first.kill()
    assert "rank 0" in said(second)


def test_alone_it_watches_itself() -> None:
    (process,) = ranks(1, timeout=1, trouble="hang0")
    message = said(process)
    assert "stands at step 20" in message
    assert "clip20-of-0" in message
    assert "trainer.timeout=1" in message


def test_slow_is_not_still() -> None:
    for process in ranks(2, timeout=2, trouble="slow"):
        said(process, code=0)


def test_a_run_says_which_of_its_ranks_died(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(demo, "motion", run, "trainer.devices=2", "trainer.max_steps=1000")
    wait_for_step(process, run, 2)
    os.kill(children(process)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    last = output.strip().splitlines()[-1]
    assert process.returncode == 1, output
    assert last.startswith("emohead: rank 1 ")
    assert "has died or is frozen, its last samples: " in last


def test_a_node_is_lost_by_legs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_lost(tmp_path, ["n1"])
    assert not list(tmp_path.iterdir()), "outside of a job"
    job = {"JOB_ID": "7", "STEP_ID": "1", "PROCID": "0", "NTASKS": "2", "RESTART_COUNT": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    note_lost(tmp_path, ["n1", "n2"])
    note_lost(tmp_path, ["n1"])
    assert lost_often(tmp_path) == [], "two ranks told of one loss"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    note_lost(tmp_path, ["n1"])
    with open(tmp_path / "lost_nodes.jsonl", "a") as file:
        file.write('{"node": "n2", "jo')
    assert lost_often(tmp_path) == ["n1"]


def test_all_that_explain_an_error_name_the_rank_that_the_first_has_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is gone when a slow one looks, and would be taken for lost itself."""
    monkeypatch.setattr(watchdog, "LOOK", 0.0)
    store, error = dist.HashStore(), RuntimeError("Connection closed by peer")
    dogs = [watchdog.Watchdog(num_ranks=3, timeout=600) for _ in range(2)]
    for rank, dog in enumerate(dogs, start=1):
        dog.rank, dog.store = rank, store
        store.set(f"watchdog/{rank}", json.dumps((5, [], "here", watchdog.LEFT, False)))
    first = dogs[0].explain(error)
    assert "rank 0" in first
    store.set("watchdog/1", json.dumps((5, [], "here", 7, False)))  # its last sign
    assert dogs[1].explain(error) == first


def test_running_out_of_memory_says_what_to_lower() -> None:
    config = load_config(EmotionStageConfig, [], ["data.batch_size=64", "trainer.precision=32-true"])
    smaller = ["bf16-mixed"] if settled("auto", "auto") == "bf16-mixed" else []  # no remedy if it is emulated
    for allocate in (lambda: torch.empty(2**55), lambda: bytearray(2**62)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        line = explain(caught.value, stage="emotion", config=config, size=256)
        for word in ("stage emotion", "64 samples", "256 pixels", "trainer.accumulate=2", *smaller):
            assert word in line
    for words in (
        "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ):
        assert explain(RuntimeError(f"CUDA error: {words}"), stage="emotion", config=config, size=256)
    other = RuntimeError("something else")
    assert explain(other, stage="emotion", config=SimpleNamespace(), size=256) is None
