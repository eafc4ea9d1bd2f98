"""The conventions of the face model, and that fitting finds what was put in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.models.errors import UserError
from emohead.models.face_model import FaceModel, rotation_matrix
from emohead.models.face_model_fit import (
    IRISES,
    MEDIAPIPE_IBUG_68,
    NUM_TRACKED,
    fit_face,
    fit_motion,
    fit_person,
    person_of,
    rest_pose,
    rotation_angles,
    similarity,
    tracking_residual,
)
from emohead.models.landmark_model import NUM_GAZE, build_landmark_model

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
    motions = [made_up_motion(frames, seed=3) for frames in (40, 25, 30)]
    motions[2][:, :NUM_EXPRESSION] *= 0.01  # a clip that its label calls neutral
    clips = [tracks(model, identity, motion) for motion in motions]
    found, fitted = fit_face(model, clips, [False, False, True])
    np.testing.assert_allclose(found, identity, atol=0.03)
    for motion, fit in zip(motions, fitted, strict=True):
        assert fit.dtype == np.float32
        np.testing.assert_allclose(fit, motion, atol=0.03)
        landmarks = tracks(model, identity, motion)[:, MEDIAPIPE_IBUG_68, :2]
        assert tracking_residual(model, found, fit, landmarks) < 0.002


def test_what_no_basis_holds_is_the_person_and_no_expression() -> None:
    """A face that differs from the model's in ways of its own, half of them its expressions' too."""
    model, motion = made_up_model(), made_up_motion(60, seed=3)
    motion[:, :NUM_EXPRESSION] *= np.random.default_rng(1).random(60)[:, None] ** 2  # mostly at rest, as faces are
    own = np.random.default_rng(2).normal(0, 0.02, (NUM_TRACKED, 3)) + 1.5 * model.expression_basis[0].numpy()
    strange = FaceModel(**(model.arrays() | {"mean": model.mean.numpy() + own}))
    clip = tracks(strange, np.zeros(NUM_IDENTITY, np.float32), motion)
    person = fit_person(model, [clip])
    found = fit_motion(model, person, clip)[:, :NUM_EXPRESSION]
    lasting, wanted = found.mean(axis=0), motion[:, :NUM_EXPRESSION].mean(axis=0)
    assert np.abs(lasting - wanted).max() < 0.2  # 1.5 before the rest pose was taken out
    assert np.square(found - wanted).sum() < 1.3 * np.square(motion[:, :NUM_EXPRESSION] - wanted).sum()


def test_neutral_clips_tell_a_lasting_expression_from_the_face() -> None:
    model, identity = made_up_model(), np.ones(NUM_IDENTITY, np.float32)
    calm, smiling = made_up_motion(40, seed=1), made_up_motion(40, seed=2)
    for motion, lasting in ((calm, 0), (smiling, 2)):
        motion[:, :NUM_EXPRESSION] *= 0.1
        motion[:, 3] += lasting
    clips = [tracks(model, identity, motion) for motion in (smiling, calm)]
    with_label, without = (fit_face(model, clips[:count], labels)[1][0] for count, labels in ((2, [0, 1]), (1, None)))
    assert with_label[:, 3].mean() == pytest.approx(2, abs=0.1)
    assert abs(without[:, 3].mean()) < 0.2  # one clip that smiles throughout: that is the face


def test_a_second_clip_is_measured_from_the_rest_of_a_known_one() -> None:
    """The person of a clip whose motion is known: another clip, tracked the same way, then has its true motion."""
    model, identity = made_up_model(), np.ones(NUM_IDENTITY, np.float32)
    known, other = made_up_motion(40, seed=1), made_up_motion(30, seed=2)
    first, second = (tracks(model, identity, motion) for motion in (known, other))
    found = fit_motion(model, person_of(model, first, known), second)
    np.testing.assert_allclose(found, other, atol=0.03)


def test_the_rest_pose_bears_blinks() -> None:
    faces = np.zeros((50, 10, 3)) + np.random.default_rng(0).normal(0, 0.01, (50, 10, 3))
    faces[:15, 3, 1] += 1.0
    assert np.abs(rest_pose(faces)).max() < 0.04
    assert np.abs(faces.mean(axis=0)).max() > 0.25


def test_fit_survives_tracking_noise() -> None:
    model, identity, motion = made_up_model(), np.ones(NUM_IDENTITY, np.float32), made_up_motion(50, seed=4)
    clean = tracks(model, identity, motion)
    noisy = clean + np.random.default_rng(5).normal(scale=0.005, size=clean.shape).astype(np.float32)
    fit = fit_motion(model, person_of(model, clean, motion), noisy)
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
    assert (model.num_identity, model.num_expression) == (64, 64)
    found, fitted = fit_face(model, clips[:1])
    assert tracking_residual(model, found, fitted[0], clips[0][:, MEDIAPIPE_IBUG_68, :2]) < 0.02


def test_built_model_holds_a_new_face_better_than_its_people_do() -> None:
    """Three people span two axes; smooth deformations of the mesh take up some of what else a face can be."""
    rng, mean = np.random.default_rng(0), made_up_model().mean.numpy()
    spread = np.exp(-np.square(mean[:, None] - mean[None]).sum(axis=-1) / 0.5) @ rng.normal(
        0, 0.02, (4, NUM_TRACKED, 3)
    )
    still = made_up_motion(20, seed=0)[:, -6:]
    clips = []
    for own in spread:
        face = FaceModel(mean + own, np.zeros((1, NUM_TRACKED, 3)), np.zeros((1, NUM_TRACKED, 3)), MEDIAPIPE_IBUG_68)
        clips.append(tracks(face, np.zeros(1, np.float32), np.concatenate([np.zeros((20, 1), np.float32), still], 1)))
    model = build_landmark_model(clips[:3], ["ann", "bob", "cid"])
    narrow = FaceModel(**(model.arrays() | {"identity_basis": model.arrays()["identity_basis"][:2]}))
    left = []
    for kind in (model, narrow):
        identity, (motion,) = fit_face(kind, clips[3:])
        left.append(tracking_residual(kind, identity, motion, clips[3][:, MEDIAPIPE_IBUG_68, :2]))
    assert left[0] < 0.5 * left[1]


def test_the_last_axes_are_the_gaze() -> None:
    truth, motion = made_up_model(), made_up_motion(80, seed=1)
    calm = motion * np.array([0.2] * NUM_EXPRESSION + [0] * 5 + [1], np.float32)
    clip = tracks(truth, np.zeros(NUM_IDENTITY, np.float32), calm)
    gaze = np.random.default_rng(0).uniform(-0.02, 0.02, (80, 2)).astype(np.float32)
    for iris in IRISES:
        clip[:, iris, :2] += gaze[:, None]
    model = build_landmark_model([clip], ["ann"])
    skin = np.delete(model.expression_basis.numpy(), np.r_[IRISES[0], IRISES[1]], axis=1)
    assert np.abs(skin[-NUM_GAZE:]).max() == 0
    _, (fit,) = fit_face(model, [clip])
    looked = fit[:, -6 - NUM_GAZE : -6] @ model.expression_basis[-NUM_GAZE:, IRISES[0].start, :2].numpy()
    for axis in range(2):
        assert np.corrcoef(looked[:, axis], gaze[:, axis])[0, 1] > 0.85


def test_expressions_are_measured_from_neutral_clips_where_there_are_any() -> None:
    truth, identity = made_up_model(), np.ones(NUM_IDENTITY, np.float32)
    calm, happy = made_up_motion(60, seed=1), made_up_motion(60, seed=2)
    calm[:, :NUM_EXPRESSION] *= 0.05
    happy[:, 0] += 3
    clips = [tracks(truth, identity, motion) for motion in (calm, happy)]
    labelled = build_landmark_model(clips, ["ann"] * 2, resting=(clips[:1], ["ann"]))
    unlabelled = build_landmark_model(clips, ["ann"] * 2)
    offset = [np.abs(model.mean.numpy() - labelled.mean.numpy()).max() for model in (labelled, unlabelled)]
    assert offset[1] > 0.01  # the mean face smiles a little where nothing says which clips are neutral


def test_building_takes_a_bounded_share_of_short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """One frame a clip would be too many: some clips give none."""
    truth, identity = made_up_model(), np.zeros(NUM_IDENTITY, np.float32)
    clips = [tracks(truth, identity, made_up_motion(3, seed=i)) for i in range(60)]
    fixed = [clip for i, clip in enumerate(clips) if i % 2 == 0]
    whole = build_landmark_model(fixed, ["ann"] * 30)
    monkeypatch.setattr("emohead.models.landmark_model.MAX_BUILD_FRAMES", 30)
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
