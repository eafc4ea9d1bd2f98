"""Build the `landmark` face model of a data set from its tracks: the mean face, its axes of identity and expression.

People are compared by their faces at rest, and expressions by what differs from the person's own: a smile is the same
axis on every face. Shapes: T frames, N = 478 tracked points, S samples, I identity and K expression coefficients.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial import cKDTree

from .errors import UserError
from .face_model import OUTER_EYE_CORNERS, FaceModel
from .face_model_fit import IRISES, MEDIAPIPE_IBUG_68, NUM_MESH, rest_pose, similarity, unposed

FOREHEAD, CHIN = 10, 152  # MediaPipe vertices on the midline; the line between them is upright in a face of pose zero
NUM_IDENTITY, NUM_EXPRESSION = 64, 64
NUM_GAZE = 2  # the last axes of expression: what the irises do that the skin does not tell
MAX_BUILD_FRAMES = 20_000  # frames that the bases are estimated from, evenly spread
LEAST_RESTING = 5  # frames of a neutral clip that a face at rest is found in: in fewer a blink would count
SMOOTH_MODES, NEIGHBOURS = 16, 6  # smooth deformations of the mesh, in each of x, y and z; of a vertex in its graph
LEAST_VARIANCE = 1e-7  # squared face units, summed over the points: with less an axis is rounding, no movement
SMOOTH_PEOPLE = 8  # people that the smooth deformations count for


def build_landmark_model(
    clips: Sequence[np.ndarray],
    people: Sequence[str],
    *,
    resting: tuple[Sequence[np.ndarray], Sequence[str]] = ((), ()),
    num_identity: int = NUM_IDENTITY,
    num_expression: int = NUM_EXPRESSION,
) -> FaceModel:
    """The `landmark` model of a data set, from clips (T, 478, 3) in crop units and the person of each.

    Each person's face at rest is that of `resting`: clips that are neutral by their labels, and the person of each;
    where these are fewer than LEAST_RESTING frames, the median of the person's clips. Identity: the principal axes of
    these faces, less as many smooth deformations as few people leave open (`_with_smooth_modes`). Expression: those of
    what differs from them in the clips, and two for the gaze. A coefficient of 1 is one standard deviation. Axes
    beyond the rank (few frames) are zero. Raises UserError without any clip.
    """
    if not clips:
        raise UserError("face model", "no tracked clip to build it from", "prepare more clips")
    grouped, calm = _by_person(clips, people), _by_person(*resting)
    names = sorted(grouped)
    faces, align = _align([grouped[name] for name in names])
    rests = np.stack(
        [
            rest_pose(align(calm[name]) if len(calm.get(name, ())) >= LEAST_RESTING else own)
            for name, own in zip(names, faces, strict=True)
        ]
    )
    mean = rests.mean(axis=0)
    moves = np.concatenate([face - own for face, own in zip(faces, rests, strict=True)])
    identity_basis = principal_axes(_with_smooth_modes(rests - mean, mean), num_identity)
    expression_basis = _expression_axes(moves, num_expression)
    return FaceModel(mean - mean.mean(axis=0), identity_basis, expression_basis, MEDIAPIPE_IBUG_68, kind="landmark")


def _by_person(clips: Sequence[np.ndarray], people: Sequence[str]) -> dict[str, np.ndarray]:
    """Evenly spread frames (T, N, 3) of each person; not more than MAX_BUILD_FRAMES in all."""
    stride = -(-sum(map(len, clips)) // MAX_BUILD_FRAMES)
    grouped, position = defaultdict(list), 0
    for person, clip in zip(people, clips, strict=True):
        chosen = clip[-position % stride :: stride]  # counted through, as most clips may be shorter than a stride
        position += len(clip)
        if len(chosen):
            grouped[person].append(chosen.astype(np.float64))
    return {person: np.concatenate(own) for person, own in grouped.items()}


def _with_smooth_modes(people: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Differences of people's faces from the mean (P, N, 3) -> samples (S, N, 3) whose principal axes suit new people.

    A few people span few of the ways in which faces differ. So the covariance is shrunk towards smooth deformations,
    the lowest eigenvectors of the mesh's graph Laplacian in x, y and z, each with the variance that these people have
    along it: by their number against SMOOTH_PEOPLE.
    """
    modes = _smooth_modes(mean)  # (M, N)
    flat = np.einsum("mn,cd->mcnd", modes, np.eye(3)).reshape(-1, *mean.shape)  # (3 M, N, 3)
    spread = np.sqrt(np.square(np.einsum("pnd,mnd->pm", people, flat)).mean(axis=0))  # (3 M,)
    share = SMOOTH_PEOPLE / (SMOOTH_PEOPLE + len(people))
    count = len(people) + len(flat)  # that principal_axes divides by
    own = people * np.sqrt((1 - share) * count / len(people))
    return np.concatenate([own, flat * (spread * np.sqrt(share * count))[:, None, None]])


