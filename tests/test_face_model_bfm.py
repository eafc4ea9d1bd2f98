"""Deep3DFaceRecon's coefficients and the BFM basis in our conventions."""

import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emohead.datamodules.media.write import write_video
from emohead.datamodules.prepare.bfm09 import check_files, coefficients_file, read_coefficients
from emohead.datamodules.prepare.fit import Piece
from emohead.datamodules.prepare.listing import Source, SourceList
from emohead.datamodules.prepare.pack import stored_motion
from emohead.datamodules.prepare.people import stored_people
from emohead.datamodules.prepare.run import prepare_sources
from emohead.datamodules.prepare.work import PrepareConfig
from emohead.models.bfm import DECIMETRES_PER_UNIT, load_bfm09
from emohead.models.errors import UserError
from emohead.models.face_model import FaceModel
from scipy.io import savemat

WIDTH, HEIGHT = 640, 480
CROP = (150.0, 60.0, 360.0)


def made_up_coefficients(frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    coeff = rng.normal(size=(frames, 257)).astype(np.float32)
    coeff[:, 224:227] = rng.uniform(-0.4, 0.4, (frames, 3))
    coeff[:, 254:257] = rng.uniform(-0.1, 0.1, (frames, 3)) * (1, 1, 5)
    transform = np.tile([WIDTH, HEIGHT, 0.61, 330.3, 251.7], (frames, 1)) + rng.uniform(0, 0.2, (frames, 5)) * (
        *(0, 0, 0.1),
        *(9, 9),
    )
    return coeff, transform.astype(np.float32)


def their_projection(points: np.ndarray, coeff: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Points (N, 3) in decimetres -> pixels (N, 2) of the picture with y down, step by step as Deep3DFaceRecon does.

    models/bfm.py for the camera (y up in its 224 pixels), util/preprocess.py for the cut.
    """
    a, b, c = coeff[224:227].astype(np.float64)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    placed = points @ (rz @ ry @ rx).T + coeff[254:257]
    placed[:, 2] = 10 - placed[:, 2]
    camera = np.array([[1015, 0, 112], [0, 1015, 112], [0, 0, 1]])
    seen = placed @ camera.T
    seen = seen[:, :2] / seen[:, 2:]
    seen[:, 1] = 224 - seen[:, 1]
    w0, h0, s, t0, t1 = transform
    w, h = int(w0 * s), int(h0 * s)
    left = int(w / 2 - 224 / 2 + float((t0 - w0 / 2) * s))
    up = int(h / 2 - 224 / 2 + float((h0 / 2 - t1) * s))
    return (seen + np.array([left, up])) * (w0 / w, h0 / h)


def our_projection(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The same points through our model: pixels of the picture."""
    face = torch.from_numpy(points * (1, -1, -1) / DECIMETRES_PER_UNIT).float()
    model = FaceModel(np.zeros((68, 3)), np.zeros((1, 68, 3)), np.zeros((1, 68, 3)), np.arange(68))
    left, top, side = CROP
    return (model.project(face, torch.from_numpy(pose)).numpy() + 1) / 2 * side + (left, top)


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    coeff, transform = made_up_coefficients(20)
    savemat(tmp_path / "clip.mat", {"coeff": coeff, "transform_params": transform})
    return tmp_path / "clip.mat"


@pytest.mark.parametrize(("size", "tolerance"), [(0.05, 0.0012), (0.5, 0.06)])
def test_projects_as_deep3dfacerecon_does(mat: Path, size: float, tolerance: float) -> None:
    """Small things exactly; a face half a decimetre deep to within its perspective. In units of the eye distance."""
    coeff, transform = made_up_coefficients(20)
    identity, motion = read_coefficients(mat, crop=CROP)
    np.testing.assert_allclose(identity, coeff[:, :80].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(motion[:, :64], coeff[:, 80:144])
    points = np.random.default_rng(1).uniform(-size, size, (50, 3))
    for frame in range(20):
        theirs = their_projection(points, coeff[frame], transform[frame])
        ours = our_projection(points, motion[frame, 64:])
        eyes = np.exp(motion[frame, -1]) * CROP[2] / 2  # pixels of a face unit
        assert np.abs(ours - theirs).max() < tolerance * eyes


def test_angles_have_our_signs(tmp_path: Path) -> None:
    coeff, transform = made_up_coefficients(1)
    coeff[0, 224:227] = 0.1, 0.2, 0.3
    savemat(tmp_path / "clip.mat", {"coeff": coeff, "transform_params": transform})
    assert read_coefficients(tmp_path / "clip.mat")[1][0, 64:67].tolist() == pytest.approx([0.1, -0.2, -0.3])


def test_without_a_crop_units_span_the_longer_side(mat: Path) -> None:
    _, whole = read_coefficients(mat)
    _, named = read_coefficients(mat, crop=(0, -80, 640))
    np.testing.assert_array_equal(whole, named)


def clip_of(
    folder: Path, frames: int, stem: str = "clip", size: tuple[int, int] = (WIDTH, HEIGHT)
) -> tuple[Piece, Source]:
    """A clip of so many frames of a video of that size, and the video."""
    left, top, side = map(int, CROP)
    piece = Piece(0, 0, "key", 0, frames, (left, top, side), "none", None, 0.0, 0)
    path = folder / f"{stem}.mp4"
    write_video(path, np.zeros((1, size[1], size[0], 3), np.uint8))
    return piece, Source(path, path.name, "somebody")


@pytest.mark.parametrize("count", [19, 20, 21])
def test_one_frame_more_or_less_is_let_pass(mat: Path, count: int) -> None:
    motion = stored_motion(mat.parent, *clip_of(mat.parent, count), tracked=count)
    _, whole = read_coefficients(mat, crop=CROP)
    np.testing.assert_array_equal(motion, np.concatenate([whole, whole[-1:]])[:count])


def test_clips_that_do_not_match_are_refused(mat: Path) -> None:
    folder = mat.parent
    for count in (18, 22):
        with pytest.raises(UserError, match=rf"20 frames, {count} at 25 fps"):
            stored_motion(folder, *clip_of(folder, count), tracked=count)
    with pytest.raises(UserError, match=r"640 x 480.*1280 x 720"):
        stored_motion(folder, *clip_of(folder, 20, size=(1280, 720)), tracked=20)
    with pytest.raises(UserError, match=r"other\.mat: no such file"):
        stored_motion(folder, *clip_of(folder, 20, stem="other"), tracked=20)


def test_videos_that_phones_have_turned_have_the_size_that_is_seen(mat: Path) -> None:
    piece, video = clip_of(mat.parent, 20, size=(HEIGHT, WIDTH))
    stored = video.path.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, WIDTH << 16, 0, 1 << 30)
    header = stored.index(b"tkhd")
    video.path.write_bytes(stored[:header] + stored[header:].replace(upright, quarter, 1))
    assert stored_motion(mat.parent, piece, video, tracked=20).shape == (20, 70)


def test_the_file_of_an_interval_is_that_of_the_whole_video(mat: Path) -> None:
    piece, video = clip_of(mat.parent, 8)
    interval = replace(video, name="RD/clip_3.mp4", start=0.4, stop=0.72)
    _, whole = read_coefficients(mat, crop=CROP)
    np.testing.assert_array_equal(stored_motion(mat.parent, piece, interval, tracked=8), whole[10:18])
    with pytest.raises(UserError, match="20 frames, 22 at 25 fps"):
        stored_motion(mat.parent, piece, interval, tracked=12)


def sources_of(*names: str) -> list[Source]:
    return [Source(Path(name), name, name) for name in names]


def test_takes_of_one_name_have_files_of_their_own(mat: Path) -> None:
    folder, (anna, bob, carl) = mat.parent, sources_of("anna/001.mp4", "bob/001.mp4", "carl/clip.mp4")
    (folder / "anna").mkdir()
    for name in ("001.mat", "anna/001.mat"):
        shutil.copy(mat, folder / name)
    found = [coefficients_file(folder, video).relative_to(folder).as_posix() for video in (anna, bob, carl)]
    assert found == ["anna/001.mat", "001.mat", "clip.mat"]
    check_files(folder, [anna, carl, carl])
    with pytest.raises(UserError, match=r"001\.mat: may be of 2 videos, bob/001\.mp4 among them; give each"):
        check_files(folder, [anna, bob, carl])
    (folder / "001.mat").unlink()
    check_files(folder, [anna, bob, carl])  # bob's clips are left out
    with pytest.raises(UserError, match=r"clip\.mat: may be of 2 videos"):
        check_files(folder, sources_of("clip.mp4", "clip.mov"))


def test_a_file_of_several_videos_is_refused_before_the_tracking(mat: Path) -> None:
    write_basis(mat.parent / "BFM_model_front.mat")
    load_bfm09(mat.parent / "BFM_model_front.mat").save(mat.parent / "bfm09.npz")
    config = PrepareConfig(face_model=str(mat.parent / "bfm09.npz"), coefficients=mat.parent)
    with pytest.raises(UserError, match=r"clip\.mat: may be of 2 videos"):
        prepare_sources(SourceList("x", sources_of("anna/clip.mp4", "bob/clip.mp4")), mat.parent / "out", config)
    assert not (mat.parent / "out").exists()


def test_everybody_has_the_identity_of_their_own_files(mat: Path) -> None:
    anna, bob = sources_of("anna/001.mp4", "bob/001.mp4")
    for seed, video in enumerate((anna, bob)):
        file = mat.parent / video.path.with_suffix(".mat")
        file.parent.mkdir()
        coeff, transform = made_up_coefficients(20, seed)
        savemat(file, {"coeff": coeff, "transform_params": transform})
    people = stored_people(mat.parent, [anna, bob])
    assert np.abs(people[anna.identity].identity - people[bob.identity].identity).max() > 0.1


@pytest.mark.parametrize(
    "content",
    [
        None,
        {"coeff": np.zeros((3, 257))},
        {"coeff": np.zeros((3, 256)), "transform_params": np.ones((3, 5))},
        {"coeff": np.zeros((3, 257)), "transform_params": np.ones((2, 5))},
        {"coeff": np.full((3, 257), np.nan), "transform_params": np.ones((3, 5))},
        {"coeff": np.full((3, 257), 11.0), "transform_params": np.ones((3, 5))},
        {"coeff": np.array([["a"], [1]], dtype=object), "transform_params": np.ones((2, 5))},
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: dict[str, Any] | None) -> None:
    path = tmp_path / "clip.mat"
    if content is None:
        path.write_bytes(b"not a file of MATLAB")
    else:
        savemat(path, content)
    with pytest.raises(UserError, match=r"clip\.mat") as error:
        read_coefficients(path)
    assert "\n" not in str(error.value)


def test_real_coefficients(real_data: Path) -> None:
    path = real_data / "coeffs" / "styletalk_av" / "KristiNoem.mat"
    identity, motion = read_coefficients(path)
    assert identity.shape == (80,)
    assert motion.shape == (540, 70)
    assert np.abs(motion[:, 64:67]).max() < 0.6  # somebody who looks into the camera
    assert np.abs(motion[:, 67:69]).max() < 0.5  # in the middle of the picture
    assert 0.25 < np.exp(motion[:, 69]).mean() / 2 < 0.45  # eye corners a third of the picture's width apart
    assert np.abs(np.diff(motion[:, 64:], axis=0)).max() < 0.2  # no jumps from frame to frame


def write_basis(path: Path, **changed: Any) -> np.ndarray:
    """A tiny BFM_model_front.mat of 200 vertices, the first 68 of which are the landmarks in reverse order."""
    rng = np.random.default_rng(0)
    mean = rng.uniform(-1, 1, (200, 3))
    mean[67 - 36], mean[67 - 45] = (-0.45, 0.3, 0.5), (0.45, 0.3, 0.5)
    content = {
        "meanshape": mean.reshape(1, -1),
        "idBase": rng.normal(size=(600, 80)),
        "exBase": rng.normal(size=(600, 64)),
        "keypoints": np.arange(68, 0, -1)[None],
        "tri": np.ones((5, 3)),
    }
    savemat(path, content | changed)
    return mean


def test_basis_is_read(tmp_path: Path) -> None:
    mean = write_basis(tmp_path / "BFM_model_front.mat")
    model = load_bfm09(tmp_path / "BFM_model_front.mat")
    assert (model.kind, model.num_identity, model.num_expression, model.motion_dim) == ("bfm09", 80, 64, 70)
    eyes = model.mean[model.landmark_index[[36, 45]]]
    assert (eyes[1] - eyes[0]).tolist() == pytest.approx([1, 0, 0], abs=1e-5)
    landmarks = (mean[67::-1] - mean.mean(axis=0)) / 0.9 * (1, -1, -1)
    np.testing.assert_allclose(model.mean[model.landmark_index], landmarks, atol=1e-6)
    base = np.random.default_rng(0)
    base.uniform(-1, 1, (200, 3))
    moved = base.normal(size=(600, 80))[:, 5].reshape(200, 3)[67::-1] / 0.9 * (1, -1, -1)
    np.testing.assert_allclose(model.identity_basis[5, model.landmark_index], moved, atol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"exBase": np.zeros((600, 79))},
        {"exBase": np.zeros((601, 64))},
        {"keypoints": np.arange(67)[None]},
        {"keypoints": np.arange(200, 268)[None]},
        {"meanshape": np.random.default_rng(0).uniform(-1e5, 1e5, (1, 600))},
    ],
)
def test_a_basis_of_another_kind_is_refused(tmp_path: Path, changed: dict[str, np.ndarray]) -> None:
    write_basis(tmp_path / "BFM_model_front.mat", **changed)
    with pytest.raises(UserError, match=r"BFM_model_front\.mat"):
        load_bfm09(tmp_path / "BFM_model_front.mat")
