"""Figures of tracked faces and of whole videos: each against a case whose answer is known, with no tracker."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from emohead.models.face_model import rotation_matrix
from emohead.models.face_model_fit import MEDIAPIPE_IBUG_68
from emohead.trainers.evaluation.common import averages, interval, intervals
from emohead.trainers.evaluation.films import compare_pixels, spread
from emohead.trainers.evaluation.landmarks import (
    CORNERS_AND_IRIS,
    LEAST_FRAMES,
    RIGID,
    blinks,
    compare_faces,
    compare_mouths,
    gaze,
    mouth_opening,
)
from emohead.trainers.evaluation.tracked import refitted

from .tracked_faces import made_up_model, made_up_motion, tracks

FRAMES = 60
UPPER_LIPS, LOWER_LIPS = MEDIAPIPE_IBUG_68[[61, 62, 63]], MEDIAPIPE_IBUG_68[[67, 66, 65]]


def face(opening: np.ndarray | None = None, *, seed: int = 0) -> np.ndarray:
    """Points (T, 478, 3) of a face at rest in a picture of 256; its lips open by so many eye distances (T,)."""
    still = np.random.default_rng(seed).uniform(60, 200, (478, 3))
    still[UPPER_LIPS] = still[LOWER_LIPS]
    eyes = np.linalg.norm(np.subtract(*still[MEDIAPIPE_IBUG_68[[36, 45]]]))
    opening = np.zeros(FRAMES) if opening is None else opening
    points = np.repeat(still[None], len(opening), axis=0)
    points[:, LOWER_LIPS, 1] += opening[:, None] * eyes
    return points


def talk(seed: int = 1) -> np.ndarray:
    """An opening of the mouth over time (T,), a smooth one."""
    rough = np.random.default_rng(seed).normal(size=FRAMES + 8)
    return 0.2 + 0.1 * np.convolve(rough, np.hanning(9) / 2, mode="valid")


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """About the upright through the middle of the picture."""
    turn = rotation_matrix(torch.tensor([0.0, np.radians(degrees), 0.0], dtype=torch.float64)).numpy()
    return (points - 128) @ turn.T + 128


# -- faces -----------------------------------------------------------------------------------------------------------


def test_a_face_against_itself_has_no_distance():
    points = face(talk())
    found = compare_faces(points, points, follows=True)
    for name in ("f_lmd", "m_lmd", "lasting_lmd", "pose_error", "place_error", "frame0_jump", "mouth_lag"):
        assert found[name] == pytest.approx(0, abs=1e-4), name
    assert found["mouth_correlation"] == pytest.approx(1)
    assert found["mouth_ratio"] == pytest.approx(1)


def test_pose_place_and_size_of_the_head_are_not_its_shape():
    points = face(talk())
    moved = turned(points, 10) * 1.2 + (5, -3, 40)
    found = compare_faces(moved, points, follows=True)
    assert found["f_lmd"] == pytest.approx(0, abs=1e-4)
    assert found["m_lmd"] == pytest.approx(0, abs=1e-4)
    assert found["mouth_correlation"] == pytest.approx(1)
    assert found["pose_error"] == pytest.approx(10, abs=1e-3)
    assert not {"pose_error", "place_error"} & compare_faces(moved, points, follows=False).keys()
    aside = compare_faces(points + np.array([3, 4, 0]), points, follows=True)
    assert aside["place_error"] == pytest.approx(5)
    assert aside["frame0_jump"] == pytest.approx(5)


def test_distances_are_pixels_of_the_landmarks_that_moved():
    points = face(talk())
    other = points.copy()
    brow, lip = MEDIAPIPE_IBUG_68[17], MEDIAPIPE_IBUG_68[51]
    other[:, brow, 1] += 6.8
    other[::2, lip, 0] += 4
    other[1::2, lip, 0] -= 4
    found = compare_faces(other, points, follows=True)
    assert found["f_lmd"] == pytest.approx((6.8 + 4) / 68, abs=1e-4)
    assert found["m_lmd"] == pytest.approx(4 / 20, abs=1e-4)
    assert found["lasting_lmd"] == pytest.approx(6.8 / 68, abs=1e-4), "the lip's place is right on average"


def test_mouths_are_compared_over_time():
    opening = talk()
    true = face(opening)
    assert mouth_opening(true) == pytest.approx(opening)
    frozen = compare_mouths(face(np.full(FRAMES, opening.mean())), true)
    assert frozen == {"mouth_correlation": pytest.approx(0, abs=1e-3), "mouth_ratio": pytest.approx(0, abs=1e-6)}
    half = compare_mouths(face(0.2 + (opening - 0.2) / 2), true)
    assert half["mouth_ratio"] == pytest.approx(0.5)
    assert half["mouth_correlation"] == pytest.approx(1)
    for late in (-3, 2):
        found = compare_mouths(face(np.roll(opening, late)), true)
        assert found["mouth_lag"] == abs(late)
        assert found["mouth_correlation"] < 0.8


def test_heads_are_compared_over_time():
    sway, points = 10 * np.sin(np.arange(FRAMES) / 8), face()
    true = points + sway[:, None, None] * (1, 0, 0)
    half = compare_faces(points + sway[:, None, None] * (0.5, 0, 0), true, follows=False)
    assert half["head_ratio"] == pytest.approx(0.5)
    assert compare_faces(points, true, follows=False)["head_ratio"] == pytest.approx(0)
    shaken = true + (np.arange(FRAMES) % 2)[:, None, None] * (0.5, 0, 0)
    found = compare_faces(shaken, true, follows=False)
    assert found["jitter"] > 50, "which half a pixel is beside a head that sways slowly"
    assert found["head_ratio"] == pytest.approx(1, abs=0.01)


def test_blinks_are_counted_once_each():
    eyes = np.ones(100)
    eyes[20:24] = [0.5, 0.1, 0.3, 0.7]
    eyes[60:66] = [0.6, 0.2, 0.7, 0.2, 0.7, 0.9]  # trembles half-way
    eyes[80:84] = 0.75  # narrows
    assert blinks(eyes) == 2
    assert blinks(eyes * 0.3) == 2, "whatever the eyes are like"
    assert blinks(np.full(100, 0.05)) == 0
    assert blinks(np.concatenate([eyes[20:], np.ones(20)])) == 2, "the first may begin with the clip"


def test_gaze_is_where_the_irises_stand():
    true = face()
    for corners, iris in CORNERS_AND_IRIS:
        true[:, iris] = true[:, corners].mean(axis=1, keepdims=True)
    aside = true.copy()
    for corners, iris in CORNERS_AND_IRIS:  # by a tenth of the eye, towards the right corner
        left, right = (true[:, corner, None] for corner in corners)
        aside[:, iris] += 0.1 * (right - left)
    assert gaze(true, true) == {"gaze_error": 0}
    assert gaze(aside, true)["gaze_error"] == pytest.approx(0.05), "mean of along and across"
    assert gaze(turned(aside, 20), turned(true, 20))["gaze_error"] == pytest.approx(0.05), "in the eye's own frame"


def test_motion_is_fitted_again_to_what_is_seen():
    """What drove a clip comes back, measured from the rest pose of the true one; residuals are in pixels of 256."""
    model, identity = made_up_model(), np.array([1.0, -0.5, 0.3, 0.8], np.float32)
    motions = [made_up_motion(frames, seed=2) for frames in (30, 20)]
    seen = [(tracks(model, identity, motion) + np.array([1, 1, 0])) * 128 for motion in motions]
    noisy = seen[1] + np.random.default_rng(0).normal(0, 2, seen[1].shape)
    known = torch.from_numpy(motions[0])
    for motion, points in zip(motions, seen, strict=True):
        found = refitted(model, points, seen[0], known)
        np.testing.assert_allclose(found.motion.numpy(), motion, atol=0.03)
        assert found.residual < 0.1
    assert 1.5 < refitted(model, noisy, seen[0], known).residual < 3


# -- pictures --------------------------------------------------------------------------------------------------------


def noise_film(frames: int = 12) -> np.ndarray:
    smooth = np.random.default_rng(0).normal(128, 20, (frames, 32, 32, 1)).clip(0, 255)
    return np.repeat(smooth, 3, axis=3).astype(np.uint8)


def test_pixels_over_time():
    true = noise_film()
    assert compare_pixels(true, true) == {"temporal": 0, "flicker": 1, "sharpness": 1}
    copied = compare_pixels(np.repeat(true[:1], len(true), axis=0), true)
    changes = np.abs(np.diff(true[..., 0].astype(float), axis=0)).mean()
    assert copied["temporal"] == pytest.approx(changes)
    assert copied["flicker"] == 0
    still = np.full((12, 32, 32, 3), 100, np.uint8)
    blinking = still + (np.arange(12) % 2 * 10).astype(np.uint8)[:, None, None, None]
    assert compare_pixels(blinking, still)["temporal"] == 10
    assert compare_pixels(blinking + true // 4, true // 4)["flicker"] > 1.2
    halved = (true // 2 + 64).astype(np.uint8)
    assert compare_pixels(halved, true)["sharpness"] == pytest.approx(0.25, abs=0.01), "energy goes by the square"


# -- clips -----------------------------------------------------------------------------------------------------------


@dataclass
class Shelf:
    """A reader's records."""

    records: dict[str, dict]

    def clip(self, key: str) -> SimpleNamespace:
        return SimpleNamespace(record=self.records[key])


