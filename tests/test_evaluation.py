"""The figures: each against a case whose answer is known."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from emohead.datamodules.prompts import class_prompt
from emohead.datamodules.reader import ClipReader
from emohead.datamodules.sample import EMOTIONS
from emohead.models.errors import UserError
from emohead.trainers.distill import psnr
from emohead.trainers.evaluation import correlation, evaluate_emotion
from emohead.trainers.stage import learning_rate_scale
from torch import nn


class Oracle(nn.Module):
    """Knows the emotion of each clip in the order in which it is asked; `wrong` turns the images' answers by one."""

    def __init__(self, labels: list[int], wrong: bool) -> None:
        super().__init__()
        self.images, self.voices, self.wrong = iter(labels), iter(labels), wrong

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([torch.eye(8)[[class_prompt(e) for e in EMOTIONS].index(text)] for text in texts])

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return torch.eye(8)[(next(self.images) + self.wrong) % 8][None]

    def encode_speech(self, speech: torch.Tensor) -> torch.Tensor:
        return torch.eye(8)[next(self.voices)][None]


@pytest.mark.parametrize("wrong", [False, True])
def test_retrieval_of_one_who_knows(demo: Path, wrong: bool):
    reader = ClipReader(demo / "data")
    labels = [EMOTIONS.index(reader.info(key).emotion) for key in reader.keys("test")]
    found = evaluate_emotion(Oracle(labels, wrong), reader, "test")
    assert found == {"text_image_top1": 0.0 if wrong else 1.0, "text_audio_top1": 1.0}


def test_empty_split_is_named(demo: Path, tmp_path: Path):
    reader = ClipReader(demo / "data")
    reader.manifest.shards = [shard for shard in reader.manifest.shards if shard.split == "train"]
    with pytest.raises(UserError, match="test"):
        evaluate_emotion(Oracle([], False), reader, "test")


def test_psnr_of_known_errors():
    truth = torch.zeros(2, 3, 8, 8)
    image = torch.stack([truth[0] + 0.2, truth[1] + 2.0])  # one tenth of the range; beyond it, clipped to half of it
    torch.testing.assert_close(psnr(image, truth), torch.tensor([20.0, 6.0206]), atol=1e-3, rtol=0)


def test_correlation_of_known_tracks():
    track = torch.sin(torch.arange(50.0) / 3)
    assert correlation(track, 3 * track + 1) == pytest.approx(1, abs=1e-5)
    assert correlation(track, -track) == pytest.approx(-1, abs=1e-5)
    assert correlation(track, torch.ones(50)) == 0


def test_learning_rate_rises_then_falls():
    scale = [learning_rate_scale(step, warmup_steps=10, max_steps=100, final=0.1) for step in range(101)]
    assert scale[0] == pytest.approx(0.1)
    assert scale[9] == pytest.approx(1)
    assert scale[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(scale[10:]))
