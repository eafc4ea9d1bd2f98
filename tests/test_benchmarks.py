"""The benchmark for a machine with a GPU, on one without."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from .conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"


def test_every_benchmark_finds_what_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for file in sorted(BENCHMARKS.glob("*.py")):
        importlib.import_module(file.stem)


def gpu(*options: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [BENCHMARKS / "gpu.sh", "--out", folder / "gpu.json", *options]
    environment = os.environ | {"EMOHEAD_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run it for its figures")
def test_without_a_gpu_it_says_so_and_ends_well(tmp_path: Path) -> None:
    result = gpu(folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("no GPU here")
    assert not list(tmp_path.iterdir())


def test_each_row_is_written_as_it_ends_and_one_that_fails_is_named(tmp_path: Path) -> None:
    result = gpu("--device", "cpu", "--tiny", "--only", "memory", "loader", folder=tmp_path)
    assert result.returncode == 1, "the loader needs the row before it, which was not asked for"
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = {row["row"]: row for row in found["rows"]}
    assert list(rows) == ["loader face", "memory"]
    assert "manifest.json: no such file" in rows["loader face"]["failed"]
    assert rows["memory"]["failed"] == ""
    assert "out of memory in stage face" in rows["memory"]["found"][0]["told"]
    assert "failed: loader face" in result.stdout


def test_rows_for_which_no_time_is_left_are_named(tmp_path: Path) -> None:
    result = gpu("--device", "cpu", "--tiny", "--only", "ceilings", "--seconds", "1", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "left out for want of time: ceilings" in result.stdout
    assert json.loads((tmp_path / "gpu.json").read_text())["left_out"] == ["ceilings"]


def test_the_yardstick_does_the_work_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """61.6 GMAC a frame, 6.6 of them in the warp: counted on the original's layers."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from pirenderer import COEFFICIENTS, STYLE, WINDOW, PIRendererShapes

    with torch.device("meta"):
        network = PIRendererShapes()
        portrait, motion = torch.zeros(1, 3, 256, 256), torch.zeros(1, COEFFICIENTS, WINDOW)
        calls = (lambda: network(portrait, motion), lambda: network.warp(portrait, torch.zeros(1, STYLE)))
        for call, expected in zip(calls, (61.6, 6.6), strict=True):
            with FlopCounterMode(display=False) as counter:
                call()
            assert counter.get_total_flops() / 2e9 == pytest.approx(expected, abs=0.05)


def test_what_travels_to_a_bare_machine_is_pinned() -> None:
    script = (BENCHMARKS / "gpu_wheels.sh").read_text()
    names = script.split("names=(")[1].split(")")[0].split()
    pinned = {line.split("==")[0] for line in (ROOT / "requirements" / "lock.txt").read_text().splitlines()}
    assert not set(names) - pinned
    assert not {"opencv-python-headless", "av", "scipy", "wandb"} & set(names), "training imports none of them"
