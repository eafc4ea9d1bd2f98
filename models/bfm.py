"""The Basel Face Model 2009 as Deep3DFaceRecon uses it, read from `BFM_model_front.mat` (kind `bfm09`).

The basis is gated: register at faces.dmi.unibas.ch, and let Deep3DFaceRecon_pytorch (`util/load_mats.py`,
transferBFM09) make BFM_model_front.mat of it. It holds meanshape (1, 3V), idBase (3V, 80), exBase (3V, 64) and
keypoints (68, counted from 1), V = 35,709, in decimetres: x to image right, y up, z to the viewer.

The unit is fixed, not measured, so that coefficients mean the same with every copy of the basis: 0.9 dm, about the
distance of the outer eye corners. Every 16th vertex is kept beside the landmarks.
"""

from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError
from .face_model import OUTER_EYE_CORNERS, FaceModel

KIND = "bfm09"
NUM_IDENTITY, NUM_EXPRESSION = 80, 64
DECIMETRES_PER_UNIT = 0.9
UNIT_TOLERANCE = 0.25  # share by which the eye corners may miss the unit; more means another unit
VERTEX_STRIDE = 16
TO_OURS = np.array([1, -1, -1]) / DECIMETRES_PER_UNIT  # half a turn about x: y down, z away


def load_bfm09(path: Path | str) -> FaceModel:
    """BFM_model_front.mat -> the `bfm09` face model, 80 identity and 64 expression axes; raises UserError."""
    arrays = load_mat(path, "meanshape", "idBase", "exBase", "keypoints")
    try:
        mean = arrays["meanshape"].reshape(-1, 3)
        bases = [arrays[name].T.reshape(-1, len(mean), 3) for name in ("idBase", "exBase")]
    except ValueError as error:
        raise UserError(path, f"its arrays do not fit together ({error})", _MAKE) from None
    landmarks = arrays["keypoints"].ravel().astype(np.int64) - 1
    sizes = tuple(len(basis) for basis in bases)
    if sizes != (NUM_IDENTITY, NUM_EXPRESSION) or landmarks.shape != (68,):
        raise UserError(path, f"{sizes[0]} + {sizes[1]} axes and {landmarks.size} landmarks, not 80 + 64, 68", _MAKE)
    if np.min(landmarks) < 0 or np.max(landmarks) >= len(mean):
        raise UserError(path, f"keypoints reach beyond its {len(mean)} vertices", _MAKE)
    mean = (mean - mean.mean(axis=0)) * TO_OURS  # centred over all vertices, as Deep3DFaceRecon does
    left, right = (mean[landmarks[corner]] for corner in OUTER_EYE_CORNERS)
    if abs(np.linalg.norm(right - left) - 1) > UNIT_TOLERANCE:
        raise UserError(path, f"the eyes are {np.linalg.norm(right - left):.2g} units apart: not decimetres", _MAKE)
    kept, index = np.unique(np.concatenate([landmarks, np.arange(0, len(mean), VERTEX_STRIDE)]), return_inverse=True)
    identity, expression = (basis[:, kept] * TO_OURS for basis in bases)
    return FaceModel(mean[kept], identity, expression, index.ravel()[:68], kind=KIND)


def load_mat(path: Path | str, *names: str) -> dict[str, np.ndarray]:
    """Numeric arrays of a MATLAB file as float64; raises UserError if one is missing or no plain array."""
    if not Path(path).is_file():
        raise UserError(path, "no such file")
    try:
        from scipy.io import loadmat  # with it a face model of another kind need not wait for SciPy

        content: dict[str, Any] = loadmat(path, variable_names=names)
    except Exception as error:  # SciPy raises all sorts of errors on damaged files
        raise UserError(path, f"cannot be read as a MATLAB file ({error})") from None
    for name in names:
        array = content.get(name)
        if array is None:
            raise UserError(path, f"holds no {name}", "it is no output of Deep3DFaceRecon")
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise UserError(path, f"{name} is {getattr(array, 'dtype', type(array))}, not plain numbers")
    return {name: content[name].astype(np.float64) for name in names}


_MAKE = "make it anew with Deep3DFaceRecon_pytorch's util/load_mats.py"
