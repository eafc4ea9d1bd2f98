"""ICT-FaceKit (MIT licence) as a face model: 53 blendshapes with ARKit's names, 80 identity axes.

R. Li et al., "Learning Formation of Physically-Based Face Attributes", CVPR 2020; github.com/USC-ICT/ICT-FaceKit.
Two layouts are read:
- a cut of the face region: `ict_facekit_face_mean.npz` (vertices, landmarks68), `_expressions.npz` and
  `_identities80.npz` (names, deltas);
- the folder FaceXModel of a checkout: `generic_neutral_mesh.obj`, `identity000.obj` …, `<expression>.obj`, and
  `vertex_indices.json` with the 68 landmarks. The face is the first 9,409 vertices of each mesh.

ICT's axes are x to the person's left (image right), y up, z to the viewer, in about centimetres. An expression
coefficient of 1 is the full blendshape; one of identity is a standard deviation. Left out are `cheekRaiser_L/R` and
`PupilDilate`, which ARKit does not have.
"""

import json
import zipfile
from pathlib import Path

import numpy as np

from .errors import UserError
from .face_model import OUTER_EYE_CORNERS, FaceModel

KIND = "ict"
_NAMES = """
eyeBlink_L eyeLookDown_L eyeLookIn_L eyeLookOut_L eyeLookUp_L eyeSquint_L eyeWide_L
eyeBlink_R eyeLookDown_R eyeLookIn_R eyeLookOut_R eyeLookUp_R eyeSquint_R eyeWide_R
jawForward jawRight jawLeft jawOpen mouthClose mouthFunnel mouthPucker mouthRight mouthLeft
mouthSmile_L mouthSmile_R mouthFrown_L mouthFrown_R mouthDimple_L mouthDimple_R mouthStretch_L mouthStretch_R
mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthPress_L mouthPress_R
mouthLowerDown_L mouthLowerDown_R mouthUpperUp_L mouthUpperUp_R browDown_L browDown_R browInnerUp_L browInnerUp_R
browOuterUp_L browOuterUp_R cheekPuff_L cheekPuff_R cheekSquint_L cheekSquint_R noseSneer_L noseSneer_R
"""
ICT_EXPRESSIONS = tuple(_NAMES.split())  # in the order of ARKit's, see datamodules/face_models/arkit.py
NUM_IDENTITY = 80
NUM_FACE_VERTICES = 9409  # of the 26,719 of a checkout's meshes; the others are head, teeth, eyes and so on
# ICT's landmarks on the jaw lie elsewhere than those of models/face_model_fit.py. These vertices are the nearest to
# MediaPipe's canonical mesh, warped by a thin-plate spline so that the other 51 landmarks coincide.
JAW_VERTICES = (1792, 1788, 375, 1901, 236, 781, 242, 1443, 966, 3657, 2483, 3022, 2477, 4101, 2616, 3991, 3995)
TO_OURS = np.array([1, -1, -1], np.float32)  # half a turn about x: y down, z away


def load_ict(folder: Path | str) -> FaceModel:
    """The `ict` face model from a folder in either layout; raises UserError if files are missing or unfit."""
    folder = Path(folder)
    layouts = {"ict_facekit_face_mean.npz": _read_cut, "generic_neutral_mesh.obj": _read_checkout}
    for base in (folder, folder / "FaceXModel"):
        for name, read in layouts.items():
            if (base / name).is_file():
                return _model(*read(base), base)
    raise UserError(folder, "no ICT-FaceKit model", f"give a folder with {' or '.join(layouts)}")


def _model(
    mean: np.ndarray,  # (V, 3)
    identity: np.ndarray,  # (I, V, 3)
    expression: np.ndarray,  # (K, V, 3)
    landmarks: np.ndarray,  # (68,)
    folder: Path,
) -> FaceModel:
    """Turn ICT's axes and unit into ours."""
    if landmarks.shape != (68,) or landmarks.min() < 0 or landmarks.max() >= len(mean):
        raise UserError(folder, f"its landmarks are not 68 of the {len(mean)} vertices", "get ICT-FaceKit anew")
    index = landmarks.astype(np.int64)
    if len(mean) == NUM_FACE_VERTICES:
        index[: len(JAW_VERTICES)] = JAW_VERTICES
    left, right = (mean[landmarks[corner]] for corner in OUTER_EYE_CORNERS)
    scale = TO_OURS / np.linalg.norm(right - left)
    return FaceModel((mean - mean.mean(axis=0)) * scale, identity * scale, expression * scale, index, kind=KIND)


def _read_cut(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    mean = _load_npz(folder / "ict_facekit_face_mean.npz", "vertices", "landmarks68")
    identity = _load_npz(folder / "ict_facekit_face_identities80.npz", "names", "deltas")
    expression = _load_npz(folder / "ict_facekit_face_expressions.npz", "names", "deltas")
    place = {str(name): i for i, name in enumerate(expression["names"])}
    missing = [name for name in ICT_EXPRESSIONS if name not in place]
    if missing:
        raise UserError(f"{folder / 'ict_facekit_face_expressions.npz'}", f"lacks {', '.join(missing)}")
    deltas = [np.asarray(part["deltas"], np.float32) for part in (identity, expression)]
    if any(part.shape[1:] != mean["vertices"].shape for part in deltas):
        raise UserError(folder, "mean, identities and expressions have different vertices", "copy them anew")
    return mean["vertices"], deltas[0], deltas[1][[place[name] for name in ICT_EXPRESSIONS]], mean["landmarks68"]


def _read_checkout(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    mean = _read_obj(folder / "generic_neutral_mesh.obj")
    identities = sorted(folder.glob("identity[0-9][0-9][0-9].obj"))[:NUM_IDENTITY]
    if not identities:
        raise UserError(folder, "no identity000.obj", "get ICT-FaceKit anew")
    identity = np.stack([_read_obj(path, len(mean)) - mean for path in identities])
    expression = np.stack([_read_obj(folder / f"{name}.obj", len(mean)) - mean for name in ICT_EXPRESSIONS])
    table = folder / "vertex_indices.json"
    try:
        landmarks = np.array(json.loads(table.read_text())["idx_to_landmark_verts"], np.int64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(table, f"no list idx_to_landmark_verts ({error})", "get ICT-FaceKit anew") from None
    return mean, identity, expression, landmarks


def _read_obj(path: Path, count: int | None = None) -> np.ndarray:
    """The face's vertices (V, 3) of a Wavefront file; `count` of them if that is known."""
    try:
        with open(path) as file:
            lines = [line.split()[1:4] for line in file if line.startswith("v ")][:NUM_FACE_VERTICES]
        vertices = np.array(lines, np.float32)
    except (OSError, ValueError) as error:
        raise UserError(path, f"cannot be read as a mesh ({error})", "get ICT-FaceKit anew") from None
    if vertices.ndim != 2 or vertices.shape != (count or len(vertices), 3):
        raise UserError(path, f"vertices {vertices.shape}, not ({count or 'any'}, 3)", "get ICT-FaceKit anew")
    return vertices


def _load_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(path, f"cannot be read ({error})", f"needed are {', '.join(names)}") from None
