"""Fit a linear face model to tracked 3D landmarks: first the person, then the motion of each clip.

Tracks are points (T, N, 3) in crop units (x right, y down, z away from the viewer, all on one scale): MediaPipe's 478
vertices. A model with the same 478 vertices is fitted to all of them, any other model to the 68 iBUG landmarks.

Expression is what differs from a person's own face at rest, not from the model's: no basis holds a new face exactly,
and what it leaves out would come back as an expression that never ends. So identity is fitted once a person, to all
clips, and the rest pose that was found is what each frame is compared with.
Shapes: T frames, N points, I identity and K expression coefficients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .face_model import OUTER_EYE_CORNERS, FaceModel

# MediaPipe vertices that stand for the 68 iBUG landmarks. Both count from image left to image right. The jaw points
# are those of MediaPipe's face oval that divide the way from ear (eye level) to chin as evenly as the mesh allows.
MEDIAPIPE_IBUG_68 = np.array(
    [
        *(127, 234, 132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 454, 356),  # jaw
        *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows
        *(168, 197, 5, 4, 98, 97, 2, 326, 327),  # nose
        *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
        *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer lips
        *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lips
    ]
)
NUM_MESH = 468  # MediaPipe vertices of the skin; behind them come the irises
IRISES = (slice(468, 473), slice(473, 478))  # on the left and on the right in the picture: the middle, 4 of the rim
NUM_TRACKED = 478
PIECE = 128  # frames solved at a time
ROUNDS = 3  # of pose and expression in turn
PRIOR = 1e-5  # variance of tracking noise in face units squared, beside coefficients of unit variance
MISMATCH = 5e-5  # the same where two meshes, or a face and the axes of identity, never lie at exactly one place
REST_ROUNDS = 4  # of aligning the frames to the rest pose and finding it anew
MEDIAN_ROUNDS = 8  # of Weiszfeld's algorithm

BLENDSHAPE_KINDS = ("ict",)  # models whose expression coefficients run from 0 (neutral) to 1 (the full shape)
BLENDSHAPE_ROUNDS, BLENDSHAPE_TURNS = 5, 12  # of the pose; in each of identity and expression
BLENDSHAPE_VARIANCE = 0.5  # of a coefficient in [0, 1]
BLENDSHAPE_REST = 1e-4  # squared face units that an axis must be worth: most of a face is at rest
BLENDSHAPE_IDENTITY = 0.8  # variance: so small that a lasting expression is not taken for identity
NEUTRAL_IDENTITY, NEUTRAL_REST = 2.0, 6e-4  # where clips are neutral by their label: what lasts is identity


# -- people ----------------------------------------------------------------------------------------------------------


@dataclass
class Person:
    """A face at rest, from which expressions are measured."""

    identity: np.ndarray  # (I,)
    neutral: np.ndarray  # (N, 3) at the points that tracks correspond to, in face units at pose zero


def fit_person(model: FaceModel, clips: Sequence[np.ndarray], *, neutral: bool = False) -> Person:
    """The person in clips (T, 478, 3), all of one; `neutral`: they show no emotion, by their labels.

    Otherwise the rest pose of a linear model, the median of all frames, takes an emotion that lasts through most of
    them for the face. Blendshapes (`ict`) bound what a face and an expression can be, and tell the two apart by that,
    as far as it goes.
    """
    frames = _corresponding(model, np.concatenate(clips)).astype(np.float64)
    if model.kind in BLENDSHAPE_KINDS:
        return _blendshape_person(model, frames, labelled=neutral)
    mean, _, _ = _bases(model)
    shape = mean
    for _ in range(REST_ROUNDS):
        shape = rest_pose(unposed(frames, *similarity(shape, frames)))
        shape = unposed(shape[None], *similarity(mean, shape[None]))[0]
    return _at_rest(model, shape)


def person_of(model: FaceModel, clip: np.ndarray, motion: np.ndarray) -> Person:
    """The person in a clip (T, 478, 3) whose motion (T, D) is known: what remains of its frames without expression.

    Another clip of that person, fitted with it, is measured from the same rest pose as that motion.
    """
    mean, _, expression_basis = _bases(model)
    points = _corresponding(model, clip).astype(np.float64)
    moved = (motion[:, : model.num_expression] @ expression_basis).reshape(points.shape)
    shape = mean
    for _ in range(REST_ROUNDS):
        shape = rest_pose(unposed(points, *similarity(shape + moved, points)) - moved)
    return _at_rest(model, shape)


def _at_rest(model: FaceModel, shape: np.ndarray) -> Person:
    """The person with that face at rest (N, 3): as far as the axes of identity hold it."""
    mean, basis, _ = _bases(model)
    identity = np.linalg.solve(basis @ basis.T + MISMATCH * np.eye(len(basis)), basis @ (shape - mean).ravel())
    return Person(identity.astype(np.float32), shape.astype(np.float32))


def rest_pose(faces: np.ndarray) -> np.ndarray:
    """Aligned faces (T, N, 3) -> their geometric median (N, 3), which blinks and open mouths hardly move.

    Weiszfeld's algorithm, from the median of each coordinate.
    """
    found = np.median(faces, axis=0)
    for _ in range(MEDIAN_ROUNDS):
        weight = 1 / (np.linalg.norm((faces - found).reshape(len(faces), -1), axis=1) + 1e-6)  # (T,)
        found = np.tensordot(weight / weight.sum(), faces, axes=1)
    return found


def _blendshape_person(model: FaceModel, frames: np.ndarray, *, labelled: bool) -> Person:
    """Identity in closed form and expression within its bounds, in turn. Frames (T, 68, 3).

    Minimises sum_t |offset_t - B_id i - B_ex c_t|^2 + T MISMATCH |i|^2 / variance and the terms of `_Bounded`. Of
    neutral clips, what neither explains is part of the face too: the two meshes differ there.
    """
    mean, *bases = _bases(model)
    identity_basis, expression_basis = bases
    seen = [_beyond_pose(basis, mean) for basis in bases]
    variance, rest = (NEUTRAL_IDENTITY, NEUTRAL_REST) if labelled else (BLENDSHAPE_IDENTITY, BLENDSHAPE_REST)
    gram = seen[0] @ seen[0].T + MISMATCH / variance * np.eye(len(identity_basis))
    identity, expression = np.zeros(len(identity_basis)), np.zeros((len(frames), len(expression_basis)))
    solve, left = _Bounded(seen[1], rest), np.zeros(mean.size)
    for _ in range(BLENDSHAPE_ROUNDS):
        shape = _shape(mean, identity @ identity_basis + expression @ expression_basis)
        offset = (unposed(frames, *similarity(shape, frames)) - mean).reshape(len(frames), -1)  # (T, 3N)
        for _ in range(BLENDSHAPE_TURNS):
            mean_offset = offset.mean(axis=0) - expression.mean(axis=0) @ seen[1]
            identity = np.linalg.solve(gram, seen[0] @ mean_offset)
            expression = solve(offset - identity @ seen[0], expression)
        left = _beyond_pose((mean_offset - identity @ seen[0])[None], mean)[0]
    neutral = mean + (identity @ identity_basis + labelled * left).reshape(mean.shape)
    return Person(identity.astype(np.float32), neutral.astype(np.float32))


# -- motion ----------------------------------------------------------------------------------------------------------


def fit_motion(model: FaceModel, person: Person, clip: np.ndarray) -> np.ndarray:
    """The motion (T, D) of a clip (T, 478, 3) of that person, in single precision, piece by piece."""
    points = _corresponding(model, clip)
    pieces = [points[start : start + PIECE] for start in range(0, len(points), PIECE)]
    return np.concatenate([_fit_piece(model, person, piece) for piece in pieces])


def fit_face(
    model: FaceModel, clips: Sequence[np.ndarray], neutral: Sequence[bool] | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Clips of one person, each (T, 478, 3) -> identity (I,) and the motion (T, D) of each. See `fit_person`.

    neutral: which of them show no emotion; the face at rest is found in these alone, if there are any.
    """
    calm = [clip for clip, own in zip(clips, neutral or (), strict=False) if own]
    person = fit_person(model, calm or clips, neutral=bool(calm))
    return person.identity, [fit_motion(model, person, clip) for clip in clips]


