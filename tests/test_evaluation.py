"""The figures: each against a case whose answer is known."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.datamodules.prompts import class_prompt
from emohead.datamodules.reader import ClipReader
from emohead.datamodules.sample import EMOTIONS
from emohead.datamodules.shards import ShardWriter
from emohead.models.errors import UserError
from emohead.models.face_model import POSE_DIM
from emohead.trainers.distill import psnr
from emohead.trainers.evaluation_emotion import evaluate_emotion
from emohead.trainers.evaluation_face import evaluate_face, relatives_of, ssim
from emohead.trainers.evaluation_motion import correlation, landmark_distances, loudness
from emohead.trainers.stage import learning_rate_scale
from torch import nn

from .shard_clips import SIZE, face_model, make_clip
from .test_face import make_generator


class Oracle(nn.Module):
    """Knows the emotion of each clip in the order in which it is asked; `wrong` turns the images' answers by one."""

    def __init__(self, labels: list[int], wrong: bool) -> None:
        super().__init__()
        self.images, self.voices, self.wrong = iter(labels), iter(labels), wrong

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        classes = [class_prompt(e) for e in EMOTIONS]
        return torch.stack([torch.eye(8)[classes.index(text)] if text in classes else torch.ones(8) for text in texts])

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return torch.eye(8)[(next(self.images) + self.wrong) % 8][None]

    def encode_speech(self, speech: torch.Tensor) -> torch.Tensor:
        return torch.eye(8)[next(self.voices)][None]


@pytest.mark.parametrize("wrong", [False, True])
def test_retrieval_of_one_who_knows(demo: Path, wrong: bool):
    reader = ClipReader(demo / "data")
    labels = [EMOTIONS.index(reader.info(key).emotion) for key in reader.keys("test")]
    found = evaluate_emotion(Oracle(labels, wrong), reader, "test", unseen=["happy", "sad"])
    right = 0.0 if wrong else 1.0
    for group in ("", "seen_", "unseen_"):
        if f"{group}text_audio_top1" not in found:
            assert not {EMOTIONS.index("happy"), EMOTIONS.index("sad")} & set(labels)
            continue
        assert found[f"{group}text_image_top1"] == found[f"{group}image_audio_top1"] == right
        assert found[f"{group}text_audio_top1"] == found[f"{group}audio_text_top1"] == 1
    assert found["image_accuracy"] == right
    assert found["audio_accuracy"] == 1
    assert len([name for name in found if name.startswith("audio_accuracy_")]) >= len(set(labels))


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


def write_grey(folder: Path, *clips: tuple[str, str | None, str, int]) -> ClipReader:
    """Clips of a person, an emotion and a view, all of whose frames have one shade of grey."""
    with ShardWriter(folder, size=SIZE, codec="mjpeg", clips_per_shard=2) as writer:
        for number, (identity, emotion, view, grey) in enumerate(clips):
            clip, level = make_clip(number, "test"), None if emotion is None else 1
            clip.info = replace(clip.info, identity=identity, emotion=emotion, level=level, view=view)
            writer.write(replace(clip, frames=np.full_like(clip.frames, grey), motion=clip.motion / 100))
        writer.close(face_model())
    return ClipReader(folder)


def test_portraits_across_clips_are_of_a_neutral_relative(tmp_path: Path):
    clips = [("a", "angry", "front", 100), ("a", "sad", "front", 140), ("a", "neutral", "front", 120)]
    clips += [("b", None, "front", 90), ("a", "neutral", "top", 90)]
    reader = write_grey(tmp_path / "related", *clips)
    expected = {"clip000": "clip002", "clip001": "clip002", "clip002": "clip000"}
    assert relatives_of(reader, reader.keys("test")) == expected
    generator = {"face": make_generator().eval()}
    found = evaluate_face(generator, reader, "test")
    assert found == evaluate_face(generator, reader, "test")
    names = {f"{name}_{figure}" for name in ("face", "copy", "coarse") for figure in ("psnr", "ssim")}
    assert found.keys() == names | {f"cross_{name}" for name in names}
    # Each portrait is 20 of 255 levels off its targets.
    assert found["cross_copy_psnr"] == pytest.approx(20 * np.log10(255 / 20), abs=1e-3)
    assert found["copy_psnr"] > 100
    strangers = write_grey(tmp_path / "strangers", *((str(i), *clip[1:]) for i, clip in enumerate(clips)))
    assert evaluate_face(generator, strangers, "test") == {name: found[name] for name in names}


def test_ssim_is_of_each_picture_by_itself():
    truth = torch.rand(2, 3, 32, 32) * 2 - 1
    same, other = ssim(torch.stack([truth[0], truth[1].flip(-1)]), truth)
    assert same == pytest.approx(1, abs=1e-4)
    assert abs(other) < 0.3


def test_landmark_distances_are_of_shape_not_of_place():
    model = face_model()
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(5, model.motion_dim, generator=generator) * 0.1
    identity = torch.zeros(model.num_identity)
    moved = truth.clone()
    moved[:, -POSE_DIM:] += 0.3
    assert landmark_distances(model, identity, moved, truth) == (0, 0), "the head's pose is the true one in both"
    expression = truth.clone()
    expression[:, 0] += 0.5
    face, mouth = landmark_distances(model, identity, expression, truth)
    points = [model.landmarks(identity, m) * 128 for m in (expression, truth)]
    a, b = (p - p.mean(1, keepdim=True) for p in points)
    assert face == pytest.approx(float((a - b).norm(dim=-1).mean()), rel=1e-5)
    assert 0 < mouth != face


def test_loudness_follows_the_speech():
    speech = torch.zeros(50 * 640)
    speech[20 * 640 : 30 * 640] = 0.5
    level = loudness(speech, 52)
    assert level.shape == (52,)
    assert level[25] - level[5] > 5


def test_learning_rate_rises_then_falls():
    scale = [learning_rate_scale(step, warmup_steps=10, max_steps=100, final=0.1) for step in range(101)]
    assert scale[0] == pytest.approx(0.1)
    assert scale[9] == pytest.approx(1)
    assert scale[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(scale[10:]))
