"""Recomputing and compiling the large blocks changes what a step takes, not what it gives."""

import copy
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from emohead.datamodules.batch import made_up_batch
from emohead.models.discriminator import Discriminator, DiscriminatorConfig
from emohead.models.motion import AudioTo3DMM, AudioTo3DMMConfig
from emohead.trainers.engines.large_blocks import compile_blocks, large_blocks, recompute
from torch import nn

from .conftest import ROOT
from .face_stage import make_generator

SOAK = bool(os.environ.get("EMOHEAD_SOAK"))


def motion() -> tuple[nn.Module, Callable]:
    torch.manual_seed(0)
    network = AudioTo3DMM(AudioTo3DMMConfig(dim=32, layers=2, heads=2, emotion_dim=16, motion_dim=10, identity_dim=3))
    batch, emotion = made_up_batch("motion"), torch.randn(2, 16)
    return network, lambda n: n(batch["speech"], emotion, batch["identity"]).square().mean()


def face() -> tuple[nn.Module, Callable]:
    network, batch = make_generator(), made_up_batch("face")
    return network, lambda n: n(n.encode_portrait(batch["portrait"]), batch["target_motion"]).frame.square().mean()


def gradients(network: nn.Module, loss: Callable) -> list[torch.Tensor]:
    loss(network).backward()
    return [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("make", [motion, face])
def test_recomputed_blocks_give_the_same_gradients_and_keep_less(make: Callable) -> None:
    network, loss = make()
    other = copy.deepcopy(network)
    recompute(other)
    kept: dict[str, int] = {}

    def count(name: str) -> Callable:
        return lambda tensor: (kept.__setitem__(name, kept.get(name, 0) + tensor.numel()), tensor)[1]

    found = []
    for name, each in (("plain", network), ("recomputed", other)):
        with torch.autograd.graph.saved_tensors_hooks(count(name), lambda tensor: tensor):
            value = loss(each)
        value.backward()
        found.append([p.grad for p in each.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert kept["recomputed"] < 0.9 * kept["plain"]
    assert network.state_dict().keys() == other.state_dict().keys()


COMPILER = shutil.which("g++") and (Path(sysconfig.get_paths()["include"]) / "Python.h").exists()


@pytest.mark.skipif(not COMPILER, reason="torch.compile needs g++ and Python's headers")
@pytest.mark.skipif(not SOAK, reason="the compiler takes minutes; `make soak`")
@pytest.mark.skipif("ATEN_CPU_CAPABILITY" in os.environ, reason="the compiler asks the processor itself")
@pytest.mark.parametrize(("make", "graphs"), [("motion", False), ("motion", True), ("face", False)])
def test_compiled_blocks_give_the_same_gradients(make: str, graphs: bool) -> None:
    """In a process of its own, as a run has: a compiler that fails there ends no other test. CPUs have no graphs."""
    code = f"from tests.test_large_blocks import compare_compiled; compare_compiled({make!r}, {graphs})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stderr


def compare_compiled(make: str, graphs: bool) -> None:
    network, loss = {"motion": motion, "face": face}[make]()
    other = copy.deepcopy(network)
    compile_blocks(other, cuda_graphs=graphs)
    for a, b in zip(gradients(network, loss), gradients(other, loss), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_nothing_that_counts_batches_is_done_twice() -> None:
    blocks = large_blocks(make_generator())
    assert blocks
    assert not any(isinstance(module, nn.BatchNorm2d) for block in blocks for module in block.modules())
    assert not large_blocks(Discriminator(DiscriminatorConfig(size=32, channels=[8, 12, 16, 16]))), "R1 needs it plain"
