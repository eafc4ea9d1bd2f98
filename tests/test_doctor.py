"""`emohead doctor`: a sound setting passes; each kind of wrong one is named, with what to write instead."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from emohead.apps.doctor import as_table
from emohead.datamodules.module import TalkingFaceData
from emohead.trainers.config import load_config
from emohead.trainers.doctor import machine
from emohead.trainers.doctor.disk import checkpoint_bytes, frozen_bytes
from emohead.trainers.doctor.examine import examine
from emohead.trainers.doctor.finding import Finding
from emohead.trainers.face import FaceStage, FaceStageConfig
from rich.console import Console
from torch import nn

from .conftest import emohead, refused

SMALL = ["data.batch_size=2", "data.num_workers=0", "trainer.accelerator=cpu", "tracking.wandb=disabled"]
FACE = ["network.size=32", "network.channels=[16,16,8]", "network.landmark_level=16", "network.coarse_flow=16"]
FACE += ["discriminator.channels=[8,16,16,16]", "discriminator.group=2"]
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(time.time()) + 86_400)}
ONE_NODE = JOB | {"SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "2", "SLURM_TASKS_PER_NODE": "2"}
TWO_NODES = JOB | {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "2(x2)"}
TWO_NODES |= {"MASTER_ADDR": "127.0.0.1"}
OUTSIDE = ("SLURM_", "MASTER_", "WANDB_", "NETRC")


@pytest.fixture(autouse=True)
def outside_of_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No scheduler, no login, no network's port, whatever the tests themselves run in."""
    for name in [name for name in os.environ if name.startswith(OUTSIDE)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("doctor") / "data"
    made = emohead("prepare", "synthetic", out, "--identities", 3, "--clips", 6, "--size", 32)
    assert made.returncode == 0, made.stderr
    return out


@pytest.fixture(scope="module")
def face_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face stage of one step."""
    run = tmp_path_factory.mktemp("doctor-run") / "face"
    made = emohead("train", "face", f"data.shards=[{corpus}]", f"run={run}", *SMALL, *FACE, "trainer.max_steps=1")
    assert made.returncode == 0, made.stderr
    return run


@pytest.fixture
def examined(corpus: Path, tmp_path: Path) -> Callable[..., list[Finding]]:
    """Findings about a face stage (or another) that is sound but for what is given."""

    def of(*changes: str, stage: str = "face") -> list[Finding]:
        own = FACE if stage == "face" else []
        return examine(stage, [], [f"data.shards=[{corpus}]", f"run={tmp_path / 'run'}", *SMALL, *own, *changes])

    return of


def named(findings: list[Finding], state: str, *words: str) -> str:
    """The remedy of the one finding of that state that holds the words."""
    found = [f for f in findings if f.state == state and all(word in f.found for word in words)]
    assert len(found) == 1, findings
    return found[0].remedy


def problems(findings: list[Finding], state: str = "wrong") -> list[str]:
    return [f.found for f in findings if f.state == state]


# ---------------------------------------------------------------------------------------------- the command


def test_a_sound_setting_passes_in_seconds_and_leaves_nothing(corpus: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    result = emohead("doctor", "face", f"data.shards=[{corpus}]", f"run={tmp_path / 'run'}", *SMALL, *FACE)
    seconds = time.monotonic() - started
    assert result.returncode == 0, result.stdout + result.stderr
    assert "wrong" not in result.stdout.replace("write instead", "")
    assert seconds < 30  # 10 on a machine that does nothing else
    assert not (tmp_path / "run").exists()


def test_all_wrong_settings_are_named_at_once_and_counted(corpus: Path, tmp_path: Path) -> None:
    wrong = ["trainer.strategy=deepspeed2", "data.batch_size=3", "trainer.devices=2", "tracking.wandb=online"]
    result = emohead("doctor", "face", f"data.shards=[{corpus}]", f"run={tmp_path / 'run'}", *SMALL, *FACE, *wrong)
    refused(result, "emohead: doctor: 3 settings are wrong")
    for remedy in ("trainer.strategy=deepspeed ", "data.batch_size=2 or 4", "tracking.wandb=offline"):
        assert remedy in result.stdout


def test_an_unknown_stage_is_refused() -> None:
    refused(emohead("doctor", "faces"), "'faces'", "emotion, motion, face, distill")


def test_a_log_keeps_a_remedy_in_one_line(corpus: Path, tmp_path: Path) -> None:
    long = tmp_path / ("deep" * 50) / "data"
    result = emohead("doctor", "face", f"data.shards=[{long}]", *SMALL, *FACE)
    assert any(str(long) in line and "emohead prepare" in line for line in result.stdout.splitlines()), result.stdout


def test_help_answers_at_once() -> None:
    code = "import sys; from emohead.apps.cli import main; sys.argv = ['emohead', 'doctor', '--help']; main()"
    check = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    shown = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1] == "False", shown.stdout + shown.stderr


def test_a_narrow_terminal_folds_and_loses_nothing() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(as_table([Finding("data", "wrong", "x" * 200, "y" * 100)]))
    text = console.export_text()
    assert (text.count("x"), text.count("y")) == (200, 100)


# ---------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("changes", "words", "remedy"),
    [
        (["trainer.prescision=bf16"], ["trainer.prescision"], "trainer.precision"),
        (["trainer.devices=many"], ["trainer.devices"], ""),
        (["network.size=64"], ["network.size"], "make it"),
        (["trainer.precision=bf16"], ["trainer.precision=bf16"], "trainer.precision=bf16-mixed"),
        (["trainer.strategy=fsdp"], ["trainer.strategy=fsdp"], "trainer.strategy=ddp"),
        (["trainer.zero_stage=4"], ["trainer.zero_stage=4"], "trainer.zero_stage="),
        (["trainer.accelerator=tpu"], ["trainer.accelerator=tpu"], "trainer.accelerator=gpu"),
        (["trainer.max_steps=0"], ["trainer.max_steps=0"], "trainer.max_steps=1"),
        (["trainer.nodes=0"], ["trainer.nodes=0"], "trainer.nodes=1"),
        (["trainer.devices=0"], ["trainer.devices=0"], "trainer.devices=1"),
        (["tracking.wandb=quiet"], ["tracking.wandb=quiet"], "tracking.wandb=offline"),
        (["data.batch_size=5", "trainer.accumulate=2"], ["data.batch_size=5", "= 2"], "data.batch_size=4 or 6"),
        (["data.batch_size=1", "trainer.devices=2"], ["data.batch_size=1"], "data.batch_size=2"),
        (["data.batch_size=0"], ["data.batch_size=0"], ""),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_settings(examined: Callable, changes: list[str], words: list[str], remedy: str) -> None:
    assert remedy in named(examined(*changes), "wrong", *words)


@pytest.mark.parametrize(
    ("changes", "words", "remedy"),
    [
        (["trainer.offload=true"], ["trainer.offload"], "trainer.strategy=deepspeed"),
        (
            ["trainer.offload=true", "trainer.strategy=deepspeed", "trainer.zero_stage=0"],
            ["trainer.offload"],
            "trainer.zero_stage=2",
        ),
        (
            ["data.batch_size=6", "trainer.accumulate=2", "adversary.start=0"],
            ["discriminator.group=2"],
            "data.batch_size=4 or 8",
        ),
    ],
    ids=["ddp", "ZeRO 0", "groups"],
)
def test_settings_without_the_effect_that_they_name(
    examined: Callable, changes: list[str], words: list[str], remedy: str
) -> None:
    findings = examined(*changes)
    assert not problems(findings)
    assert named(findings, "warning", *words) == remedy


@pytest.mark.parametrize("change", ["adversary.start=2000", "loss.adversarial_loss=0"])
def test_groups_are_of_no_interest_without_an_adversary(examined: Callable, change: str) -> None:
    findings = examined("data.batch_size=3", "trainer.max_steps=1000", "adversary.start=0", change)
    assert not any("discriminator.group" in f.found for f in findings)


# ---------------------------------------------------------------------------------------------- inputs and data


def test_checkpoints_of_the_right_kind_are_wanted(examined: Callable, face_run: Path, tmp_path: Path) -> None:
    face = face_run / "export" / "face.safetensors"
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(face.read_bytes()[:-100])
    assert "emotion=FILE" in named(examined(stage="motion"), "wrong", "no emotion checkpoint")
    assert "emohead train emotion" in named(examined("emotion=nowhere", stage="motion"), "wrong", "nowhere")
    assert "emohead train emotion" in named(examined(f"emotion={face}", stage="motion"), "wrong", "'face' network")
    assert "export it again" in named(examined(f"perceptual.emotion={cut}"), "wrong", str(cut))
    assert "perceptual.vgg" in named(examined("perceptual.vgg=nowhere.pth"), "wrong", "nowhere.pth")
    findings = examined(f"face={face}", "emotion=nowhere", "motion=nowhere", stage="distill")
    assert [f.state for f in findings if f.check == "face="] == ["ok"]


def test_the_weights_of_clip(examined: Callable) -> None:
    emotion = lambda *changes: examined(*changes, stage="emotion")  # noqa: E731
    assert not problems(emotion())
    assert "network.pretrained=FILE" in named(emotion("network.pretrained=no/clip.pt"), "wrong", "no/clip.pt")
    assert "network.pretrained=FILE" in named(emotion("network.trainable=adapters"), "wrong", "random")
    assert "network.pretrained=FILE" in named(emotion("network.pretrained=openai"), "warning", "downloaded")
    assert "emohead-tiny" in named(emotion("network.clip=ViT-nothing"), "wrong", "ViT-nothing")


def test_data_that_cannot_be_read(examined: Callable, corpus: Path, tmp_path: Path) -> None:
    assert "emohead prepare" in named(examined("data.shards=[nowhere]"), "wrong", "nowhere")
    assert "data.shards=[data/mead]" in named(examined("data.shards=[]"), "wrong", "data.shards")
    assert "ask for less" in named(examined("data.views=[left_60]"), "wrong", "left_60")

    cut, empty = tmp_path / "cut", tmp_path / "empty"
    for copy in (cut, empty):
        shutil.copytree(corpus, copy)
    (shard,) = cut.glob("*train*.tar")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "copy the data set again" in named(examined(f"data.shards=[{cut}]"), "wrong", shard.name)
    next(empty.glob("*train*.tar")).unlink()
    assert "copy the whole data set" in named(examined(f"data.shards=[{empty}]"), "wrong", shard.name)


def test_data_that_does_not_suit(examined: Callable) -> None:
    assert "data.val_splits=[" in named(examined("data.val_splits=[]"), "warning", "nothing is validated")
    assert "data.batch_size=2" in named(examined("data.batch_size=4"), "warning", "twice")
    findings = examined("data.size=64")
    assert "data.size=32" in named(findings, "warning", "enlarged")
    assert named(findings, "wrong", "network.size is 32") == "data.size=32"


# ---------------------------------------------------------------------------------------------- run folder


def test_a_run_folder_that_cannot_be_used(examined: Callable, face_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "run=" in named(examined(f"run={tmp_path / 'file' / 'run'}"), "wrong", "cannot be written")
    assert "run=" in named(examined("run=/proc/run"), "wrong", "cannot be written")
    assert "run=" in named(examined(f"run={face_run}", "seed=5"), "wrong", "another 'seed'")
    assert not problems(examined(f"run={face_run}", "trainer.max_steps=9"))


def test_a_run_that_is_done_is_told(examined: Callable, face_run: Path) -> None:
    assert "run=" in named(examined(f"run={face_run}", "trainer.max_steps=1"), "warning", "has done")


def test_checkpoints_need_the_room_that_is_foretold(face_run: Path) -> None:
    config = load_config(FaceStageConfig, [face_run / "config.yaml"], [])
    checkpoint, frozen, export = checkpoint_bytes(FaceStage, config, TalkingFaceData("face", config.data).facts)
    assert frozen == 0
    (saved,) = (face_run / "checkpoints").glob("step-*")
    assert sum(file.stat().st_size for file in saved.iterdir()) == pytest.approx(checkpoint, rel=0.1)
    assert (face_run / "export" / "face.safetensors").stat().st_size == pytest.approx(export, rel=0.1)


def test_weights_that_are_not_trained_are_counted_once_for_all_checkpoints() -> None:
    partly = nn.Sequential(nn.Linear(3, 2).requires_grad_(False), nn.Linear(2, 1))
    assert frozen_bytes(partly) == 4 * 8
    assert frozen_bytes(partly[0]) == 0, "an average has no gradients, and changes"


def test_a_full_disk_is_told(examined: Callable) -> None:
    free = int(shutil.disk_usage("/").free / 1e6)  # more checkpoints than fit, each of more than a megabyte
    assert "trainer.keep_last=1" in named(examined(f"trainer.keep_last={free}"), "wrong", "needed")


def test_a_folder_of_one_machine_is_no_place_for_several(examined: Callable) -> None:
    assert "run=" in named(examined("run=/tmp/emohead-doctor", "trainer.nodes=2"), "warning", "/tmp")


# ---------------------------------------------------------------------------------------------- SLURM


@pytest.fixture
def in_job(examined: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    def of(job: dict[str, str], *changes: str) -> list[Finding]:
        for name, value in job.items():
            monkeypatch.setenv(name, value)
        return examined(*changes)

    return of


def test_jobs_of_the_right_shape_pass(in_job: Callable) -> None:
    assert not problems(in_job(ONE_NODE, "trainer.devices=2"))
    findings = in_job(TWO_NODES, "trainer.nodes=2", "trainer.devices=2", "data.batch_size=4")
    assert not problems(findings)
    assert not [f for f in findings if f.check == "SLURM" and f.state != "ok"]


def test_a_batch_script_may_leave_the_tasks_to_srun(in_job: Callable) -> None:
    job = JOB | {"SLURM_JOB_NUM_NODES": "1", "SLURM_TASKS_PER_NODE": "8"}
    assert not problems(in_job(job, "trainer.devices=2"))


@pytest.mark.parametrize(
    ("job", "changes", "remedy"),
    [
        (ONE_NODE, ["trainer.devices=1"], "trainer.devices=2, or sbatch --nodes 1 --ntasks-per-node 1"),
        (ONE_NODE, ["trainer.nodes=2"], "trainer.nodes=1, or sbatch --nodes 2"),
        (
            TWO_NODES | {"SLURM_TASKS_PER_NODE": "3,1"},
            ["trainer.nodes=2", "trainer.devices=2", "data.batch_size=4"],
            "sbatch --nodes 2 --ntasks-per-node 2",
        ),
        (ONE_NODE, ["trainer.devices=2", "trainer.accelerator=gpu"], "sbatch --gpus-per-node 2"),
        (
            ONE_NODE | {"SLURM_GPUS_ON_NODE": "1"},
            ["trainer.devices=2", "trainer.accelerator=auto"],
            "sbatch --gpus-per-node 2, or trainer.devices=1",
        ),
        (
            ONE_NODE | {"SLURM_JOB_GPUS": "3"},
            ["trainer.devices=2", "trainer.accelerator=gpu"],
            "sbatch --gpus-per-node 2, or trainer.devices=1",
        ),
        (
            ONE_NODE | {"SLURM_GPUS_PER_TASK": "1", "SLURM_GPUS_ON_NODE": "2"},
            ["trainer.devices=2", "trainer.accelerator=auto"],
            "sbatch --gpus-per-node 2",
        ),
    ],
    ids=["tasks", "nodes", "uneven", "no GPU", "too few GPUs", "GPUs by their numbers", "a GPU a task"],
)
def test_jobs_of_another_shape(in_job: Callable, job: dict[str, str], changes: list[str], remedy: str) -> None:
    findings = in_job(job, *changes)
    assert [f.remedy for f in findings if f.state == "wrong"] == [remedy]


def test_a_job_that_has_no_time_to_save(in_job: Callable) -> None:
    end = {"SLURM_JOB_END_TIME": str(int(time.time()) + 100)}
    findings = in_job(ONE_NODE | end, "trainer.devices=2")
    remedy = named(findings, "wrong", "trainer.save_before=120")
    assert re.fullmatch(r"sbatch --time 24:00:00, or trainer.save_before=\d+", remedy)
    assert not problems(in_job(ONE_NODE | end, "trainer.devices=2", "trainer.save_before=30"))


def test_what_slows_or_endangers_a_job(in_job: Callable) -> None:
    cpus = named(
        in_job(ONE_NODE | {"SLURM_CPUS_PER_TASK": "4"}, "trainer.devices=2", "data.num_workers=7"), "warning", "CPUs"
    )
    assert cpus == "sbatch --cpus-per-task 8, or data.num_workers=3"
    findings = in_job(TWO_NODES | {"MASTER_ADDR": ""}, "trainer.nodes=2", "trainer.devices=2", "data.batch_size=4")
    assert "MASTER_ADDR=" in named(findings, "warning", "MASTER_ADDR")
    findings = in_job(ONE_NODE | {"SLURM_GPUS_ON_NODE": "2"}, "trainer.devices=2", "trainer.accelerator=auto")
    assert "trainer.accelerator=cpu" in named(findings, "warning", "nvidia-smi")


# ---------------------------------------------------------------------------------------------- machine


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        yield server.getsockname()[1]


def test_the_port(examined: Callable, listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for port, words in ((str(listening), "in use"), ("99999", "no port"), ("http", "no port")):
        monkeypatch.setenv("MASTER_PORT", port)
        assert "unset MASTER_PORT" in named(examined(), "wrong", words)
    with socket.socket() as server:
        server.bind(("", 0))
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
    assert not problems(examined())


def test_devices_outside_of_a_job(examined: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    assert "data.num_workers=" in named(examined(f"data.num_workers={cores}"), "warning", "share")
    assert "emohead slurm train --nodes 2" in named(examined("trainer.nodes=2"), "warning", "no SLURM job")
    if shutil.which("nvidia-smi"):
        pytest.skip("a machine with a GPU")
    findings = examined("trainer.accelerator=auto")
    assert not problems(findings)
    assert "none here" in next(f.found for f in findings if f.check == "GPU")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert named(examined("trainer.accelerator=gpu"), "wrong", "no GPU here") == "trainer.accelerator=cpu"
    (tmp_path / "sbatch").touch(0o755)  # a login node: the GPUs are elsewhere
    assert "sbatch --gpus-per-node 1" in named(examined("trainer.accelerator=gpu"), "warning", "no GPU here")


def test_what_this_cpu_emulates_is_named(examined: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    for precision in ("bf16-mixed", "16-mixed"):
        findings = examined(f"trainer.precision={precision}")
        assert named(findings, "warning", "emulates") == "trainer.precision=auto"
        assert not problems(findings), "slow is not wrong"
    assert not [found for found in problems(examined("trainer.precision=32-true"), "warning") if "emulates" in found]
    assert "32-true for a new run here" in next(f.found for f in examined("trainer.precision=auto") if f.check == "CPU")
    if shutil.which("g++"):
        assert named(examined("trainer.compile=true"), "warning", "some processors give NaN") == "trainer.compile=false"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "trainer.compile=false" in named(examined("trainer.compile=true"), "wrong", "C++ compiler")


def test_logging_in_to_wandb(examined: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tracking.wandb=offline" in named(examined("tracking.wandb=online"), "wrong", "WANDB_API_KEY")
    (tmp_path / ".netrc").write_text("machine example.org login user password x\n")
    assert problems(examined("tracking.wandb=online"))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    assert not problems(examined("tracking.wandb=online"))
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert not problems(examined("tracking.wandb=online"))


def test_the_versions_that_are_installed_are_told(examined: Callable) -> None:
    (packages,) = [f for f in examined() if f.check == "packages"]
    assert all(name in packages.found for name in ("torch", "pytorch-lightning", "deepspeed"))
    assert packages.state == "ok"


@pytest.mark.parametrize(("held", "state"), [("1.0", "warning"), ("2.13.1+vendor", "ok"), (None, "wrong")])
def test_versions_outside_the_tested_range_are_named(
    examined: Callable, monkeypatch: pytest.MonkeyPatch, held: str | None, state: str
) -> None:
    known = machine.installed
    monkeypatch.setattr(machine, "installed", lambda name: held if name == "torch" else known(name))
    (packages,) = [f for f in examined() if f.check == "packages"]
    assert packages.state == state
    if state != "ok":
        assert str(held or "not installed") in packages.found
        assert packages.remedy.startswith("pip install 'torch<")
