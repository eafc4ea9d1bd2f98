"""The student and its inference: text without a tower, motion windows, anchoring, length."""

import numpy as np
import torch
from emohead.datamodules.stream.examples import motion_window
from emohead.models.emotion_student import EmotionStudent, EmotionStudentConfig, ImageStudentConfig, subword_buckets
from emohead.models.talker import EASE_FRAMES, HEAD, anchor, copy_matching, motion_windows
from torch import nn


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


def test_student_starts_from_matching_tensors():
    teacher = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 8))
    student = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6))
    assert copy_matching(student, teacher) == 2
    assert torch.equal(student[0].weight, teacher[0].weight)


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
