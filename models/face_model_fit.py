"""Fit a linear face model to tracked 3D landmarks, and build the `landmark` model from a data set's tracks.

Tracks are points (T, N, 3) in crop units (x right, y down, z away from the viewer, all on one scale): MediaPipe's 468
vertices. A model with the same 468 vertices is fitted to all of them, any other model to the 68 iBUG landmarks.
All frames are solved at once. Shapes: T frames, N points, I identity and K expression coefficients.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from .errors import UserError
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
NUM_TRACKED = 468
FOREHEAD, CHIN = 10, 152  # MediaPipe vertices on the midline; the line between them is upright in a face of pose zero
NUM_IDENTITY, NUM_EXPRESSION = 16, 32
PIECE = 128  # frames solved at a time
PRIOR = 1e-5  # variance of tracking noise in face units squared, beside coefficients of unit variance
MISMATCH = 5e-5  # the same if landmarks of two meshes stand for each other: they never lie at exactly one place
BLENDSHAPE_KINDS = ("ict",)  # models whose expression coefficients run from 0 (neutral) to 1 (the full shape)
BLENDSHAPE_VARIANCE = 0.1  # about that of a coefficient in [0, 1]
BLENDSHAPE_IDENTITY_VARIANCE = 2.0  # so that mismatch goes into identity rather than into a lasting expression
BLENDSHAPE_REST = 6e-4  # squared face units that an axis must be worth: most of a face is at rest
MAX_BUILD_FRAMES = 20_000  # frames that the bases are estimated from, evenly spread


# -- fitting ---------------------------------------------------------------------------------------------------------


def fit_face(model: FaceModel, clips: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Clips of one person, each (T, 468, 3) in crop units -> identity (I,) and the motion (T, D) of each clip.

    Alternates the pose of every frame (closed form) with the identity, shared by all frames, and the expression of
    every frame. Works on pieces that fit a processor's cache, in single precision; beside the tracks it needs memory
    for motion only. Blendshape models (`ict`) keep their expression within [0, 1].
    """
    tracks = [_corresponding(model, clip) for clip in clips]
    pieces = [track[start : start + PIECE] for track in tracks for start in range(0, len(track), PIECE)]
    ends = np.cumsum([len(piece) for piece in pieces])
    spans = [slice(int(end) - len(piece), int(end)) for piece, end in zip(pieces, ends, strict=True)]
    mean, identity_basis, expression_basis = (array.astype(np.float32) for array in _bases(model))
    solver = (_BoundedSolver if model.kind in BLENDSHAPE_KINDS else _LinearSolver)(model, int(ends[-1]))
    identity = np.zeros(len(identity_basis), np.float32)
    expression = np.zeros((int(ends[-1]), len(expression_basis)), np.float32)
    poses: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in range(solver.rounds):
        total, products = np.zeros(mean.size), np.empty_like(expression)
        for piece, span in zip(pieces, spans, strict=True):
            shape = _shape(mean, identity @ identity_basis + expression[span] @ expression_basis)
            offset = (_undo(piece, *similarity(shape, piece)) - mean).reshape(len(piece), -1)  # (t, 3N)
            total += offset.sum(axis=0, dtype=np.float64)
            products[span] = offset @ expression_basis.T
        identity, expression = solver(total / len(expression), products, expression)
    for piece, span in zip(pieces, spans, strict=True):
        poses.append(similarity(_shape(mean, identity @ identity_basis + expression[span] @ expression_basis), piece))
    rotation, scale, shift = (np.concatenate(parts) for parts in zip(*poses, strict=True))
    parts = [expression, rotation_angles(rotation), shift[:, :2], np.log(scale)[:, None]]
    motion = np.concatenate(parts, axis=1).astype(np.float32)
    return identity, np.split(motion, np.cumsum([len(clip) for clip in clips])[:-1])


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


