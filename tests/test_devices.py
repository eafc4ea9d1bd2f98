"""Every stage and the talker on a device that is not the CPU: a tensor left behind on the CPU is an error.

The device is `meta`, whose tensors have a place and a shape but no numbers: no accelerator is needed.
"""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from emohead.datamodules.batch import made_up_batch
from emohead.models.face_loss import gradient_penalty
from torch import Tensor

from .stages import make

META = torch.device("meta")


@pytest.fixture(autouse=True)
def only_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out autocast, which `meta` lacks."""
    real = torch.autocast

    def autocast(device_type: str, *arguments: Any, **options: Any) -> Any:
        return contextlib.nullcontext() if device_type == "meta" else real(device_type, *arguments, **options)

    monkeypatch.setattr(torch, "autocast", autocast)


def on_meta(name: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    stage = make(name, folder).to(META)
    stage.on_fit_start()
    batch = made_up_batch(name, batch_size=4, size=32)
    return stage, {key: value.to(META) if isinstance(value, Tensor) else value for key, value in batch.items()}


@pytest.mark.parametrize("name", ["emotion", "motion", "face", "distill"])
def test_a_step_stays_on_its_device(name: str, tmp_path: Path) -> None:
    stage, batch = on_meta(name, tmp_path)
    losses = stage.train().losses(batch)
    assert {value.device for value in losses.values()} == {META}
    stage.total(losses).backward()
    assert {p.grad.device for p in stage.network.parameters() if p.grad is not None} == {META}
    if name == "face":
        stage.discriminator(batch["target"].float()).mean().backward()
        gradient_penalty(stage.discriminator, batch["target"].float()).backward()


@pytest.mark.parametrize("name", ["motion", "face", "distill"])  # of emotion, what is kept goes to the CPU
def test_validation_stays_on_its_device(name: str, tmp_path: Path) -> None:
    stage, batch = on_meta(name, tmp_path)
    with torch.no_grad():
        assert {value.device for value in stage.eval().validate(batch).values()} == {META}


def test_a_talker_takes_inputs_from_the_cpu(tmp_path: Path) -> None:
    talker = on_meta("distill", tmp_path)[0].network.eval()
    batch = made_up_batch("distill", size=32)
    emotions = [
        talker.emotion_from_text("a happy face"),
        talker.emotion_from_image(batch["image"][:1]),
        talker.emotion_from_speech(batch["speech"][:1]),
    ]
    assert {emotion.device for emotion in emotions} == {META}
    frames = next(talker.animate(batch["portrait"][:1], batch["speech"][:1], emotions[0]))
    assert (frames.device, frames.shape[1:]) == (META, (3, 32, 32))


def test_what_is_left_behind_is_found(tmp_path: Path) -> None:
    stage, batch = on_meta("motion", tmp_path)
    with pytest.raises(RuntimeError, match="device"):
        stage.losses(batch | {"motion": batch["motion"].new_zeros(batch["motion"].shape, device="cpu")})
