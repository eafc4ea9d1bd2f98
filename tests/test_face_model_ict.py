"""ICT-FaceKit in our conventions, and that fitting it gives blendshapes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.models.errors import UserError
from emohead.models.face_model import FaceModel
from emohead.models.face_model_fit import MEDIAPIPE_IBUG_68, fit_face, similarity, tracking_residual
from emohead.models.ict import ICT_EXPRESSIONS, JAW_VERTICES, load_ict
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from .tracked_faces import made_up_model, tracks

MAX_RESIDUAL = 0.025  # of the distance of the outer eye corners
NUM_VERTICES = 70


@pytest.fixture(scope="module")
def ict(real_data: Path) -> FaceModel:
    return load_ict(real_data / "facemodel")


def write_obj(path: Path, vertices: np.ndarray) -> None:
    lines = ["# made", "o face", *(f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices), "vt 0 0", "f 1/1 2/1 3/1"]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A tiny folder in the layout of ICT-FaceKit's FaceXModel; the k-th expression moves vertex k by its number."""
    folder = tmp_path / "ICT-FaceKit" / "FaceXModel"
    folder.mkdir(parents=True)
    mean = np.random.default_rng(0).uniform(-8, 8, (NUM_VERTICES, 3))
    mean[36], mean[45] = (-4, 3, 8), (4, 3, 8)
    write_obj(folder / "generic_neutral_mesh.obj", mean)
    for i in range(3):
        write_obj(folder / f"identity{i:03d}.obj", mean + np.array([0, i + 1, 0]))
    for k, name in enumerate(ICT_EXPRESSIONS):
        write_obj(folder / f"{name}.obj", mean + np.eye(NUM_VERTICES)[:, k : k + 1] * (0.8, 0, k))
    (folder / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": list(range(68))}))
    return folder


def test_a_checkout_is_read(checkout: Path) -> None:
    model = load_ict(checkout.parent)  # the checkout, or its FaceXModel
    assert model.checksum() == load_ict(checkout).checksum()
    assert (model.kind, model.num_identity, model.num_expression) == ("ict", 3, 53)
    assert model.landmark_index.tolist() == list(range(68))
    assert (model.mean[45] - model.mean[36]).tolist() == pytest.approx([1, 0, 0], abs=1e-5)
    torch.testing.assert_close(model.identity_basis[1], torch.tensor([0, -2 / 8, 0]).expand(NUM_VERTICES, 3))
    for k in range(53):  # x stays, y and z turn about
        assert model.expression_basis[k, k].tolist() == pytest.approx([0.1, 0, -k / 8], abs=1e-5)
        assert model.expression_basis[k].abs().sum(dim=-1).count_nonzero() == 1


@pytest.mark.parametrize("name", ["jawOpen.obj", "vertex_indices.json", "identity000.obj", "generic_neutral_mesh.obj"])
def test_a_checkout_that_lacks_a_file_is_refused(checkout: Path, name: str) -> None:
    for path in checkout.glob("identity*.obj") if name.startswith("identity") else [checkout / name]:
        path.unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as error:
        load_ict(checkout)
    assert "\n" not in str(error.value)


def test_a_damaged_mesh_is_named(checkout: Path) -> None:
    (checkout / "jawOpen.obj").write_text("v 1 2 3\n")
    with pytest.raises(UserError, match=r"jawOpen\.obj"):
        load_ict(checkout)


def test_conventions(ict: FaceModel) -> None:
    points = ict.mean[ict.landmark_index]
    assert (len(ict.mean), ict.num_identity, ict.num_expression) == (9409, 80, 53)
    assert (points[45] - points[36]).tolist() == pytest.approx([1, 0, 0], abs=1e-4)
    assert points[8, 1] > points[57, 1] > points[33, 1] > points[27, 1]  # chin, lip, nose, bridge: y down
    assert points[30, 2] == points[:, 2].min()  # the tip of the nose is nearest
    assert points[16, 0] > 0 > points[0, 0]  # the jaw from image left to right
    np.testing.assert_allclose(ict.mean.mean(dim=0), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "landmark", "still", "direction"),
    [
        ("jawOpen", 57, 27, (0, 1, 0)),
        ("jawForward", 8, 27, (0, 0, -1)),
        ("jawLeft", 8, 27, (1, 0, 0)),  # the person's left is image right
        ("mouthRight", 57, 27, (-1, 0, 0)),
        ("eyeBlink_L", 43, 38, (0, 1, 0)),
        ("eyeBlink_R", 38, 43, (0, 1, 0)),
        ("browInnerUp_L", 22, 18, (0, -1, 0)),
        ("mouthSmile_L", 54, 48, (0, -1, 0)),
        ("mouthFrown_R", 48, 54, (0, 1, 0)),
    ],
)
def test_blendshapes_do_what_they_are_called(
    ict: FaceModel, name: str, landmark: int, still: int, direction: tuple[int, int, int]
) -> None:
    moved = ict.expression_basis[ICT_EXPRESSIONS.index(name)][ict.landmark_index]
    along = float(moved[landmark] @ torch.tensor(direction, dtype=torch.float32))
    assert along > 0.02
    assert along > 0.6 * moved[landmark].norm()
    assert moved[still].norm() < 0.25 * moved[landmark].norm()


