"""Faces followed through a video, or found in single pictures.

Points are pixels of the picture: x right, y down, z away from the viewer on the same scale; pixel i covers [i, i + 1).
"""

import numpy as np

from .detector import FaceDetector
from .mesh import FaceMesh
from .region import Region

NAME = "MediaPipe face mesh with attention"  # as data sets say it
MAX_FACES = 2  # one more than we want, so as to notice others
ROOM = 1.5  # side of the region in which a face is looked for again, over that of its points
EYE_CORNERS = [33, 263]  # outer ones
SAME_FACE = 0.5  # intersection over union of two regions


class FaceTracker:
    """`faces(frame)` gives the faces of a frame, largest first.

    In a video a face is looked for where it was in the frame before, and the whole frame is searched only while fewer
    than `max_faces` are known. LiteRT's networks are not shared: one tracker for one thread.
    """

    def __init__(self, video: bool, max_faces: int = MAX_FACES) -> None:
        self._video, self._max_faces = video, max_faces
        self._detector, self._mesh = FaceDetector(), FaceMesh()
        self._known: list[Region] = []  # where faces were in the frame before
        self._square = np.zeros((0, 0, 3), np.uint8)  # what is shown to the networks
        self._shape: tuple[int, ...] = (0, 0, 3)  # of the frame in it

    def faces(self, frame: np.ndarray) -> list[np.ndarray]:
        """Frame uint8 (H, W, 3) -> points float32 (478, 3) of each face found."""
        square = self._squared(frame)
        regions = list(self._known)
        if len(regions) < self._max_faces:
            found = self._detector.regions(square)[: self._max_faces]
            regions += [new for new in found if all(new.overlap(known) <= SAME_FACE for known in self._known)]
        tracked = [self._mesh.points(square, region) for region in regions]
        faces = distinct_faces([points for points in tracked if points is not None])
        if self._video:
            self._known = [region_of(points) for points in faces]
        return faces

    def _squared(self, frame: np.ndarray) -> np.ndarray:
        """The frame in the upper left corner of a black square: the detector squeezes what it is shown to a square."""
        side = max(frame.shape[:2])
        if self._square.shape[0] != side or self._shape != frame.shape:
            self._square, self._shape = np.zeros((side, side, 3), np.uint8), frame.shape
        self._square[: frame.shape[0], : frame.shape[1]] = frame
        return self._square


def region_of(points: np.ndarray) -> Region:
    """Where the face of points (478, 3) is looked for in the next frame."""
    flat = points[:, :2]
    return Region.around(np.stack((flat.min(axis=0), flat.max(axis=0))), flat[EYE_CORNERS], ROOM)


def distinct_faces(faces: list[np.ndarray]) -> list[np.ndarray]:
    """Largest first, without those whose centre lies on a larger one: a face is sometimes tracked twice."""
    faces = sorted(faces, key=lambda face: -float(np.ptp(face[:, :2], axis=0).max()))
    kept: list[np.ndarray] = []
    for face in faces:
        centre = face[:, :2].mean(axis=0)
        if not any(((centre > k[:, :2].min(axis=0)) & (centre < k[:, :2].max(axis=0))).all() for k in kept):
            kept.append(face)
    return kept
