"""What a process takes itself for: variables of another launch in the shell are not its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from emohead.models.errors import UserError
from emohead.trainers.lightning_private import rank_zero_only
from emohead.trainers.run.cluster import STARTED_BY, SlurmEnvironment, environment, forget_leftovers, requeue
from emohead.trainers.run.gpu import address_of, interface_to, settle_gpus, settle_interface, stay_near
from emohead.trainers.stage import TrainerConfig
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from .conftest import emohead

STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.fixture(autouse=True)
def own_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", STARTED_BY):
        monkeypatch.delenv(name, raising=False)


def test_what_another_launch_left_behind_is_dropped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    forget_leftovers()
    assert rank_zero_only.rank == 0
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & os.environ.keys()
    assert "RANK, LOCAL_RANK, WORLD_SIZE of another launch" in capsys.readouterr().err


@pytest.mark.parametrize(
    "launched",
    [
        {STARTED_BY: str(os.getppid()), "LOCAL_RANK": "1"},
        {"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"},
        {**STEP, "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "LOCAL_RANK": "1"},
    ],
)
def test_ranks_keep_what_their_launcher_told_them(monkeypatch: pytest.MonkeyPatch, launched: dict[str, str]) -> None:
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    forget_leftovers()
    assert rank_zero_only.rank == 1
    assert os.environ["LOCAL_RANK"] == "1"


@pytest.mark.parametrize(
    "launched",
    [
        {**STEP, "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # srun -n 4 emohead train
        {**STEP, "SLURM_PROCID": "2", "SLURM_NTASKS": "4"},
        {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "8"},  # torchrun --nproc-per-node 8
        {**STEP, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "8"},
    ],
)
@pytest.mark.parametrize("devices", [1, 2])
def test_a_launch_of_another_shape_is_refused(
    monkeypatch: pytest.MonkeyPatch, launched: dict[str, str], devices: int
) -> None:
    """Each process would train alone, and all in one folder."""
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"make {devices} processes, .*(the job step has 4|torchrun has started 8)"):
        environment(TrainerConfig(devices=devices))


@pytest.mark.parametrize(
    ("launched", "config", "kind"),
    [
        ({**STEP, "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_PTY_PORT": "1"}, {}, LightningEnvironment),
        ({**STEP, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, {}, LightningEnvironment),
        ({**STEP, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "NODE_RANK": "1"}, {}, LightningEnvironment),
        ({**STEP, "SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, {"nodes": 2, "devices": 2}, SlurmEnvironment),
        (
            {**STEP, "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "8"},
            {"nodes": 2, "devices": 4},
            TorchElasticEnvironment,  # srun --ntasks-per-node 1 torchrun --nproc-per-node 4
        ),
    ],
)
def test_a_launch_of_this_shape_is_taken(
    monkeypatch: pytest.MonkeyPatch, launched: dict[str, str], config: dict[str, int], kind: type
) -> None:
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")  # so that it is taken back afterwards
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    found = environment(TrainerConfig(**config))
    assert isinstance(found, kind)
    assert kind is not LightningEnvironment or found.node_rank() == 0, "nothing is left of another launch"


def test_nodes_with_different_numbers_of_tasks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    uneven = {**STEP, "SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "3,1"}
    for name, value in uneven.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="have 3,1 tasks"):
        environment(TrainerConfig(nodes=2, devices=2))


def test_a_job_without_scontrol_is_not_put_back_and_does_not_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {**STEP, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not requeue()
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/bash\n[ $2 = show ] && echo JobState=RUNNING || exec /bin/sleep 100\n")
    scontrol.chmod(0o755)
    monkeypatch.setattr("emohead.trainers.run.cluster.REQUEUE_TIMEOUT", 0.5)
    assert not requeue(), "the controller does not answer in time"


def test_gloo_speaks_over_the_interface_that_leads_to_the_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is taken back afterwards
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    settle_interface("no-such-host.invalid")
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    settle_interface("127.0.0.1")
    assert "GLOO_SOCKET_IFNAME" not in os.environ, "which nobody else reaches"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        names = {address_of(probe, name): name for _, name in socket.if_nameindex()}
    assert names["127.0.0.1"] == "lo"
    for address, name in names.items():
        if address and not address.startswith("127."):
            assert interface_to(address) == name
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    settle_interface("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0", "whoever set it knows better"


def test_arithmetic_of_gpus_is_what_the_configuration_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "environ", {"TORCH_FR_BUFFER_SIZE": "7"})
    try:
        for tf32 in (True, False):
            settle_gpus(TrainerConfig(tf32=tf32, deterministic=not tf32), tmp_path)
            assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32
            assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest"), "Lightning asks for it"
            assert torch.are_deterministic_algorithms_enabled() is not tf32
    finally:
        torch.use_deterministic_algorithms(False)
    assert os.environ["TORCH_FR_BUFFER_SIZE"] == "7", "whoever set it knows better"
    assert os.environ["TORCH_FR_DUMP_TEMP_FILE"] == f"{tmp_path}/nccl_trace_"


def test_two_agents_of_torchrun_are_one_run(demo: Path, tmp_path: Path) -> None:
    """As on two nodes: each agent starts the processes of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--no-python"]
    agent += ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=motion", "--local-addr=127.0.0.1"]
    words = ["train", "motion", "-c", demo / "motion" / "config.yaml", f"run={tmp_path / 'run'}"]
    words += ["trainer.nodes=2", "trainer.devices=1", "trainer.max_steps=2"]
    command = [*agent, sys.executable, "-m", "emohead.apps.cli", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    agents = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for started in agents:
        _, error = started.communicate(timeout=600)
        assert started.returncode == 0, error
    assert (tmp_path / "run" / "export" / "motion.safetensors").is_file()
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_training_on_gpus_does_not_fall_back_to_the_cpu(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["train", "motion", "-c", demo / "motion" / "config.yaml", f"run={run}", "trainer.accelerator=gpu"]
    done = emohead(*words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("emohead: trainer.accelerator=gpu: ")
    assert not run.exists()


def test_a_run_folder_below_a_file_is_one_line(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = [f"data.shards=[{demo / 'data'}]", f"run={tmp_path / 'file' / 'run'}", "data.batch_size=2"]
    done = emohead("train", "emotion", "-c", demo / "emotion" / "config.yaml", *settings)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("file/run: Not a directory")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "setting", ["optimizer.lr=-1", "seed=-1", "data.window_frames=1e7", "data.batch_size=10000000"]
)
def test_values_that_cannot_be_meant_are_one_line(demo: Path, tmp_path: Path, setting: str) -> None:
    settings = [f"data.shards=[{demo / 'data'}]", f"run={tmp_path / 'run'}", "data.batch_size=2", setting]
    done = emohead("train", "emotion", "-c", demo / "emotion" / "config.yaml", *settings)
    assert done.returncode == 2, done.stderr
    assert [setting.split("=")[0] in line for line in done.stderr.splitlines()].count(True) == 1, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="has one CPU to run on")
@pytest.mark.parametrize(
    ("listed", "kept"),
    [("{1},900-903\n", [1]), ("{0},{1}\n", [0, 1]), ("900-903\n", [0, 1]), ("\n", [0, 1]), (None, [0, 1])],
    ids=["next to one", "next to both", "next to others", "not told", "no such device"],
)
def test_a_process_stays_on_the_cpus_next_to_its_gpu(tmp_path: Path, listed: str | None, kept: list[int]) -> None:
    mine = os.sched_getaffinity(0)
    two = sorted(mine)[:2]
    if listed is not None:
        (tmp_path / "0000:dc:00.0").mkdir()
        (tmp_path / "0000:dc:00.0" / "local_cpulist").write_text(listed.format(*two))
    try:
        os.sched_setaffinity(0, two)
        stay_near(SimpleNamespace(pci_domain_id=0, pci_bus_id=0xDC, pci_device_id=0), tmp_path)
        left = os.sched_getaffinity(0)
    finally:
        os.sched_setaffinity(0, mine)
    assert left == {two[number] for number in kept}