def test_jaw_lies_where_the_tracker_puts_it(ict: FaceModel, real_data: Path) -> None:
    """The jaw's vertices come from MediaPipe's canonical mesh, laid over ICT's mean face."""
    canonical = np.load(real_data / "facemodel" / "mediapipe_canonical_face_468.npz")["vertices"] * (1.0, -1, -1)
    points = ict.mean[ict.landmark_index].numpy().astype(np.float64)
    own = np.load(real_data / "facemodel" / "ict_facekit_face_mean.npz")["landmarks68"]
    inner = MEDIAPIPE_IBUG_68[17:]
    target = ict.mean[own.astype(np.int64)].numpy().astype(np.float64)
    rotation, scale, shift = similarity(canonical[MEDIAPIPE_IBUG_68], target[None])
    laid = scale[0] * canonical @ rotation[0].T + shift[0]
    laid += RBFInterpolator(laid[inner], points[17:] - laid[inner], kernel="thin_plate_spline")(laid)
    nearest = cKDTree(ict.mean.numpy()).query(laid[MEDIAPIPE_IBUG_68[:17]])[1]
    assert nearest.tolist() == ict.landmark_index[:17].tolist() == list(JAW_VERTICES)


def test_fit_of_blendshapes_stays_within_bounds() -> None:
    """Also if the true values do not; the fit then ends at the nearest bound."""
    arrays = made_up_model().arrays()
    model = FaceModel(**arrays, kind="ict")
    rng = np.random.default_rng(3)
    expression = rng.uniform(0.1, 0.9, (40, model.num_expression))
    expression[:, 0], expression[:, 1] = -0.5, 1.5
    pose = rng.uniform(-0.2, 0.2, (40, 6))
    motion = np.concatenate([expression, pose], axis=1).astype(np.float32)
    identity = np.zeros(model.num_identity, np.float32)
    _, (fit,) = fit_face(model, [tracks(model, identity, motion)])
    found = fit[:, :-6]
    assert found.min() >= 0
    assert found.max() <= 1
    assert found[:, 0].max() == 0
    assert found[:, 1].min() == 1


def test_fit_recovers_blendshapes_from_landmarks(ict: FaceModel) -> None:
    """Mouth and lids come back; axes that hardly differ at 68 landmarks share the motion, so points are compared."""
    rng = np.random.default_rng(4)
    motion = np.zeros((60, ict.motion_dim), np.float32)
    for name in ("jawOpen", "eyeBlink_L", "eyeBlink_R", "mouthSmile_L", "mouthFunnel", "browInnerUp_L"):
        motion[:, ICT_EXPRESSIONS.index(name)] = rng.uniform(0, 0.8, 60)
    motion[:, -6:] = rng.uniform(-0.2, 0.2, (60, 6))
    identity = rng.normal(size=ict.num_identity).astype(np.float32) * 0.5
    points = np.zeros((60, 478, 3), np.float32)
    part = FaceModel(
        *(ict.arrays()[n][..., ict.landmark_index.numpy(), :] for n in ("mean", "identity_basis", "expression_basis")),
        landmark_index=np.arange(68),
    )
    points[:, MEDIAPIPE_IBUG_68] = tracks(part, identity, motion)
    found, (fit,) = fit_face(ict, [points])
    assert tracking_residual(ict, found, fit, points[:, MEDIAPIPE_IBUG_68, :2]) < 0.01
    for name in ("jawOpen", "eyeBlink_L", "eyeBlink_R"):
        k = ICT_EXPRESSIONS.index(name)
        assert np.corrcoef(fit[:, k], motion[:, k])[0, 1] > 0.9, name
    apart = (
        fit[:, -6:] - motion[:, -6:]
    )  # a constant part is a question of identity: size, and which way is straight on
    assert np.abs(apart - apart.mean(axis=0)).max() < 0.03
    assert np.abs(apart).max() < 0.1