def test_tracked_clips_are_spread_over_people_and_emotions():
    emotions = ("angry", "happy", "sad", None)
    records = {
        f"{person}{take}{emotion}": {"identity": person, "emotion": emotion, "frames": 30}
        for person in "abc"
        for emotion in emotions
        for take in (1, 2)
    }
    shelf, keys = (
        Shelf(records | {"short": {"identity": "d", "emotion": "fear", "frames": LEAST_FRAMES - 1}}),
        [*records],
    )
    chosen = spread(shelf, ["short", *keys], 12)
    assert chosen == spread(shelf, ["short", *keys], 12)
    of = [(records[key]["identity"], records[key]["emotion"]) for key in chosen]
    assert sorted(person for person, _ in of) == sorted("abc" * 4)
    assert sorted(str(emotion) for _, emotion in of) == sorted(map(str, emotions * 3))
    assert {person for person, _ in of[:3]} == set("abc")
    assert chosen[:5] == spread(shelf, keys, 5)
    assert sorted(spread(shelf, keys, 99)) == sorted(keys)
    assert spread(shelf, keys, 0) == []


def test_intervals_shrink_with_clips_and_stay_the_same():
    values = np.random.default_rng(0).normal(10, 2, 400)
    low, high = interval(values)
    assert (low, high) == interval(values), "the same resamples each time"
    assert (low, high) != interval(values, seed=1)
    assert (high - low) / 2 == pytest.approx(1.96 * 2 / 20, rel=0.1), "that of a normal distribution"
    assert low < values.mean() < high
    few = interval(values[:25])
    assert few[1] - few[0] == pytest.approx(4 * (high - low), rel=0.35)
    assert interval([3.0, 3.0, 3.0]) == pytest.approx((3, 3))


def test_each_average_has_its_interval():
    clips = [("happy", {"a": 1.0, "b": 5.0}), ("sad", {"a": 2.0}), ("fear", {"a": 4.0})]
    assert intervals(clips).keys() == {"a"}, "one clip says nothing of how sure it is"
    low, high = intervals(clips)["a"]
    assert 1 <= low < averages(clips)["a"] < high <= 4
    apart = intervals(clips, ["sad"], ["a"])
    assert apart.keys() == {"a", "seen_a"}
    assert apart["a"] == (low, high)


def test_rigid_points_are_none_of_the_mouth_or_the_brows():
    moving = set(MEDIAPIPE_IBUG_68[[*range(17), *range(17, 27), *range(48, 68)]].tolist())
    assert not moving & set(RIGID.tolist())
