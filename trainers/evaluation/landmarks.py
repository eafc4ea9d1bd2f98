"""What tracked faces say of a made video, beside those of the true one.

Shapes: T frames, N points of the tracker in pixels of a picture of 256 (see tracked.py), R of them rigid.
"""

import numpy as np
import torch

from ...models.face_model import EYES, MOUTH, OUTER_EYE_CORNERS
from ...models.face_model_fit import IRISES, MEDIAPIPE_IBUG_68, similarity
from ...models.timing import FPS
from ..metrics import correlation

# MediaPipe vertices that move with the skull only: forehead, bridge of the nose, corners of the eyes.
BRIDGE = (168, 6, 197, 195)
RIGID = np.array([10, 67, 109, 338, 297, 103, 332, 151, *BRIDGE, 33, 133, 362, 263])
INNER_LIPS = ((61, 67), (62, 66), (63, 65))  # iBUG landmarks, upper and lower
LEAST_FRAMES = 8  # of a clip: figures over time mean nothing in shorter ones
MOST_LAG = 5  # frames by which lips are looked for, early and late
LEAST_LIKENESS = 0.5  # correlation of mouths at the best lag, without which a lag means nothing
SHUT, OPEN = 0.65, 0.8  # share of the eyes' usual opening below which they shut, above which they are open again
CORNERS_AND_IRIS = (((33, 133), IRISES[0]), ((362, 263), IRISES[1]))  # of each eye, the left in the picture


def compare_faces(made: np.ndarray, true: np.ndarray, *, follows: bool) -> dict[str, float]:
    """Figures of the points (T, N, 3) of a made video against the true one's; see the functions below.

    follows: the head is meant to move as the true one does.
    """
    head = follow_head(made, true) if follows else {}
    return compare_shapes(made, true) | compare_mouths(made, true) | head | compare_heads(made, true) | gaze(made, true)


