"""Frames are judged as they are, whatever drove them: each cheat fails the figure that is meant for it."""

import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from emohead.apps.evaluate import run_evaluation
from emohead.apps.evaluation_tables import cell, video_html
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.datamodules.synthetic.face import synthetic_face_model
from emohead.models.checkpoint import load_checkpoint, save_checkpoint
from emohead.models.errors import UserError
from emohead.models.face import to_float, to_pictures
from emohead.models.face_model import POSE_DIM
from emohead.models.face_model_fit import NUM_TRACKED
from emohead.trainers.evaluation import films
from emohead.trainers.evaluation.films import Film, compare_films, film
from emohead.trainers.evaluation.landmarks import LEAST_FRAMES
from emohead.trainers.evaluation.makers import AGAIN, PORTRAIT, TRUE_FRAMES, Maker, again
from emohead.trainers.evaluation.tracked import LEAST_FOUND, Tracked, track
from emohead.trainers.evaluation.video import Compared, Judges, evaluate_videos, whole_figures
from emohead.trainers.inputs import check_face_model

from .conftest import ROOT
from .drawn_films import clip_of, redrawn
from .face_stage import make_generator
from .shard_clips import SIZE, face_model, make_clip

EMOTION = "happy"


@pytest.fixture(scope="module", autouse=True)
def bench() -> object:
    """The benchmark, whose cheats these tests play."""
    pytest.importorskip("ai_edge_litert", reason="needs the extra `prepare`")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import video_judges
    finally:
        sys.path.pop(0)
    return video_judges


@pytest.fixture(scope="module")
def true() -> Film:
    return film(clip_of(EMOTION).frames)


@pytest.fixture(scope="module")
def floor(true: Film) -> dict[str, float]:
    """What noise alone does to each figure."""
    once_more = to_pictures(again(to_float(torch.from_numpy(true.frames).movedim(-1, 1))))
    return compare_films(film(once_more), true, follows=True)


def played(frames: np.ndarray, true: Film) -> dict[str, float]:
    return compare_films(film(frames), true, follows=True)


def test_true_frames_pass(true: Film, floor: dict[str, float]):
    own = compare_films(film(true.frames.copy()), true, follows=True)
    for name in ("temporal", "f_lmd", "m_lmd", "lasting_lmd", "mouth_lag", "place_error", "frame0_jump"):
        assert own[name] == pytest.approx(0, abs=1e-4), f"{name}: the tracker says the same of the same frames"
    for name in ("flicker", "sharpness", "mouth_correlation", "mouth_ratio", "head_ratio", "jitter"):
        assert own[name] == pytest.approx(1, abs=1e-6), name
    assert floor["m_lmd"] < 0.7
    assert floor["lasting_lmd"] < 0.3
    assert floor["mouth_correlation"] > 0.97
    assert floor["mouth_lag"] == 0
    assert floor["place_error"] < 0.5
    assert floor["sharpness"] == pytest.approx(1, abs=0.1)


def test_frozen_lips_are_caught(bench: SimpleNamespace, true: Film, floor: dict[str, float]):
    motion = torch.from_numpy(clip_of(EMOTION).motion)
    frozen = bench.frozen_lips(motion, synthetic_face_model()).numpy()
    assert np.array_equal(frozen[:, -POSE_DIM:], motion[:, -POSE_DIM:])
    assert not np.array_equal(frozen, motion), "brows and lids move as they did"
    found = played(redrawn(EMOTION, frozen), true)
    assert found["mouth_ratio"] < 0.25
    assert found["mouth_correlation"] < 0.5
    assert found["m_lmd"] > 5 * floor["m_lmd"]


def test_a_frozen_emotion_is_caught(bench: SimpleNamespace, true: Film, floor: dict[str, float]):
    motion = torch.from_numpy(clip_of(EMOTION).motion)
    neutral = bench.frozen_emotion(motion, torch.zeros(motion.shape[1])).numpy()
    found = played(redrawn(EMOTION, neutral), true)
    assert found["lasting_lmd"] > 8 * floor["lasting_lmd"]
    assert found["f_lmd"] > 5 * floor["f_lmd"]
    assert found["mouth_correlation"] > 0.8, "the mouth speaks as it did"