LASTING = {
    "smile": ("mouthSmile_L", "mouthSmile_R"),
    "frown": ("mouthFrown_L", "mouthFrown_R"),
    "brows": ("browInnerUp_L", "browInnerUp_R"),
}


def talking(ict: FaceModel, seed: int, lasting: str | None, take: int = 0) -> np.ndarray:
    """Somebody (by the seed) who talks and blinks, with an expression of 0.6 all the time; each take is another."""
    identity = np.random.default_rng(seed).normal(size=ict.num_identity).astype(np.float32)
    rng, time = np.random.default_rng([seed, take]), np.arange(60)
    motion = np.zeros((60, ict.motion_dim), np.float32)
    motion[:, ICT_EXPRESSIONS.index("jawOpen")] = 0.25 * (1 + np.sin(time * 0.9)) * rng.uniform(0.3, 1, 60)
    for name in ("eyeBlink_L", "eyeBlink_R"):
        motion[20:24, ICT_EXPRESSIONS.index(name)] = 0.9
    for name in LASTING.get(lasting or "", ()):
        motion[:, ICT_EXPRESSIONS.index(name)] = 0.6
    motion[:, -6:-3] = rng.uniform(-0.2, 0.2, 3) + 0.1 * np.sin(time[:, None] * 0.1)
    points = np.zeros((60, 478, 3), np.float32)
    points[:, MEDIAPIPE_IBUG_68] = tracks(landmarks_of(ict), identity, motion)
    return points + rng.normal(0, 0.002, points.shape).astype(np.float32)


def landmarks_of(ict: FaceModel) -> FaceModel:
    names, rows = ("mean", "identity_basis", "expression_basis"), ict.landmark_index.numpy()
    return FaceModel(*(ict.arrays()[n][..., rows, :] for n in names), landmark_index=np.arange(68), kind="ict")


# By what a person's other clips show: nothing that lasts, by their labels too or not, the same, something else.
OTHERS: dict[str, Callable[[str], list[str | None]]] = {
    "one clip": lambda _: [],
    "others at rest": lambda _: [None, None],
    "others neutral by label": lambda _: [None, None],
    "others alike": lambda own: [own, own],
    "others unlike": lambda own: [name for name in LASTING if name != own],
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_lasting_expression_is_no_identity(ict: FaceModel, case: str) -> None:
    """0.16 of a smile of 0.6 came back before identity and expression were weighed against each other to the end."""
    model, found = landmarks_of(ict), {}
    for name in LASTING:
        own = []
        for seed in (10, 11):
            others = [talking(ict, seed, other, take + 1) for take, other in enumerate(OTHERS[case](name))]
            labels = [False, True, True] if case == "others neutral by label" else None
            _, (motion, *_) = fit_face(model, [talking(ict, seed, name), *others], labels)
            own.append(motion[:, [ICT_EXPRESSIONS.index(axis) for axis in LASTING[name]]].mean())
        found[name] = float(np.mean(own))
    assert found["smile"] >= 0.5, found
    assert min(found.values()) >= 0.4, found


@pytest.mark.parametrize("clip", ["grid/lbax4n.mpg", "hdtf/WDA_KatieHill_000.mp4"])
def test_real_clips(ict: FaceModel, real_data: Path, clip: str) -> None:
    pytest.importorskip("ai_edge_litert")
    from emohead.datamodules.media.crop import crop_box, to_crop_units
    from emohead.datamodules.prepare.listing import Source
    from emohead.datamodules.prepare.track import Track, track_source

    track = track_source(Source(real_data / "clips" / clip, clip, "anybody"))
    assert isinstance(track, Track)
    points = track.points
    points = to_crop_units(points, crop_box(points))
    identity, (motion,) = fit_face(ict, [points])
    assert tracking_residual(ict, identity, motion, points[:, MEDIAPIPE_IBUG_68, :2]) < MAX_RESIDUAL
    assert np.abs(identity).max() < 8  # standard deviations
    assert np.ptp(motion[:, ICT_EXPRESSIONS.index("jawOpen")]) > 0.1  # somebody speaks
    tracked = np.linalg.norm(points[:, 13] - points[:, 14], axis=-1) * np.exp(-motion[:, -1])
    opening = ict.mouth_opening(torch.from_numpy(identity), torch.from_numpy(motion)).numpy()
    assert np.corrcoef(tracked, opening)[0, 1] > 0.9
