"""The student and its inference: text without a tower, motion windows, anchoring, length."""

from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.datamodules.stream.examples import motion_window
from emohead.models.emotion_student import EmotionStudent, EmotionStudentConfig, ImageStudentConfig, subword_buckets
from emohead.models.face import FaceGenerator, FaceGeneratorConfig
from emohead.models.motion import AudioTo3DMM, AudioTo3DMMConfig
from emohead.models.talker import EASE_FRAMES, HEAD, Talker, anchor, copy_matching, motion_windows

from .face_stage import DIMS, SMALL


def test_word_forms_share_buckets():
    happy, happily, sad = (set(subword_buckets(word, 1 << 16)) for word in ("happy", "happily", "sad"))
    assert len(happy & happily) >= 3
    assert not happy & sad


def test_text_is_padded_without_effect():
    torch.manual_seed(0)
    student = EmotionStudent(EmotionStudentConfig(embed_dim=16, image=ImageStudentConfig(crop=1.0))).eval()
    alone = student.encode_text(["a sad face"])
    beside = student.encode_text(["a sad face", "somebody who talks for a long time with a very angry face"])
    torch.testing.assert_close(alone[0], beside[0], atol=1e-5, rtol=1e-5)
    assert student.encode_text(["", "…"]).isfinite().all()
    torch.testing.assert_close(beside.norm(dim=-1), torch.ones(2))


def test_word_order_matters():
    torch.manual_seed(0)
    student = EmotionStudent(EmotionStudentConfig(embed_dim=16, image=ImageStudentConfig(crop=1.0))).eval()
    one, other = student.encode_text(["not sad but happy", "not happy but sad"])
    assert (one - other).norm() > 1e-4


def test_motion_windows_are_centred():
    motion = torch.arange(40.0)[:, None].expand(40, 5)
    windows = motion_windows(motion)
    assert windows.shape == (40, 27, 5)
    assert torch.equal(windows[:, 13], motion)
    assert torch.equal(windows[20, :, 0], torch.arange(7.0, 34.0))
    assert (windows[0, :13] == 0).all(), "edges are replicated"
    assert (windows[-1, 14:] == 39).all()


def test_windows_are_those_that_training_cuts():
    motion = torch.randn(40, 5)
    cut = [motion_window(motion.numpy(), frame) for frame in range(len(motion))]
    assert np.array_equal(motion_windows(motion), np.stack(cut))
    short = torch.randn(3, 5)
    assert np.array_equal(motion_windows(short)[1], motion_window(short.numpy(), 1))


def test_a_video_begins_with_the_portrait_as_it_is():
    """Turned, smiling: the first frame is its own; the head stays about there, a smile gives way, or stays if asked."""
    torch.manual_seed(0)
    motion, portrait, mean = torch.randn(40, 12), torch.randn(12), torch.randn(12)
    for relative in (False, True):
        moved = anchor(motion, portrait, mean, relative=relative)
        torch.testing.assert_close(moved[0], portrait)
        torch.testing.assert_close(moved[EASE_FRAMES:, HEAD], (motion + portrait - mean)[EASE_FRAMES:, HEAD])
        expected = motion + (portrait - motion[0]) * relative
        torch.testing.assert_close(moved[EASE_FRAMES:, : HEAD.start], expected[EASE_FRAMES:, : HEAD.start])
        steps = (moved - motion).diff(dim=0).abs().amax(dim=0) / (portrait - motion[0]).abs().clamp(min=1e-3)
        assert steps.max() < 30 / EASE_FRAMES  # it eases: no frame takes more than its share


@pytest.mark.parametrize("relative", [False, True])
def test_blinks_are_of_the_eyes_that_are_shown(demo: Path, monkeypatch: pytest.MonkeyPatch, relative: bool):
    talker, shown = Talker.load(demo / "talker.safetensors"), []
    monkeypatch.setattr("emohead.models.talker.add_blinks", lambda motion, *_: shown.append(motion) or motion)
    portrait = torch.randint(0, 256, (1, 3, talker.size, talker.size), dtype=torch.uint8)
    emotion = talker.emotion_from_text("a sad face")
    next(talker.animate(portrait, torch.zeros(1, 16000), emotion, relative=relative))
    torch.testing.assert_close(shown[0][0], talker.face.encode_portrait(portrait).motion[0], atol=1e-4, rtol=1e-4)


def test_a_head_that_is_to_be_still_stays_where_the_portrait_has_it(demo: Path, monkeypatch: pytest.MonkeyPatch):
    talker, moved = Talker.load(demo / "talker.safetensors"), []
    monkeypatch.setattr(
        "emohead.models.talker.motion_windows", lambda motion: moved.append(motion) or motion_windows(motion)
    )
    portrait = torch.randint(0, 256, (1, 3, talker.size, talker.size), dtype=torch.uint8)
    speech, emotion = torch.randn(1, 16000) * 0.1, talker.emotion_from_text("a sad face")
    for still in (True, False):
        next(talker.animate(portrait, speech, emotion, still=still))
    (kept, turned), own = (motion[:, HEAD] for motion in moved), talker.face.encode_portrait(portrait).motion[0, HEAD]
    torch.testing.assert_close(kept, own.expand_as(kept), atol=1e-5, rtol=1e-5)
    assert turned.std(dim=0).max() > 1e-3


def face(seed: int, **changes: object) -> FaceGenerator:
    torch.manual_seed(seed)
    return FaceGenerator(FaceGeneratorConfig(**SMALL | changes, **DIMS))


def test_a_student_of_the_same_shape_starts_as_its_teacher():
    student, teacher = face(1), face(0)
    assert copy_matching(student, teacher)
    given = teacher.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in student.state_dict().items())


def test_a_student_of_other_widths_gets_no_part_of_a_chain_whose_rest_is_random():
    """The corrections of a second look have the same shape at any width, but read what other layers have reduced."""
    student, teacher = face(1, channels=[16, 16, 8]), face(0)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    alike = [name for name, tensor in before.items() if tensor.shape == teacher.state_dict()[name].shape]
    assert any("correct" in name for name in alike)
    assert not copy_matching(student, teacher)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert copy_matching(face(1, style_dim=8).encoder, teacher.encoder), "it depends on nothing of the rest"


def test_a_student_of_fewer_layers_gets_those_that_it_has():
    sizes = {"motion_dim": 10, "identity_dim": 3, "emotion_dim": 8, "dim": 16, "heads": 2}
    student, teacher = (AudioTo3DMM(AudioTo3DMMConfig(layers=layers, **sizes)) for layers in (2, 4))
    assert copy_matching(student, teacher)
    assert torch.equal(student.blocks[1].qkv.weight, teacher.blocks[1].qkv.weight)
    assert not copy_matching(teacher, student)