def _fit_piece(model: FaceModel, person: Person, points: np.ndarray) -> np.ndarray:
    """Pose (closed form) and expression of each frame in turn."""
    basis = _bases(model)[2].astype(np.float32)
    solve = _solver(model, _beyond_pose(basis, person.neutral))
    expression = np.zeros((len(points), len(basis)), np.float32)
    for _ in range(ROUNDS):
        shape = _shape(person.neutral, expression @ basis)
        offset = (unposed(points, *similarity(shape, points)) - person.neutral).reshape(len(points), -1)  # (T, 3N)
        expression = solve(offset, expression)
    rotation, scale, shift = similarity(_shape(person.neutral, expression @ basis), points)
    parts = [expression, rotation_angles(rotation), shift[:, :2], np.log(scale)[:, None]]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _solver(model: FaceModel, basis: np.ndarray) -> "_Linear | _Bounded":
    if model.kind in BLENDSHAPE_KINDS:
        return _Bounded(basis, BLENDSHAPE_REST)
    return _Linear(basis, PRIOR if len(model.mean) == NUM_TRACKED else MISMATCH)


def _beyond_pose(basis: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """A basis (K, 3N) less what shifting, turning and scaling the shape (N, 3) a little does as well.

    Offsets from an aligned shape hold nothing of that. With it, pose and expression found in turn would each keep what
    the other has taken first: a smile, for one, looks like a larger face that nods.
    """
    centred = shape - shape.mean(axis=0)
    moves = [np.broadcast_to(axis, shape.shape) for axis in np.eye(3)] + [np.cross(axis, centred) for axis in np.eye(3)]
    tangents = np.linalg.qr(np.stack([move.ravel() for move in [*moves, centred]]).T)[0]  # (3N, 7)
    return (basis - basis @ tangents @ tangents.T).astype(basis.dtype)


class _Linear:
    """Expression in closed form: the least |offset - B c|^2 + prior |c|^2 of each frame."""

    def __init__(self, basis: np.ndarray, prior: float) -> None:
        inverse = np.linalg.solve(basis @ basis.T + prior * np.eye(len(basis)), basis)  # (K, 3N)
        self.inverse = inverse.astype(np.float32)

    def __call__(self, offset: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Offsets (T, 3N) -> expression (T, K)."""
        return offset @ self.inverse.T


class _Bounded:
    """Expression within [0, 1] by coordinate descent from the last one, all frames at once.

    Minimises |offset - B c|^2 + MISMATCH |c|^2 / BLENDSHAPE_VARIANCE + 2 rest |c|_1 of each frame. Each step is the
    exact minimum along one axis, cut to the bounds: it never raises the sum.
    """

    def __init__(self, basis: np.ndarray, rest: float) -> None:
        self.basis, self.rest = basis, rest
        self.gram = basis @ basis.T + MISMATCH / BLENDSHAPE_VARIANCE * np.eye(len(basis))  # (K, K)

    def __call__(self, offset: np.ndarray, before: np.ndarray, sweeps: int = 3) -> np.ndarray:
        """Offsets (T, 3N), the last expression (T, K) -> expression (T, K)."""
        wanted = np.ascontiguousarray((offset @ self.basis.T).T) - self.rest  # (K, T)
        found = np.ascontiguousarray(before.T)
        for _ in range(sweeps):
            for axis, row in enumerate(self.gram):
                step = (wanted[axis] - row @ found) / row[axis]
                found[axis] = np.clip(found[axis] + step, 0, 1)
        return np.ascontiguousarray(found.T)


# -- geometry --------------------------------------------------------------------------------------------------------


def tracking_residual(model: FaceModel, identity: np.ndarray, motion: np.ndarray, tracked: np.ndarray) -> float:
    """Mean distance of tracked (T, 68, 2) and modelled landmarks over the distance of the outer eye corners.

    Identity (I,), motion (T, D); both sets of landmarks are in crop units.
    """
    with torch.no_grad():
        fitted = model.landmarks(torch.from_numpy(identity), torch.from_numpy(motion)).numpy()
    left, right = OUTER_EYE_CORNERS
    eyes = np.linalg.norm(tracked[:, left] - tracked[:, right], axis=-1)  # (T,)
    return float((np.linalg.norm(fitted - tracked, axis=-1).mean(axis=1) / eyes).mean())


def similarity(
    source: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation (T, 3, 3), scale (T,) and shift (T, 3) with scale * R @ source + shift nearest to target (T, N, 3).

    Source is (N, 3) or (T, N, 3), weights (N,). Closed form: Umeyama, "Least-squares estimation of transformation
    parameters between two point patterns", PAMI 1991. Never a reflection.
    """
    weights = np.full(target.shape[-2], 1.0) if weights is None else weights
    weights = (weights[:, None] / weights.sum()).astype(target.dtype)  # (N, 1)
    source_mean, target_mean = (weights * source).sum(-2, keepdims=True), (weights * target).sum(-2, keepdims=True)
    weighted = weights * (source - source_mean)
    covariance = (np.swapaxes(target, -1, -2) @ weighted).astype(np.float64)  # (T, 3, 3); weighted sums to nothing
    left, singular, right = np.linalg.svd(covariance)
    sign = np.ones_like(singular)
    sign[..., 2] = np.sign(np.linalg.det(left) * np.linalg.det(right))
    rotation = (left * sign[..., None, :]) @ right
    scale = (singular * sign).sum(-1) / (weighted * (source - source_mean)).sum((-1, -2))
    shift = target_mean[..., 0, :] - scale[..., None] * (rotation @ source_mean[..., 0, :, None])[..., 0]
    return rotation, scale, shift


def rotation_angles(rotation: np.ndarray) -> np.ndarray:
    """Pitch, yaw, roll (..., 3) in radians of R = Rz(roll) Ry(yaw) Rx(pitch), the inverse of `rotation_matrix`."""
    pitch = np.arctan2(rotation[..., 2, 1], rotation[..., 2, 2])
    yaw = -np.arcsin(np.clip(rotation[..., 2, 0], -1, 1))
    roll = np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])
    return np.stack([pitch, yaw, roll], axis=-1)


def _corresponding(model: FaceModel, points: np.ndarray) -> np.ndarray:
    return points if len(model.mean) == points.shape[1] else points[:, MEDIAPIPE_IBUG_68]


def _bases(model: FaceModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (N, 3), identity (I, 3N) and expression basis (K, 3N) at the points that tracks correspond to."""
    rows = slice(None) if len(model.mean) == NUM_TRACKED else model.landmark_index.numpy()
    names = ("mean", "identity_basis", "expression_basis")
    mean, identity, expression = (model.arrays()[name][..., rows, :].astype(np.float64) for name in names)
    return mean, identity.reshape(len(identity), -1), expression.reshape(len(expression), -1)


def _shape(mean: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Mean (N, 3) + offsets (t, 3N) -> (t, N, 3)."""
    return mean + offset.reshape(len(offset), *mean.shape)


def unposed(points: np.ndarray, rotation: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Points (T, N, 3) back in the frame of the model."""
    inverse = (rotation / scale[:, None, None]).astype(points.dtype)
    return (points - shift[:, None].astype(points.dtype)) @ inverse