def compare_shapes(made: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Distances of landmarks in pixels of a picture of 256, the pose of the head taken out.

    In each frame the made face is laid onto the true one by the rotation, scale and shift in space that bring the
    rigid points together. `f_lmd`, `m_lmd`: mean distance, in the picture's plane, of the 68 iBUG landmarks and of the
    20 of the mouth. `lasting_lmd`: that of the 68 after the mean over time, in which movements and the tracker's noise
    vanish: an expression that lasts, or another face. The names are those of Chen et al. 2018 (LMD); papers differ in
    alignment and size, this is ours.
    """
    apart = (laid(made, true) - true)[:, MEDIAPIPE_IBUG_68, :2]  # (T, 68, 2)
    distance = np.linalg.norm(apart, axis=-1)
    return {
        "f_lmd": float(distance.mean()),
        "m_lmd": float(distance[:, MOUTH].mean()),
        "lasting_lmd": float(np.linalg.norm(apart.mean(axis=0), axis=-1).mean()),
    }


def laid(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Points (T, N, 3), moved as a whole in each frame so that the rigid ones lie nearest to those of the others."""
    rotation, scale, shift = similarity(points[:, RIGID], onto[:, RIGID])
    return scale[:, None, None] * (points @ np.swapaxes(rotation, 1, 2)) + shift[:, None]


def compare_mouths(made: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """How the mouths open.

    `mouth_correlation`: Pearson's of both openings over time. `mouth_ratio`: the deviation of the made one over that
    of the true one; frozen lips have 0. `mouth_lag`: by how many frames, early or late, the made mouth goes best with
    the true one; left out if it never does.
    """
    a, b = mouth_opening(made), mouth_opening(true)
    figures = {"mouth_correlation": correlate(a, b), "mouth_ratio": over(a.std(), b.std())}
    by_lag = {lag: correlate(*late_by(lag, a, b)) for lag in range(-MOST_LAG, MOST_LAG + 1) if abs(lag) < len(a) // 2}
    best = max(by_lag, key=lambda lag: (by_lag[lag], -abs(lag)))
    return figures | ({"mouth_lag": float(abs(best))} if by_lag[best] >= LEAST_LIKENESS else {})


def mouth_opening(points: np.ndarray) -> np.ndarray:
    """Mean distance of the inner lips over that of the outer eye corners, both in space: (T, N, 3) -> (T,)."""
    landmarks = points[:, MEDIAPIPE_IBUG_68]
    lips = np.mean([distance(landmarks, pair) for pair in INNER_LIPS], axis=0)
    return lips / distance(landmarks, OUTER_EYE_CORNERS)


def late_by(lag: int, made: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of two tracks (T,) that show the same moments if the made one is late by `lag` frames."""
    frames = len(made)
    return made[max(0, lag) : frames + min(0, lag)], true[max(0, -lag) : frames - max(0, lag)]


def compare_heads(made: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """How the head moves.

    `head_ratio`: deviation over time of the place of the bridge of the nose, over that of the true one; a still head
    has the tracker's noise only. Not of angles, for the tracker takes an opened jaw for a nod. `jitter`: mean magnitude
    of the third difference over time of the rigid points, over that of the true ones: movements of a head are too slow
    for it, so above 1 the picture trembles. `frame0_jump`: mean distance of the 68 landmarks of the first frame from
    those of the portrait, which is the first true one, in pixels of a picture of 256.
    """
    return {
        "head_ratio": over(head_motion(made), head_motion(true)),
        "jitter": over(trembling(made), trembling(true)),
        "frame0_jump": jump(made[0], true[0]),
    }


def jump(made: np.ndarray, true: np.ndarray) -> float:
    """Mean distance of the 68 landmarks of one face (N, 3) from those of another, in the picture's plane."""
    return float(np.linalg.norm((made - true)[MEDIAPIPE_IBUG_68, :2], axis=-1).mean())


def follow_head(made: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """`pose_error`: mean angle in degrees between the made and the true head; `place_error`: mean distance of the
    centres of their rigid points, in pixels of a picture of 256."""
    rotation, _, _ = similarity(made[:, RIGID], true[:, RIGID])
    cosine = (np.trace(rotation, axis1=1, axis2=2) - 1) / 2
    centres = [points[:, RIGID, :2].mean(axis=1) for points in (made, true)]
    return {
        "pose_error": float(np.degrees(np.arccos(cosine.clip(-1, 1))).mean()),
        "place_error": float(np.linalg.norm(centres[0] - centres[1], axis=-1).mean()),
    }


def head_motion(points: np.ndarray) -> float:
    """Deviation over time of the place of the bridge of the nose in the picture, of points (T, N, 3)."""
    return float(np.sqrt(points[:, BRIDGE, :2].var(axis=0).sum(axis=-1).mean()))


def trembling(points: np.ndarray) -> float:
    """Mean magnitude of the third difference over time of the rigid ones of points (T, N, 3), in the picture."""
    return float(np.linalg.norm(np.diff(points[:, RIGID, :2], n=3, axis=0), axis=-1).mean())


def blinks_per_minute(points: np.ndarray) -> float:
    return blinks(eye_opening(points)) * 60 * FPS / len(points)


def blinks(opening: np.ndarray) -> int:
    """How often eyes shut, from their opening over time (T,).

    A blink begins below SHUT of the median opening, and the next one cannot before they were above OPEN of it: lids
    that tremble half-way are one blink, and eyes that are narrow all the time none.
    """
    shut, count = False, 0
    for level in opening / max(float(np.median(opening)), 1e-6):
        if not shut and level < SHUT:
            shut, count = True, count + 1
        elif shut and level > OPEN:
            shut = False
    return count


def eye_opening(points: np.ndarray) -> np.ndarray:
    """Eye aspect ratio (Soukupova and Cech 2016), the mean of both eyes: (T, N, 3) -> (T,)."""
    ratios = []
    for eye in EYES:
        lids = points[:, MEDIAPIPE_IBUG_68[eye]]
        ratios.append((distance(lids, (1, 5)) + distance(lids, (2, 4))) / (2 * distance(lids, (0, 3))))
    return np.mean(ratios, axis=0)


def gaze(made: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """`gaze_error`: mean absolute difference of where irises stand, see `iris_places`."""
    return {"gaze_error": float(np.abs(iris_places(made) - iris_places(true)).mean())}


def iris_places(points: np.ndarray) -> np.ndarray:
    """Centres of the irises from the middle between the eye's corners, along the line through these and across it, in
    widths of the eye, in the picture's plane: (T, N, 3) -> (T, 2 eyes, 2)."""
    places = []
    for corners, iris in CORNERS_AND_IRIS:
        left, right = (points[:, corner, :2] for corner in corners)
        along, offset = right - left, points[:, iris, :2].mean(axis=1) - (left + right) / 2
        across = along[:, ::-1] * (-1, 1)
        parts = [(offset * axis).sum(axis=-1) for axis in (along, across)]
        places.append(np.stack(parts, axis=-1) / (along**2).sum(axis=-1, keepdims=True))
    return np.stack(places, axis=1)


def distance(points: np.ndarray, pair: tuple[int, int]) -> np.ndarray:
    """Of two of points (T, N, 3), in space: (T,)."""
    return np.linalg.norm(points[:, pair[0]] - points[:, pair[1]], axis=-1)


def correlate(a: np.ndarray, b: np.ndarray) -> float:
    return float(correlation(torch.from_numpy(a), torch.from_numpy(b)))


def over(made: float, true: float) -> float:
    """A ratio; if there is nothing in the true video, how much there is in the made one."""
    return float(made / true) if true > 0 else float(made)
