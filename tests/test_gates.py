"""Which clips are left out, and the delay of the sound."""

from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.prepare import fit
from emohead.datamodules.prepare.av_offset import band_energies, estimate_offset
from emohead.datamodules.prepare.gates import (
    GateConfig,
    check_residual,
    check_sound,
    check_span,
    find_cuts,
    parse_gates,
    yaw_angles,
)
from emohead.datamodules.prepare.listing import Source, SourceList
from emohead.datamodules.prepare.track import Track, count_colours
from emohead.datamodules.prepare.work import PrepareConfig
from emohead.datamodules.sample import REJECTIONS
from emohead.datamodules.synthetic.corpus import SyntheticConfig, prepare_synthetic
from emohead.models.errors import UserError

from .pictures import picture
from .talking_clips import shifted


def face(yaw: float = 0.0, size: float = 100.0) -> np.ndarray:
    """478 points on an ellipsoid, turned to image right by so many degrees, pixels."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(478, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[[127, 356, 10, 152]] = [(-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0)]  # ears, forehead, chin
    turn = np.radians(yaw)
    rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    return (points * (0.4, 0.5, 0.4) @ rotation.T * size + 200).astype(np.float32)


def track(
    frames: int = 50,
    *,
    found: float = 1.0,
    several: float = 0.0,
    loudness: float = 0.1,
    yaw: float = 0.0,
    size: float = 100.0,
) -> Track:
    index = np.arange(frames) / frames
    points = np.repeat(face(yaw, size)[None], frames, axis=0)
    points[index >= found] = np.nan
    quiet = np.full(frames, loudness, np.float32)
    return Track(points, index < found, index < several, np.zeros(frames, np.float32), quiet, quiet[:, None])


@pytest.mark.parametrize(
    ("made", "code", "reason"),
    [
        (track(), None, ""),
        (track(found=0.95), None, ""),
        (track(yaw=50), None, ""),
        (track(found=0.5), "no_face", "no face in 50% of the frames"),
        (track(found=0), "no_face", "no face"),
        (track(several=0.3), "several_faces", "several faces in 30% of the frames"),
        (track(frames=20), "too_short", "too short: 0.80 s of at least 1 s"),
        (track(size=50), "face_too_small", "face too small: 50 pixels of at least 64"),
        (track(yaw=-70), "large_yaw", "face turned away: yaw 70 degrees, at most 60"),
    ],
)
def test_spans_that_are_unfit_are_named_and_counted(made: Track, code: str | None, reason: str) -> None:
    rejected = check_span(made, 0, len(made.found), [], GateConfig(), "a.mp4")
    assert (rejected and rejected.code) == code
    if rejected:
        assert (rejected.source, rejected.reason) == ("a.mp4", reason)
        assert rejected.value is not None
        assert rejected.code in REJECTIONS


def test_what_cannot_be_heard_is_told_from_what_has_no_sound() -> None:
    made, mute = track(loudness=1e-4), track()
    mute.has_sound = False
    found = [check_sound(one, 0, len(one.found), GateConfig(), "a.mp4") for one in (made, mute, track())]
    assert [one and one.code for one in found] == ["silent_audio", "no_audio", None]


def test_thresholds_can_be_set() -> None:
    config = parse_gates(["max_yaw=80", "min_seconds=0.5"])
    assert check_span(track(yaw=70, frames=20), 0, 20, [], config, "a") is None
    assert check_residual(0.1, parse_gates(["max_residual=0.2"]), "a") is None
    assert check_residual(0.1, GateConfig(), "a").code == "tracking_residual"  # type: ignore[union-attr]
    with pytest.raises(UserError, match="no gate 'max_jaw'; did you mean max_yaw"):
        parse_gates(["max_jaw=3"])
    for value in ("wide", "nan", "inf", ""):
        with pytest.raises(UserError, match=f"'{value}' is no finite number; write --gate max_yaw=60"):
            parse_gates([f"max_yaw={value}"])


def test_a_clip_without_any_face_is_left_out_whatever_is_allowed() -> None:
    rejected = check_span(track(found=0), 0, 50, [], parse_gates(["max_missing=1"]), "a")
    assert rejected is not None
    assert rejected.code == "no_face"


@pytest.mark.parametrize("yaw", [-60, -20, 0, 35])
def test_yaw_is_measured(yaw: float) -> None:
    assert abs(np.degrees(yaw_angles(face(yaw)[None])[0])) == pytest.approx(abs(yaw), abs=0.5)
    assert np.sign(yaw_angles(face(-30)[None])[0]) != np.sign(yaw_angles(face(30)[None])[0])


def test_a_cut_is_a_jump_of_picture_and_face() -> None:
    first, second = picture(size=64, frames=1)[0], 255 - picture(size=64, frames=1)[0]
    change = np.abs(count_colours(first) - count_colours(second)).sum() / 2
    assert change > 0.4
    assert np.abs(count_colours(first) - count_colours(np.roll(first, 3, axis=1))).sum() / 2 < 0.1
    cut, flash, jump = track(), track(), track()
    for made in (cut, jump):
        made.points[22:] += (40, 0, 0)  # the tracker follows two frames late
    for made in (cut, flash):
        made.changes[20] = change
    assert find_cuts(cut, GateConfig()) == [20]
    assert find_cuts(flash, GateConfig()) == find_cuts(jump, GateConfig()) == []
    rejected = check_span(cut, 0, 50, [20], GateConfig(), "a")
    assert rejected is not None
    assert (rejected.code, rejected.value) == ("scene_cut", 0.8)
    assert check_span(cut, 20, 50, [20], GateConfig(), "a") is None


def test_cuts_are_looked_for_once_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked for again for each of its pieces, they would take time that grows with the square of its length."""
    made, looked = track(frames=1000), []
    made.points[622:] += (40, 0, 0)
    made.changes[620] = 1
    monkeypatch.setattr(fit, "find_cuts", lambda *given: looked.append(given) or find_cuts(*given))
    found = list(fit.cut_source(SourceList("x", [Source(Path("a.mp4"), "a.mp4", "a")]), 0, made, PrepareConfig()))
    assert len(looked) == 1
    assert [item.start if isinstance(item, fit.Piece) else item[2].code for item in found] == [0, 250, "scene_cut", 750]


