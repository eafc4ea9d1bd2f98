"""Weights between stages: what is written comes back, what is damaged or foreign is refused."""

from pathlib import Path

import pytest
import torch
from emohead.models.checkpoint import load_checkpoint, save_checkpoint
from emohead.models.errors import UserError
from emohead.models.motion import AudioTo3DMM


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tensors = {"a": torch.arange(64.0).reshape(8, 8), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.tensor(2)}
    save_checkpoint(tmp_path / "x.safetensors", tensors, kind="motion", config={"dim": 8}, provenance={"steps": 3})
    return tmp_path / "x.safetensors"


def test_round_trip(saved: Path):
    checkpoint = load_checkpoint(saved, kind="motion")
    assert checkpoint.config == {"dim": 8}
    assert checkpoint.provenance == {"steps": 3}
    assert torch.equal(checkpoint.tensors["a"], torch.arange(64.0).reshape(8, 8))
    assert checkpoint.tensors["b"].dtype == torch.bfloat16
    assert list(saved.parent.iterdir()) == [saved], "nothing half-written is left"


def test_others_may_read_it_as_the_umask_says(saved: Path) -> None:
    (saved.parent / "plain").touch()
    assert saved.stat().st_mode == (saved.parent / "plain").stat().st_mode


def test_tensors_that_share_memory(tmp_path: Path):
    weight = torch.randn(4, 4)
    save_checkpoint(tmp_path / "y.safetensors", {"a": weight, "b": weight.T}, kind="face", config={})
    assert torch.equal(load_checkpoint(tmp_path / "y.safetensors").tensors["b"], weight.T)


def test_flipped_bit_is_found(saved: Path):
    content = bytearray(saved.read_bytes())
    content[-20] ^= 1
    saved.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(saved)


def test_wrong_kind_names_the_command(saved: Path):
    with pytest.raises(UserError, match="emohead train emotion"):
        load_checkpoint(saved, kind="emotion")


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x80\x04pickle"])
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "z.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"z\.safetensors"):
        load_checkpoint(tmp_path / "z.safetensors")


def test_missing_and_not_given():
    with pytest.raises(UserError, match=r"gone\.safetensors"):
        load_checkpoint("gone.safetensors", kind="face")
    with pytest.raises(UserError, match="emotion="):
        load_checkpoint("", kind="emotion")


@pytest.mark.parametrize("config", [{"dim": 8}, {}], ids=["another setting", "other shapes"])
def test_another_version_of_the_network(saved: Path, config: dict):
    save_checkpoint(saved, {"a": torch.ones(3)}, kind="motion", config=config)
    with pytest.raises(UserError, match=r"x\.safetensors: does not fit the network .* export it again$"):
        AudioTo3DMM.from_checkpoint(saved)
