"""What a process that works on a CPU does without, seen from within one."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
{spare}
torch.zeros(32 << 20)  # 128 MB; what comes after has room in them
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.zeros(4 << 20)  # 16 MB, which glibc would map anew
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, float(torch.tensor([1e-30]) * 1e-10))
"""
SPARE = "from emohead.trainers.run.cpu import spare_cpu; spare_cpu()"


def run(spare: str) -> tuple[int, float]:
    result = subprocess.run([sys.executable, "-c", FAULTS.format(spare=spare)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    faults, product = result.stdout.split()
    return int(faults), float(product)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
def test_large_blocks_are_kept_and_denormals_are_zero() -> None:
    (faults, product), (spared, flushed) = run(""), run(SPARE)
    assert product > 0 == flushed
    assert spared < faults / 10