def test_cheats_on_frames_are_caught(bench: SimpleNamespace, true: Film, floor: dict[str, float]):
    found = {name: played(frames, true) for name, frames in bench.on_frames(true.frames)}
    assert list(found) == [name for name in bench.FIGURES if "frozen" not in name]
    late, displaced = found["2 frames late"], found["displaced by 2 pixels"]
    assert late["mouth_lag"] == 2
    assert late["mouth_correlation"] < 0.8
    assert late["temporal"] > 2 * floor["temporal"]
    for name in ("place_error", "frame0_jump"):  # 2 pixels of 128 are 4 of 256
        assert displaced[name] == pytest.approx(4, abs=0.5), name
    assert displaced["f_lmd"] < 3 * floor["f_lmd"], "where the head is does not count as its shape"
    trembling, copied = found["trembling by 1 pixel"], found["portrait copied"]
    assert trembling["jitter"] > 3
    assert trembling["flicker"] > 1.5
    assert found["blurred"]["sharpness"] < 0.3
    for name in ("mouth_ratio", "head_ratio", "flicker"):
        assert copied[name] < 0.1, name
    assert copied["frame0_jump"] == pytest.approx(0, abs=0.2)


def test_the_benchmark_tells_by_how_much(bench: SimpleNamespace):
    honest = {name: 1.0 for names in bench.FIGURES.values() for name in names} | {"mouth_lag": 0.0}
    rows = {name: [honest] * 3 for name in (AGAIN, "true motion", *bench.FIGURES)}
    rows["blurred"] = [honest | {"sharpness": sharpness} for sharpness in (0.4, 0.5, 0.6)]
    lines = {tuple(line.split("|")[1:3]): line for line in bench.lines(rows)}
    told = lines[" blurred ", " `sharpness` "]
    assert "| 1.000 | 1.000 | 0.500 | 0.500 ±" in told
    assert told.endswith("| yes, in 3 of 3 clips |")
    assert lines[" lips frozen ", " `mouth_ratio` "].endswith("| NO, in 0 of 3 clips |")


def test_lips_of_the_portrait_can_be_pasted_onto_a_film(bench: SimpleNamespace, true: Film):
    assert true.face is not None
    pasted = bench.pasted_lips(true.frames, true.face.points)
    assert np.array_equal(pasted[0], true.frames[0])
    assert played(pasted, true)["mouth_ratio"] < 0.5


def test_the_jury_is_asked_about_what_is_seen(true: Film):
    """The motion that it is shown is that of the frames, whatever motion is said to have driven them."""
    clip = SimpleNamespace(
        motion=torch.from_numpy(clip_of(EMOTION).motion), info=SimpleNamespace(identity="ann", emotion=None)
    )
    clip.speech = torch.zeros(1, 640 * len(clip.motion))
    shown = []

    class Jury:
        def judge(
            self, identity: str, speech: torch.Tensor, motion: torch.Tensor, emotion: str | None
        ) -> dict[str, float]:
            shown.append(motion)
            return {"sync_confidence": 0.5, "sync_offset": 0.0}

    frozen = film(np.repeat(true.frames[:1], len(true.frames), axis=0))
    for made in (true, frozen):
        figures = whole_figures(synthetic_face_model(), clip, clip.motion, made, true, Judges(jury=Jury()))
        assert figures["faces_found"] == 1
        assert 0 < figures["model_residual"] < 8
        assert {"sync_confidence", "sync_offset"} <= figures.keys()
    seen, still = (synthetic_face_model().mouth_opening(torch.zeros(1, 12), motion) for motion in shown)
    driving = synthetic_face_model().mouth_opening(torch.zeros(1, 12), clip.motion)
    assert np.corrcoef(seen, driving)[0, 1] > 0.9
    assert still.std() < 0.1 * driving.std()


# -- what is not found -----------------------------------------------------------------------------------------------


def test_a_face_that_is_lost_for_long_is_none(true: Film):
    frames = true.frames[:8].copy()
    frames[5] = 90
    points, found = track(frames)
    assert found == 7 / 8 >= LEAST_FOUND
    assert points.shape == (8, NUM_TRACKED, 3)
    assert np.abs(points[5] - points[[4, 6]].mean(axis=0)).max() < 1e-3
    frames[:5] = 90
    assert track(frames) == (None, 2 / 8)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ClipReader:
    """Two short clips of no face."""
    folder = tmp_path_factory.mktemp("small") / "data"
    with ShardWriter(folder, size=SIZE, codec="mjpeg") as writer:
        for number in range(2):
            clip = make_clip(number, "test", LEAST_FRAMES)
            writer.write(replace(clip, info=replace(clip.info, emotion="happy", level=1), motion=clip.motion / 100))
        writer.close(face_model())
    return ClipReader(folder)


