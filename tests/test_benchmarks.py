"""The benchmark for a machine with a GPU, on one without."""

import subprocess
from pathlib import Path

import pytest
import torch

GPU_SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.sh"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run it for its figures")
def test_without_a_gpu_it_says_so_and_ends_well(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    result = subprocess.run([GPU_SCRIPT, "--out", out], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("no GPU here")
    assert not out.exists()
