"""Several data sets into one face model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emohead.apps.facemodel import convert, fit
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.datamodules.face_models.pool import pool_face_models
from emohead.models.errors import UserError
from emohead.models.face_model import FaceModel
from emohead.models.face_model_fit import MEDIAPIPE_IBUG_68, fit_face, tracking_residual
from emohead.models.landmark_model import build_landmark_model

from .shard_clips import make_clip, write_clips
from .tracked_faces import NUM_IDENTITY, made_up_model, made_up_motion, tracks

FRAMES = 60


def people_of(seed: int, names: list[str]) -> dict[str, list[np.ndarray]]:
    """Two tracks of each person."""
    truth, rng = made_up_model(), np.random.default_rng(seed)
    identities = {name: rng.normal(size=NUM_IDENTITY).astype(np.float32) for name in names}
    motions = {name: [made_up_motion(FRAMES, seed=seed + 10 * i + k) for k in range(2)] for i, name in enumerate(names)}
    return {name: [tracks(truth, identities[name], motion) for motion in motions[name]] for name in names}


Sets = dict[Path, dict[str, list[np.ndarray]]]


def pack(out: Path, people: dict[str, list[np.ndarray]]) -> FaceModel:
    """A prepared data set in a face model of its own."""
    clips = [clip for own in people.values() for clip in own]
    model = build_landmark_model(clips, [name for name, own in people.items() for _ in own])
    number = 0
    with ShardWriter(out, size=32, clips_per_shard=3) as writer:
        for name, own in people.items():
            identity, motions = fit_face(model, own)
            for motion in motions:
                clip = make_clip(number, num_frames=FRAMES)
                clip.info.identity, clip.info.dataset = name, out.name
                clip.identity, clip.motion = identity, motion
                writer.write(clip)
                number += 1
        writer.close(model)
    return model


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    folder = tmp_path_factory.mktemp("sets")
    found = {folder / "one": people_of(1, ["ann", "bob"]), folder / "two": people_of(2, ["ann", "cid", "dan"])}
    checksums = {pack(out, people).checksum() for out, people in found.items()}
    assert len(checksums) == 2
    return found


def residuals(model: FaceModel, sets: Sets) -> list[float]:
    found = []
    for people in sets.values():
        for own in people.values():
            identity, motions = fit_face(model, own)
            found += [
                tracking_residual(model, identity, motion, clip[:, MEDIAPIPE_IBUG_68, :2])
                for motion, clip in zip(motions, own, strict=True)
            ]
    return found


def test_pooled_model_suits_every_data_set(sets: Sets) -> None:
    pooled = pool_face_models(list(sets))
    alone = FaceModel.load(next(iter(sets)) / "facemodel.npz")
    assert pooled.kind == "landmark"
    assert max(residuals(pooled, sets)) < 0.01
    assert max(residuals(alone, sets)) > 2 * max(residuals(pooled, sets))  # two people do not span five


def test_memory_is_bounded_by_frames(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    names: set[str] = set()

    def build(clips: list[np.ndarray], people: list[str], **resting: Any) -> FaceModel:
        seen.extend(map(len, clips))
        names.update(people)
        return build_landmark_model(clips, people, **resting)

    monkeypatch.setattr("emohead.datamodules.face_models.pool.build_landmark_model", build)
    pooled = pool_face_models(list(sets), max_frames=150)
    assert 140 <= sum(seen) <= 150
    assert len(seen) == 10  # every clip has its share
    assert len(names) == 5  # ann of one is not ann of two
    assert max(residuals(pooled, sets)) < 0.02


def test_fit_writes_a_file_that_is_the_same_again(
    sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.npz", "b.npz"):
        fit(list(sets), tmp_path / name)
    assert FaceModel.load(tmp_path / "a.npz").checksum() == FaceModel.load(tmp_path / "b.npz").checksum()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    assert "landmark, 478 vertices, 64 identity and 64 expression axes" in capsys.readouterr().out


def test_other_models_are_refused(tmp_path: Path) -> None:
    write_clips(tmp_path / "data", counts={"train": 1})
    with pytest.raises(UserError, match=r"data: .*68 vertices.*--face-model"):
        pool_face_models([tmp_path / "data"])
    with pytest.raises(UserError, match="no data set given"):
        pool_face_models([])


def test_out_is_checked_before_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"end in \.npz"):
        fit([tmp_path / "one"], tmp_path / "two")
    with pytest.raises(UserError, match="no folder"):
        fit([tmp_path / "one"], tmp_path / "missing" / "out.npz")


def test_convert_writes_what_prepare_takes(real_data: Path, tmp_path: Path) -> None:
    convert(real_data / "facemodel", tmp_path / "ict.npz")
    assert FaceModel.load(tmp_path / "ict.npz").kind == "ict"
    with pytest.raises(UserError, match="no ICT-FaceKit model"):
        convert(tmp_path, tmp_path / "other.npz")