def _smooth_modes(mean: np.ndarray) -> np.ndarray:
    """The lowest eigenvectors (M, N) of the Laplacian of a graph that joins each vertex of (N, 3) to its nearest."""
    _, nearest = cKDTree(mean).query(mean, NEIGHBOURS + 1)
    joined = np.zeros((len(mean), len(mean)))
    np.put_along_axis(joined, nearest[:, 1:], 1, axis=1)
    joined = np.maximum(joined, joined.T)
    _, vectors = np.linalg.eigh(np.diag(joined.sum(axis=1)) - joined)
    return vectors[:, :SMOOTH_MODES].T


def _expression_axes(moves: np.ndarray, count: int) -> np.ndarray:
    """Moves (S, N, 3) -> axes (K, N, 3): of the skin, which take the irises along, then NUM_GAZE of the irises alone.

    The irises are few points beside the skin's, so that among its axes they would be lost.
    """
    axes = principal_axes(moves, count - NUM_GAZE, deciding=NUM_MESH)
    flat, basis = moves.reshape(len(moves), -1), axes.reshape(len(axes), -1)
    gram = basis @ basis.T
    scores = flat @ basis.T @ np.linalg.pinv(gram, rcond=1e-9, hermitian=True)  # (S, K - 2)
    left = (flat - scores @ basis).reshape(moves.shape)
    gaze = np.zeros((NUM_GAZE, *moves.shape[1:]))
    eyes = slice(IRISES[0].start, IRISES[1].stop)
    gaze[:, eyes] = principal_axes(left[:, eyes], NUM_GAZE)
    return np.concatenate([axes, gaze])


def _align(faces: list[np.ndarray], rounds: int = 6) -> tuple[list[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Generalised Procrustes alignment: every frame aligned to the mean face of all people, and what aligns others.

    Points count by the inverse of their own variance, so that a moving jaw is not taken for a moving head. Irises do
    not count.
    """
    mean, skin = _canonical(faces[0][0]), np.arange(faces[0].shape[1]) < NUM_MESH
    weights = skin.astype(np.float64)
    for _ in range(rounds):
        aligned = [unposed(face, *similarity(mean, face, weights)) for face in faces]
        mean = _canonical(np.mean([face.mean(axis=0) for face in aligned], axis=0))
        variance = np.mean([face.var(axis=0).sum(axis=-1) for face in aligned], axis=0)  # (N,)
        weights = skin / (variance + variance.mean() / 4 + 1e-12)

    def align(face: np.ndarray) -> np.ndarray:
        return unposed(face, *similarity(mean, face, weights))

    return [align(face) for face in faces], align


def _canonical(face: np.ndarray) -> np.ndarray:
    """A face (478, 3) at pose zero: centred, eyes level, midline upright, outer eye corners one unit apart."""
    left, right = (face[MEDIAPIPE_IBUG_68[corner]] for corner in OUTER_EYE_CORNERS)
    x = (right - left) / np.linalg.norm(right - left)
    down = face[CHIN] - face[FOREHEAD]
    y = down - (down @ x) * x
    y /= np.linalg.norm(y)
    axes = np.stack([x, y, np.cross(x, y)])  # rows: the face's own right, down and away
    return (face - face.mean(axis=0)) @ axes.T / np.linalg.norm(right - left)


def principal_axes(samples: np.ndarray, count: int, deciding: int | None = None) -> np.ndarray:
    """The first principal axes (count, N, 3) of centred samples (S, N, 3), each scaled to its standard deviation.

    deciding: the axes are those of so many of the first points, the others go along; None: of all.
    """
    flat = samples.reshape(len(samples), -1)  # (S, 3N)
    own = samples[:, :deciding].reshape(len(samples), -1)
    if len(own) < own.shape[1]:  # the smaller of the two matrices with the same eigenvalues
        values, scores = np.linalg.eigh(own @ own.T / len(own))  # ascending
        values, scores = values[::-1][:count], scores[:, ::-1][:, :count] * np.sqrt(len(own))  # (S, count)
    else:
        values, vectors = np.linalg.eigh(own.T @ own / len(own))
        values = values[::-1][:count]
        scores = own @ vectors[:, ::-1][:, :count] / np.sqrt(np.maximum(values, 1e-12))
    scaled = np.where(values > LEAST_VARIANCE, flat.T @ scores / len(flat), 0)  # (3N, count)
    largest = scaled[np.abs(scaled).argmax(axis=0), np.arange(scaled.shape[1])]
    axes = np.zeros((count, flat.shape[1]))
    axes[: scaled.shape[1]] = (scaled * np.sign(largest)).T  # an axis has no sign of its own
    return axes.reshape(count, *samples.shape[1:])
