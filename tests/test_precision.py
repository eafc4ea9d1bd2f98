"""Precision, threads and speed follow the processor; a run keeps the precision that it began with."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from emohead.models.checkpoint import load_checkpoint
from emohead.trainers.all_stages import STAGES
from emohead.trainers.config import load_config
from emohead.trainers.engines.precision import cpu_multiplies, emulated_on_cpu, settled
from emohead.trainers.motion import MotionStageConfig
from emohead.trainers.run.cpu import usable_cores
from emohead.trainers.run.train import train
from omegaconf import OmegaConf

from .survival import hear_interrupts

# As most laptops are: no bfloat16, and no GPU.
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "CUDA_VISIBLE_DEVICES": ""}
AT_HAND = {"start_new_session": True, "preexec_fn": hear_interrupts}
SHORT = ["data.batch_size=2", "data.num_workers=0", "tracking.wandb=disabled", "trainer.accelerator=cpu"]


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16", None])
def test_auto_follows_the_instructions(instructions: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """AVX-512 alone is none of them, though oneDNN calls bfloat16 supported there."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no AVX-512 here")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, str(instructions): True})
    assert settled("auto", "cpu") == ("32-true" if instructions is None else "bf16-mixed")
    assert (emulated_on_cpu("bf16-mixed") is None) is cpu_multiplies(torch.bfloat16) is (instructions is not None)


def test_what_is_asked_for_is_taken() -> None:
    assert [settled(given, "cpu") for given in ("32-true", "bf16-mixed", "16-mixed")] == [
        "32-true",
        "bf16-mixed",
        "16-mixed",
    ]
    assert emulated_on_cpu("32-true") is None


def test_a_run_goes_on_in_the_precision_it_began_with(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, base = tmp_path / "run", [demo / "motion" / "config.yaml"]
    other = "bf16-mixed" if settled("auto", "cpu") == "32-true" else "32-true"

    def go_on(steps: int, precision: str) -> str:
        given = [*SHORT, f"run={run}", f"trainer.max_steps={steps}", f"trainer.precision={precision}"]
        path = train("motion", base, given)
        assert path is not None
        written = load_config(MotionStageConfig, [run / "config.yaml"], []).trainer.precision
        assert load_checkpoint(path).provenance["config"]["trainer"]["precision"] == written
        return written

    assert go_on(1, other) == other
    capsys.readouterr()
    assert go_on(2, "auto") == other, "as it would on a machine that is unlike the first"
    assert f"trainer.precision={other}, as before" in capsys.readouterr().err


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is an instruction set of x86-64")
def test_the_chain_on_a_processor_with_avx2_alone(demo: Path, tmp_path: Path) -> None:
    """Stopped by Ctrl-C on the way; the same command goes on to the end."""
    out = tmp_path / "demo"
    (out / "data").parent.mkdir()
    (out / "data").symlink_to(demo / "data")
    command = [sys.executable, "-m", "emohead.apps.cli", "demo", "--tiny", "--seed", "0", "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=os.environ | AVX2, **pipes, **AT_HAND)
    end = time.monotonic() + 600
    while not (out / "emotion" / "export" / "emotion.safetensors").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGINT, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    assert not (out / "report.html").exists()
    done = subprocess.run(command, env=os.environ | AVX2, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "does not show" in done.stdout
    assert "on this machine" in done.stdout
    for stage in STAGES:
        assert OmegaConf.load(out / stage / "config.yaml").trainer.precision == "32-true"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["machine"]["instructions"] == "AVX2"
    assert all(figure["target"] is None for figure in metrics["figures"]), "two steps are held to no target"
    other = subprocess.run([*command[:-1], str(out), "--seed", "5"], capture_output=True, text=True)
    assert other.returncode == 2
    assert "tiny demo with --seed 0" in other.stderr


@pytest.mark.parametrize(
    ("files", "group", "cores"),
    [
        ({"cpu.max": "100000 100000"}, "0::/", 1),
        ({"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b", 1),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"cpu.max": "40000 100000"}, "0::/", 1),
        (
            {"cpu,cpuacct/c/cpu.cfs_quota_us": "100000", "cpu,cpuacct/c/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/c",
            1,
        ),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/", None),
        ({}, "0::/elsewhere", None),
    ],
)
def test_a_containers_quota_bounds_the_threads(
    files: dict[str, str], group: str, cores: int | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(content + "\n")
    (tmp_path / "cgroup").write_text(group + "\n")
    here = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path / "fs", tmp_path / "cgroup") == (here if cores is None else cores)
