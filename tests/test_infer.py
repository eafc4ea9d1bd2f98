"""`emohead infer` without a trained talker: what is written beside the pictures, and what is refused."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emohead.apps.infer import Emotion, device_of, run_infer, write_talking_video
from emohead.models.audio import LogMel
from emohead.models.errors import UserError
from torch import Tensor

LATIN = os.fsdecode(b"fr\xf6hlich")  # as a terminal of another encoding hands it over


class Painter:
    """Grey pictures in place of a talker's, one for each frame of speech that a talker hears."""

    size = 32

    def emotion_from_text(self, *texts: str) -> Tensor:
        """Words of one length mean the same."""
        return F.normalize(torch.stack([torch.arange(8.0) - len(text) for text in texts]), dim=-1)

    def animate(self, portrait: Tensor, speech: Tensor, emotion: Tensor, **moves: Any) -> Iterator[Tensor]:
        for _ in range(LogMel(8)(speech).shape[-1] // LogMel.rate):
            yield torch.full((1, 3, self.size, self.size), 128, dtype=torch.uint8)


def write(out: Path, samples: int = 640, **changed: Any) -> None:
    talker: Any = Painter()
    portrait, speech = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), np.zeros(samples, np.float32)
    write_talking_video(talker, portrait, speech, torch.zeros(1, 8), out, **changed)


def test_text_that_is_not_utf8_is_shown_in_the_comment(tmp_path: Path) -> None:
    emotion = Emotion(texts=[LATIN], audios=[Path(f"{LATIN}.wav")])
    write(tmp_path / "a.mp4", comment=emotion.describe())
    with av.open(str(tmp_path / "a.mp4")) as video:
        assert video.metadata["comment"].endswith(r"fr\xf6hlich + fr\xf6hlich.wav")


def test_a_video_whose_path_is_not_utf8_is_refused(tmp_path: Path) -> None:
    files = {"portrait": tmp_path / "a.png", "speech": tmp_path / "a.wav"}
    with pytest.raises(UserError, match=r"fr\\xf6hlich\.mp4: its path is not UTF-8"):
        run_infer(tmp_path / "a.safetensors", **files, emotion=Emotion(["sad"]), out=tmp_path / f"{LATIN}.mp4")


@pytest.mark.parametrize("name", ["meta", "gpus", "cuda:99"])
def test_devices_that_cannot_compute_here_are_named(name: str) -> None:
    with pytest.raises(UserError, match=rf"--device {name}: cannot be used here \(.*\); give auto, cpu or cuda"):
        device_of(name)
    assert device_of("cpu").type == "cpu"


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (640, 1), (700, 2), (6399, 10)])
def test_progress_ends_with_the_last_frame(tmp_path: Path, samples: int, frames: int) -> None:
    shown: list[tuple[int, int]] = []
    write(tmp_path / "a.mp4", samples, show=lambda done, total, note: shown.append((done, total)))
    assert shown == [(number, frames) for number in range(1, frames + 1)]


def mixture(*weights: float, texts: tuple[str, ...] = ("happy", "angry"), intensity: float = 1.0) -> Tensor:
    talker: Any = Painter()
    return Emotion(texts=texts, weights=weights, intensity=intensity).embed(talker, crop=False)


def test_emotions_that_cancel_each_other_out_are_refused() -> None:
    for weights in ((1, -1), (1e-9, -1e-9), (1e300, -1e300)):
        with pytest.raises(UserError, match="--weights: the emotions cancel each other out; give them other shares"):
            mixture(*weights)
    assert mixture(1, -1, texts=("happy", "sad")).norm() == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_weights_are_shares_whatever_their_size(scale: float) -> None:
    mixed, texts = mixture(2, 1, texts=("happy", "sad")), ("happy", "sad")
    torch.testing.assert_close(mixture(2 * scale, scale, texts=texts), mixed)


def test_intensities_that_overflow_are_refused() -> None:
    assert mixture(texts=("sad",), intensity=-1000).norm() == pytest.approx(1)
    for intensity in (1e38, float("nan"), float("-inf")):
        with pytest.raises(UserError, match=r"--intensity \S+: must be from -1000 to 1000"):
            mixture(texts=("sad",), intensity=intensity)
