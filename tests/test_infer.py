"""`emohead infer` without a trained talker: what is written beside the pictures, and what is refused."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from emohead.apps.infer import Emotion, device_of, run_infer, write_talking_video
from emohead.models.audio import LogMel
from emohead.models.errors import UserError
from torch import Tensor

LATIN = os.fsdecode(b"fr\xf6hlich")  # as a terminal of another encoding hands it over


class Painter:
    """Grey pictures in place of a talker's, one for each frame of speech that a talker hears."""

    size = 32

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