def a_face(frames: np.ndarray, lost: set[int]) -> Tracked:
    """A tracker that finds a face in every video but those whose number in the order of asking is `lost`."""
    number = a_face.asked = a_face.asked + 1
    points = np.random.default_rng(0).uniform(60, 200, (len(frames), 478, 3)).astype(np.float32)
    return Tracked(None, 0.5) if number in lost else Tracked(points, 1.0)


def test_clips_without_a_face_are_counted(small: ClipReader, monkeypatch: pytest.MonkeyPatch):
    """Two clips, tracked in five rows each; in the second one the portrait has no face."""
    a_face.asked = -1
    monkeypatch.setattr(films, "track", partial(a_face, lost={7}))
    makers = {"face": Maker(make_generator().eval())}
    found = evaluate_videos(makers, small, "test", Judges(), tracked_clips=2)
    assert a_face.asked == 9
    assert len(found.tracked) == 2
    assert found.faceless == {PORTRAIT: [found.tracked[1]]}
    assert found.table[PORTRAIT]["faces_found"] == 0.75
    assert "m_lmd" not in found.intervals[PORTRAIT], "one clip is left"
    assert found.intervals["face: true motion"].keys() >= {"m_lmd", "psnr", "temporal", "model_residual"}
    assert "pose_error" in found.table["face: true motion"]
    assert "pose_error" not in found.table["face: mean motion"]
    assert found.table[TRUE_FRAMES].keys() == {"faces_found", "blinks_per_minute", "model_residual"}


def test_without_a_tracker_the_rest_is_measured(
    small: ClipReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("emohead.trainers.evaluation.films.tracker_installed", lambda: False)
    monkeypatch.setattr("emohead.apps.evaluation_notes.tracker_installed", lambda: False)
    network, path = make_generator(), tmp_path / "face.safetensors"
    save_checkpoint(path, network.state_dict(), kind="face", config=asdict(network.config))
    found = run_evaluation(path, small.folder, split="test", out=None, emotion=None)
    assert found["not_measured"].endswith("SyncNet, tracked faces")
    told = " ".join(capsys.readouterr().out.split())
    assert "the tracker is not installed: pip install 'emohead[prepare]'" in told
    figures = found["videos"]["face: true motion"]
    assert {"psnr", "temporal", "flicker", "sharpness"} <= figures.keys()
    assert not {"m_lmd", "faces_found", "model_residual"} & figures.keys()
    assert len(found["tracked"]) == 2


def test_data_in_another_face_model_is_refused(small: ClipReader, tmp_path: Path):
    network, path, own = make_generator(), tmp_path / "face.safetensors", small.manifest.face_model["checksum"]
    origin = {"data": [{"folder": "clips", "face_model": "another"}]}
    save_checkpoint(path, network.state_dict(), kind="face", config=asdict(network.config), provenance=origin)
    with pytest.raises(UserError, match=r"face.safetensors: was trained in another face model than that of .*data;"):
        run_evaluation(path, small.folder, split="test", out=None, emotion=None)
    checkpoint = load_checkpoint(path)
    for others in ({}, {"data": [{"folder": "clips", "face_model": own}]}):
        check_face_model(own, "face", replace(checkpoint, provenance=others), "data")
    check_face_model(own, "emotion", replace(checkpoint, kind="emotion"), "data")


# -- how it is told --------------------------------------------------------------------------------------------------


def test_values_stand_beside_how_sure_they_are():
    assert cell(0.83349, (0.80, 0.86)) == "0.833 ±0.030"
    assert cell(24.3, (23.0, 25.0)) == "24.30 ±1.00"
    assert cell(1.5, None) == "1.500"
    assert cell(None, None) == "–"
    page = video_html(Compared({"speech": {"m_lmd": 1.5, "psnr": 24.3}}, {"speech": {"m_lmd": (1.0, 2.0)}}))
    assert "1.500 ±0.500" in page
    assert "<th class='n'>PSNR</th>" in page
    assert "F-LMD" not in page, "what was not measured has no column"
