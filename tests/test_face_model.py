"""The conventions of the face model, and that fitting finds what was put in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.models.errors import UserError
from emohead.models.face_model import FaceModel, rotation_matrix
from emohead.models.face_model_fit import (
    MEDIAPIPE_IBUG_68,
    NUM_TRACKED,
    build_landmark_model,
    fit_face,
    rotation_angles,
    similarity,
    tracking_residual,
)

from .tracked_faces import NUM_EXPRESSION, NUM_IDENTITY, made_up_model, made_up_motion, tracks


@pytest.mark.parametrize(
    ("angles", "point", "moved"),
    [
        ((0.2, 0, 0), (0, 0, -1), (0, +1)),  # pitch > 0: the nose goes down
        ((0, 0.2, 0), (0, 0, -1), (-1, 0)),  # yaw > 0: the nose goes to image left
        ((0, 0, 0.2), (1, 0, 0), (0, +1)),  # roll > 0: image right goes down
    ],
)
def test_angles_turn_the_face_as_documented(
    angles: tuple[float, ...], point: tuple[float, ...], moved: tuple[int, int]
) -> None:
    turned = rotation_matrix(torch.tensor(angles)) @ torch.tensor(point, dtype=torch.float32)
    assert np.sign(np.round((turned - torch.tensor(point))[:2].numpy(), 3) * np.abs(moved)).tolist() == list(moved)


def test_rotation_order_and_its_inverse() -> None:
    angles = np.random.default_rng(0).uniform(-1.2, 1.2, (50, 3))
    matrix = rotation_matrix(torch.from_numpy(angles))
    zero = torch.zeros(50, dtype=torch.float64)
    pitch, yaw, roll = torch.from_numpy(angles).unbind(-1)
    rx, ry, rz = (
        rotation_matrix(torch.stack(a, -1)) for a in ((pitch, zero, zero), (zero, yaw, zero), (zero, zero, roll))
    )
    torch.testing.assert_close(matrix, rz @ ry @ rx)
    np.testing.assert_allclose(rotation_angles(matrix.numpy()), angles, atol=1e-12)


def test_projection_is_weak_perspective_in_crop_units() -> None:
    model = made_up_model()
    pose = torch.tensor([0, 0, 0, 0.1, -0.2, np.log(0.5)], dtype=torch.float32)
    points = model.project(model.mean, pose)
    torch.testing.assert_close(points, 0.5 * model.mean[:, :2] + torch.tensor([0.1, -0.2]))
    deeper = model.mean + torch.tensor([0.0, 0.0, 5.0])
    torch.testing.assert_close(model.project(deeper, pose), points)  # depth alone changes nothing


def test_similarity_recovers_a_transform_and_never_mirrors() -> None:
    rng = np.random.default_rng(1)
    source, rotation = rng.normal(size=(40, 3)), rotation_matrix(torch.tensor([0.3, -0.5, 1.0])).double().numpy()
    target = (1.7 * source @ rotation.T + (1, 2, 3))[None]
    found, scale, shift = similarity(source, target, rng.uniform(0.1, 1, 40))
    np.testing.assert_allclose(found[0], rotation, atol=1e-6)
    np.testing.assert_allclose((scale[0], *shift[0]), (1.7, 1, 2, 3), atol=1e-6)
    mirrored, _, _ = similarity(source, source[None] * (-1, 1, 1))
    assert np.linalg.det(mirrored[0]) == pytest.approx(1)


def test_fit_recovers_identity_and_motion() -> None:
    model = made_up_model()
    identity = np.random.default_rng(2).normal(size=NUM_IDENTITY).astype(np.float32)
    motions = [made_up_motion(frames, seed=3) for frames in (40, 25)]
    found, fitted = fit_face(model, [tracks(model, identity, motion) for motion in motions])
    np.testing.assert_allclose(found, identity, atol=0.03)
    for motion, fit in zip(motions, fitted, strict=True):
        assert fit.dtype == np.float32
        np.testing.assert_allclose(fit, motion, atol=0.03)
        landmarks = tracks(model, identity, motion)[:, MEDIAPIPE_IBUG_68, :2]
        assert tracking_residual(model, found, fit, landmarks) < 0.002


def test_fit_survives_tracking_noise() -> None:
    model, identity, motion = made_up_model(), np.ones(NUM_IDENTITY, np.float32), made_up_motion(50, seed=4)
    clean = tracks(model, identity, motion)
    noisy = clean + np.random.default_rng(5).normal(scale=0.005, size=clean.shape).astype(np.float32)
    _, (fit,) = fit_face(model, [noisy])
    assert np.abs(fit[:, -6:] - motion[:, -6:]).max() < 0.02
    assert np.abs(fit[:, :-6] - motion[:, :-6]).mean() < 0.03


def test_another_mesh_is_fitted_through_its_landmarks() -> None:
    full = made_up_model()
    part = FaceModel(
        *(full.arrays()[n][..., MEDIAPIPE_IBUG_68, :] for n in ("mean", "identity_basis", "expression_basis")),
        landmark_index=np.arange(68),
    )
    motion = made_up_motion(30, seed=6)
    identity = np.zeros(NUM_IDENTITY, np.float32)
    points = tracks(full, identity, motion)
    found, (fit,) = fit_face(part, [points])
    assert tracking_residual(part, found, fit, points[:, MEDIAPIPE_IBUG_68, :2]) < 0.01


def test_built_model_spans_its_data_and_keeps_the_conventions() -> None:
    truth = made_up_model()
    rng = np.random.default_rng(7)
    people = ["ann", "bob", "cid", "ann"]
    identities = {name: rng.normal(size=NUM_IDENTITY).astype(np.float32) for name in people}
    clips = [tracks(truth, identities[p], made_up_motion(60, seed=i)) for i, p in enumerate(people)]
    model = build_landmark_model(clips, people)
    assert model.checksum() == build_landmark_model(clips, people).checksum()

    mean = model.mean.numpy()
    np.testing.assert_allclose(mean.mean(axis=0), 0, atol=1e-5)
    assert np.linalg.norm(mean[33] - mean[263]) == pytest.approx(1, abs=0.02)
    assert mean[263, 0] > mean[33, 0]  # x to image right
    assert mean[152, 1] > mean[10, 1]  # y down
    ranks = [int((basis.abs().amax(dim=(1, 2)) > 0).sum()) for basis in (model.identity_basis, model.expression_basis)]
    assert ranks[0] <= 2  # three people: rank two, the other axes are zero
    assert (model.num_identity, model.num_expression) == (16, 32)

    found, fitted = fit_face(model, clips[:1])
    assert np.all(found[ranks[0] :] == 0)
    assert tracking_residual(model, found, fitted[0], clips[0][:, MEDIAPIPE_IBUG_68, :2]) < 0.02


def test_building_takes_a_bounded_share_of_short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """One frame a clip would be too many: some clips give none."""
    truth, identity = made_up_model(), np.zeros(NUM_IDENTITY, np.float32)
    clips = [tracks(truth, identity, made_up_motion(3, seed=i)) for i in range(60)]
    fixed = [clip for i, clip in enumerate(clips) if i % 2 == 0]
    whole = build_landmark_model(fixed, ["ann"] * 30)
    monkeypatch.setattr("emohead.models.face_model_fit.MAX_BUILD_FRAMES", 30)
    chosen = [clip[:1] for clip in fixed]  # every sixth frame, counted through
    assert build_landmark_model(clips, ["ann"] * 60).checksum() == build_landmark_model(chosen, ["ann"] * 30).checksum()
    assert build_landmark_model(clips, ["ann"] * 60).checksum() != whole.checksum()


def test_building_needs_a_clip() -> None:
    with pytest.raises(UserError, match="no tracked clip"):
        build_landmark_model([], [])


def test_mouth_opening_ignores_the_pose() -> None:
    model, motion = made_up_model(), made_up_motion(20, seed=8)
    motion[:, :NUM_EXPRESSION] = 0
    opening = model.mouth_opening(torch.zeros(NUM_IDENTITY), torch.from_numpy(motion))
    upper, lower = model.mean[MEDIAPIPE_IBUG_68[62]], model.mean[MEDIAPIPE_IBUG_68[66]]
    torch.testing.assert_close(opening, (upper - lower).norm().expand(20))


def test_save_and_load_keep_the_checksum(tmp_path: Path) -> None:
    model = made_up_model()
    model.save(tmp_path / "facemodel.npz")
    loaded = FaceModel.load(tmp_path / "facemodel.npz")
    assert (loaded.kind, loaded.checksum()) == ("made-up", model.checksum())
    assert made_up_model(seed=1).checksum() != model.checksum()
    assert [p.name for p in tmp_path.iterdir()] == ["facemodel.npz"]


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_face_model_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "facemodel.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"facemodel\.npz"):
        FaceModel.load(path)


def test_landmark_indices_are_68_different_vertices() -> None:
    assert len(set(MEDIAPIPE_IBUG_68.tolist())) == 68
    assert MEDIAPIPE_IBUG_68.max() < NUM_TRACKED
