"""Operators on channels-last maps give the values and gradients of PyTorch's own: those for CPUs, and Triton's."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from emohead.models.channels_last import double
from emohead.models.flow import layout
from torch import Tensor

from .conftest import ROOT

INTERPRETED = "TRITON_INTERPRET" in os.environ  # has to be settled before Triton is imported
if INTERPRETED:
    from emohead.models.warp_kernel import sample_rows
else:
    from emohead.models.channels_last import sample_rows


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()


def assert_same(found: Tensor, wanted: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(wanted)
    gradients = [torch.autograd.grad(each, inputs, weight) for each in (found, wanted)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pictures", [1, 3])
def test_reading_rows_is_grid_sample(pictures: int) -> None:
    torch.manual_seed(0)
    source = channels_last(pictures, 5, 7, 9)
    grid = (torch.rand(3, 6, 4, 2) * 2.6 - 1.3).requires_grad_()  # some of it outside the picture
    gain = torch.rand(3, 1, 6, 4, requires_grad=True)
    expanded = source.expand(3, -1, -1, -1)
    whole = F.grid_sample(expanded, grid, padding_mode="border", align_corners=False)
    assert_same(sample_rows(expanded, grid), whole, [source, grid])
    whole = F.grid_sample(expanded, grid, padding_mode="border", align_corners=False)
    found = sample_rows(expanded, grid, gain)
    assert layout(found) == torch.channels_last
    assert_same(found, whole * gain, [source, grid, gain])


def test_a_place_that_is_no_number_shows() -> None:
    grid = torch.zeros(1, 2, 2, 2)
    grid[0, 1, 0, 0] = float("nan")
    found = sample_rows(torch.randn(1, 3, 4, 4), grid)
    assert torch.equal(found[0].isnan().all(0), torch.tensor([[False, False], [True, False]]))


@pytest.mark.skipif(INTERPRETED, reason="is this one")
@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="PyTorch's builds for CUDA bring Triton")
def test_tritons_kernels_do_the_same_in_its_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("shape", [(2, 5, 8, 8), (1, 2, 6, 4), (2, 3, 1, 1)])
def test_doubling_is_bilinear_interpolation(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    image = channels_last(*shape)
    assert_same(double(image), F.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False), [image])


def test_doubling_in_bfloat16_keeps_its_digits() -> None:
    torch.manual_seed(0)
    image = channels_last(2, 8, 16, 16)
    half = image.detach().bfloat16().requires_grad_()
    weight = torch.randn(2, 8, 32, 32)
    (wanted,) = torch.autograd.grad(double(image), image, weight)
    (found,) = torch.autograd.grad(double(half), half, weight.bfloat16())
    assert (found.float() - wanted).norm() / wanted.norm() < 0.01
