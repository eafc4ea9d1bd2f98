"""Where faces are: BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047), its network for faces near the camera."""

from dataclasses import dataclass

import numpy as np

from .network import Network
from .region import Region, intersection_over_union

SIZE = 128  # pixels, of the picture that the network sees
GRIDS = ((16, 2), (8, 6))  # cells of a side, and guesses of each cell: 896 guesses
LEAST_LOGIT = 0.0  # a face is as likely as none
SAME_FACE = 0.3  # intersection over union of two boxes
ROOM = 1.5  # side of a face's region over that of its box
EYES = slice(0, 2)  # of the six points of a face: right eye, left eye, nose, mouth, right ear, left ear


@dataclass(frozen=True)
class Guesses:
    scores: np.ndarray  # (N,), in 0..1
    points: np.ndarray  # (N, 8, 2): least and greatest corner, then the six points; shares of the picture's side


class FaceDetector:
    def __init__(self) -> None:
        self._network = Network("face_detection_short_range.tflite")
        self._anchors = _anchors()

    def regions(self, square: np.ndarray) -> list[Region]:
        """Faces of a square picture uint8 (S, S, 3), the surest first."""
        side = square.shape[0]
        small = Region((side / 2, side / 2), side).cut(square, SIZE)
        raw, logits = self._network(small[None].astype(np.float32) / 127.5 - 1)
        found = merged(self._decode(raw[0], logits[0, :, 0]))
        return [Region.around(face[:2] * side, face[2:][EYES] * side, ROOM) for face in found]

    def _decode(self, raw: np.ndarray, logits: np.ndarray) -> Guesses:
        """Raw (896, 16): centre and size of a box, then six points, in pixels from the guess's cell."""
        sure = np.flatnonzero(logits >= LEAST_LOGIT)
        values = raw[sure].reshape(-1, 8, 2) / SIZE
        points = values + self._anchors[sure, None]
        points[:, 0] -= values[:, 1] / 2
        points[:, 1] = points[:, 0] + values[:, 1]
        return Guesses(1 / (1 + np.exp(-logits[sure])), points)


def merged(guesses: Guesses) -> list[np.ndarray]:
    """One face (8, 2) for each cluster of guesses: their mean, weighted by score (section 3.3 of the paper)."""
    order = np.argsort(-guesses.scores, kind="stable")
    scores, points = guesses.scores[order], guesses.points[order]
    faces = []
    while len(scores):
        same = intersection_over_union(points[:, :2], points[0, :2]) > SAME_FACE
        same[0] = True  # a box without any area is like itself, too
        faces.append(np.average(points[same], axis=0, weights=scores[same]))
        scores, points = scores[~same], points[~same]
    return faces


def _anchors() -> np.ndarray:
    """Centres (896, 2) of the cells of all guesses, as shares of the picture's side."""
    grids = []
    for cells, guesses in GRIDS:
        middle = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(middle, middle, indexing="ij")
        grids.append(np.repeat(np.stack((x, y), axis=-1).reshape(-1, 2), guesses, axis=0))
    return np.concatenate(grids)