def _undo(points: np.ndarray, rotation: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Points (T, N, 3) back in the frame of the model."""
    inverse = (rotation / scale[:, None, None]).astype(points.dtype)
    return (points - shift[:, None].astype(points.dtype)) @ inverse


class _LinearSolver:
    """Identity and expression in closed form.

    Minimises sum_t |offset_t - B_id i - B_ex c_t|^2 + prior (|i|^2 + sum_t |c_t|^2). Eliminating c_t leaves the mean
    offset seen through P = 1 - B_ex (B_ex' B_ex + prior)^-1 B_ex'. A mismatch of meshes is the same in every frame,
    and more frames do not make up for it: then the prior of i counts once a frame.
    """

    rounds = 5

    def __init__(self, model: FaceModel, frames: int) -> None:
        _, identity_basis, expression_basis = _bases(model)
        own = len(model.mean) == NUM_TRACKED
        prior, identity_prior = (PRIOR, PRIOR / frames) if own else (MISMATCH, MISMATCH)
        gram = expression_basis @ expression_basis.T + prior * np.eye(len(expression_basis))
        self.expression = np.linalg.inv(gram)  # (K, K)
        self.shared = identity_basis @ expression_basis.T  # (I, K)
        seen = identity_basis - (self.shared @ self.expression) @ expression_basis  # (I, 3N) = B_id' P
        self.identity = np.linalg.solve(seen @ identity_basis.T + identity_prior * np.eye(len(identity_basis)), seen)

    def __call__(
        self, mean_offset: np.ndarray, products: np.ndarray, expression: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean offset (3N,), products of each offset with B_ex (T, K), expression so far -> identity, expression."""
        identity = self.identity @ mean_offset
        return identity.astype(np.float32), ((products - identity @ self.shared) @ self.expression).astype(np.float32)


class _BoundedSolver:
    """Identity in closed form, expression within [0, 1] by coordinate descent from the last one, all frames at once.

    Minimises sum_t |offset_t - B_id i - B_ex c_t|^2 + MISMATCH (T |i|^2 / BLENDSHAPE_IDENTITY_VARIANCE +
    sum_t |c_t|^2 / BLENDSHAPE_VARIANCE) + 2 BLENDSHAPE_REST sum_t |c_t|_1. Each step is the exact minimum along one
    axis, cut to the bounds: it never raises the sum.
    """

    rounds = 10
    sweeps = 3

    def __init__(self, model: FaceModel, frames: int) -> None:
        _, identity_basis, self.expression_basis = _bases(model)
        prior = MISMATCH / BLENDSHAPE_VARIANCE * np.eye(len(self.expression_basis))
        self.gram = (self.expression_basis @ self.expression_basis.T + prior).astype(np.float32)  # (K, K)
        self.shared = (identity_basis @ self.expression_basis.T).astype(np.float32)  # (I, K)
        own = identity_basis @ identity_basis.T
        prior = MISMATCH / BLENDSHAPE_IDENTITY_VARIANCE * np.eye(len(own))
        self.identity = np.linalg.solve(own + prior, identity_basis)

    def __call__(
        self, mean_offset: np.ndarray, products: np.ndarray, expression: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean offset (3N,), products of each offset with B_ex (T, K), expression so far -> identity, expression."""
        identity = (self.identity @ (mean_offset - expression.mean(axis=0) @ self.expression_basis)).astype(np.float32)
        wanted = np.ascontiguousarray((products - identity @ self.shared).T) - np.float32(BLENDSHAPE_REST)  # (K, T)
        found = np.ascontiguousarray(expression.T)
        for _ in range(self.sweeps):
            for axis, row in enumerate(self.gram):
                step = (wanted[axis] - row @ found) / row[axis]
                found[axis] = np.clip(found[axis] + step, 0, 1)
        return identity, np.ascontiguousarray(found.T)


# -- building --------------------------------------------------------------------------------------------------------


def build_landmark_model(
    clips: Sequence[np.ndarray],
    people: Sequence[str],
    num_identity: int = NUM_IDENTITY,
    num_expression: int = NUM_EXPRESSION,
) -> FaceModel:
    """The `landmark` model of a data set, from clips (T, 468, 3) in crop units and the person in each.

    Identity is the PCA of each person's mean face, expression that of the frames around it; a coefficient of 1 is one
    standard deviation. Bases beyond the rank (few people, few frames) are zero. Raises UserError without any clip.
    """
    if not clips:
        raise UserError("face model", "no tracked clip to build it from", "prepare more clips")
    stride = -(-sum(map(len, clips)) // MAX_BUILD_FRAMES)
    grouped, position = defaultdict(list), 0
    for person, clip in zip(people, clips, strict=True):
        chosen = clip[-position % stride :: stride]  # counted through, as most clips may be shorter than a stride
        position += len(clip)
        if len(chosen):
            grouped[person].append(chosen.astype(np.float64))
    faces = [np.concatenate(grouped[person]) for person in sorted(grouped)]  # each (T, 468, 3)
    mean, faces = _align(faces)
    means = np.stack([face.mean(axis=0) for face in faces])  # (people, 468, 3)
    residuals = np.concatenate([face - own for face, own in zip(faces, means, strict=True)])
    identity_basis = _principal_axes(means - mean, num_identity)
    expression_basis = _principal_axes(residuals, num_expression)
    return FaceModel(mean, identity_basis, expression_basis, MEDIAPIPE_IBUG_68, kind="landmark")


def _align(faces: list[np.ndarray], rounds: int = 6) -> tuple[np.ndarray, list[np.ndarray]]:
    """Generalised Procrustes alignment: the mean face (N, 3) of all people and every frame aligned to it.

    Points count by the inverse of their own variance, so that a moving jaw is not taken for a moving head.
    """
    mean, weights = _canonical(faces[0][0]), np.ones(faces[0].shape[1])
    for _ in range(rounds):
        aligned = [_undo(face, *similarity(mean, face, weights)) for face in faces]
        mean = _canonical(np.mean([face.mean(axis=0) for face in aligned], axis=0))
        variance = np.mean([face.var(axis=0).sum(axis=-1) for face in aligned], axis=0)  # (N,)
        weights = 1 / (variance + variance.mean() / 4 + 1e-12)
    aligned = [_undo(face, *similarity(mean, face, weights)) for face in faces]
    return np.mean([face.mean(axis=0) for face in aligned], axis=0), aligned


def _canonical(face: np.ndarray) -> np.ndarray:
    """A face (468, 3) at pose zero: centred, eyes level, midline upright, outer eye corners one unit apart."""
    left, right = (face[MEDIAPIPE_IBUG_68[corner]] for corner in OUTER_EYE_CORNERS)
    x = (right - left) / np.linalg.norm(right - left)
    down = face[CHIN] - face[FOREHEAD]
    y = down - (down @ x) * x
    y /= np.linalg.norm(y)
    axes = np.stack([x, y, np.cross(x, y)])  # rows: the face's own right, down and away
    return (face - face.mean(axis=0)) @ axes.T / np.linalg.norm(right - left)


def _principal_axes(samples: np.ndarray, count: int) -> np.ndarray:
    """The first principal axes (count, N, 3) of centred samples (S, N, 3), each scaled to its standard deviation."""
    flat = samples.reshape(len(samples), -1)  # (S, 3N)
    if len(flat) < flat.shape[1]:  # the smaller of the two matrices with the same eigenvalues
        values, vectors = np.linalg.eigh(flat @ flat.T / len(flat))  # ascending
        scaled = flat.T @ vectors / np.sqrt(len(flat))  # (3N, S), as long as the standard deviation
    else:
        values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
        scaled = vectors * np.sqrt(np.maximum(values, 0))
    values, scaled = values[::-1][:count], scaled[:, ::-1][:, :count]
    scaled = np.where(values > 1e-9 * max(values[0], 1e-12), scaled, 0)
    largest = scaled[np.abs(scaled).argmax(axis=0), np.arange(scaled.shape[1])]
    axes = np.zeros((count, flat.shape[1]))
    axes[: scaled.shape[1]] = (scaled * np.sign(largest)).T  # an axis has no sign of its own
    return axes.reshape(count, *samples.shape[1:])