# -- the delay of the sound ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mouth opening (T,) and speech of clips in which they belong together exactly."""
    out = tmp_path_factory.mktemp("spoken") / "data"
    prepare_synthetic(out, SyntheticConfig(identities=4, clips=8, seed=3, size=32, frames=160, workers=1))
    reader = ClipReader(out)
    clips = []
    for key in reader.keys(None):
        identity, motion = torch.from_numpy(reader.identity(key)), torch.from_numpy(reader.motion(key))
        clips.append((reader.face_model.mouth_opening(identity, motion).numpy(), reader.speech(key)))
    return clips


@pytest.mark.parametrize("delay", [0, 3, -3, 12, -12])
def test_the_delay_of_the_sound_is_found(voices: list[tuple[np.ndarray, np.ndarray]], delay: int) -> None:
    found = [estimate_offset(mouth, band_energies(shifted(speech, delay), len(mouth))) for mouth, speech in voices]
    sure = [offset for offset in found if offset and offset.confidence >= GateConfig().min_av_confidence]
    assert len(sure) >= len(voices) // 2
    assert all(abs(offset.frames - delay) <= 1 for offset in sure)


def test_strangers_voices_are_not_believed(voices: list[tuple[np.ndarray, np.ndarray]]) -> None:
    pairs = [(a, b) for i, (a, _) in enumerate(voices) for j, (_, b) in enumerate(voices) if i != j]
    found = [estimate_offset(mouth, band_energies(speech, len(mouth))) for mouth, speech in pairs]
    confidences = np.array([offset.confidence for offset in found if offset])
    assert len(confidences) == len(pairs)
    assert (confidences >= GateConfig().min_av_confidence).mean() <= 0.02


def test_no_delay_of_silence_or_of_a_moment() -> None:
    still = estimate_offset(np.zeros(75), np.zeros((75, 2)))
    assert still is not None
    assert still.confidence == 0
    assert estimate_offset(np.zeros(20), np.zeros((20, 2))) is None
