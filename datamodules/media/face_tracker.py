"""Face landmarks by MediaPipe's face mesh (extra `prepare`), and the square crop that they ask for.

Points are pixels of the picture: x right, y down, z away from the viewer on the same scale; pixel i covers [i, i + 1).
"""

import contextlib
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from ...models.errors import UserError
from ...models.face_model_fit import NUM_TRACKED

MAX_FACES = 2  # one more than we want, so as to notice others
CROP_SIDE = 1.6  # side of the crop over the longer side of the face (hairline to chin)
CROP_MARGIN = 1.15  # at least this, over the space that a moving head takes
CROP_RISE = 0.06  # how far the crop is moved up, as share of its side: hair is not tracked


class FaceTracker:
    """MediaPipe's face mesh. `faces(frame)` gives the faces of a frame, largest first; use as a context manager."""

    def __init__(self, video: bool, max_faces: int = MAX_FACES) -> None:
        with _quiet():
            self._mesh = _mediapipe().solutions.face_mesh.FaceMesh(
                static_image_mode=not video, refine_landmarks=True, max_num_faces=max_faces
            )
            self._mesh.process(np.zeros((64, 64, 3), np.uint8))  # its networks load, and print, with the first picture
        self._warm = False  # whether a face was found: the networks print once more then
        self._square = np.zeros((0, 0, 3), np.uint8)  # what is shown to the networks
        self._shape: tuple[int, ...] = (0, 0, 3)  # of the frame in it

    def __enter__(self) -> "FaceTracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mesh.close()

    def faces(self, frame: np.ndarray) -> list[np.ndarray]:
        """Frame uint8 (H, W, 3) -> points float32 (468, 3) of each face found."""
        side = max(frame.shape[:2])
        # MediaPipe projects landmarks rightly for square pictures only, and measures x, y and z by different sides.
        if self._square.shape[0] != side or self._shape != frame.shape:
            self._square, self._shape = np.zeros((side, side, 3), np.uint8), frame.shape
        square = self._square
        square[: frame.shape[0], : frame.shape[1]] = frame
        with contextlib.nullcontext() if self._warm else _quiet():
            found = self._mesh.process(square).multi_face_landmarks or []
        self._warm |= bool(found)
        faces = [np.array([(p.x, p.y, p.z) for p in face.landmark[:NUM_TRACKED]], np.float32) * side for face in found]
        return distinct_faces(faces)


def interpolate_gaps(points: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Points (T, N, 3) with the frames that are not `found` (T,) filled in linearly, or by the nearest at the ends."""
    times, known = np.arange(len(points)), np.flatnonzero(found)
    after = known[np.minimum(np.searchsorted(known, times), len(known) - 1)]
    before = known[np.maximum(np.searchsorted(known, times, side="right") - 1, 0)]
    share = np.clip((times - before) / np.maximum(after - before, 1), 0, 1)[:, None, None]
    return ((1 - share) * points[before] + share * points[after]).astype(np.float32)


def crop_box(points: np.ndarray) -> tuple[int, int, int]:
    """Left, top and side in whole pixels of one square crop for points (T, N, 3); it may reach beyond the picture."""
    low, high = points[..., :2].min(axis=1), points[..., :2].max(axis=1)  # (T, 2)
    face = np.median((high - low).max(axis=1))
    first, last = np.percentile(low, 2, axis=0), np.percentile(high, 98, axis=0)  # one wild frame must not set the crop
    side = max(CROP_SIDE * face, CROP_MARGIN * (last - first).max())
    centre = (first + last) / 2 - (0, CROP_RISE * side)
    left, top = np.round(centre - side / 2)
    return int(left), int(top), max(2, round(side))


def crop_square(frame: np.ndarray, box: tuple[int, int, int], size: int) -> np.ndarray:
    """Cut the box out of frame (H, W, 3), its edges repeated beyond the picture, and scale it to (size, size, 3)."""
    left, top, side = box
    height, width = frame.shape[:2]
    inside = frame[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    assert inside.size, "the crop lies outside the picture"
    around = (max(-top, 0), max(top + side - height, 0), max(-left, 0), max(left + side - width, 0))
    if any(around):
        inside = cv2.copyMakeBorder(inside, *around, cv2.BORDER_REPLICATE)
    return cv2.resize(inside, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


def to_crop_units(points: np.ndarray, box: tuple[float, float, float]) -> np.ndarray:
    """Points (..., 2 or 3) in pixels of the picture -> crop units: the crop spans [-1, 1]."""
    left, top, side = box
    origin = np.array([left + side / 2, top + side / 2, 0.0][: points.shape[-1]])
    return ((points - origin) * (2 / side)).astype(np.float32)


def distinct_faces(faces: list[np.ndarray]) -> list[np.ndarray]:
    """Largest first, without those whose centre lies on a larger one: MediaPipe sometimes tracks a face twice."""
    faces = sorted(faces, key=lambda face: -float(np.ptp(face[:, :2], axis=0).max()))
    kept: list[np.ndarray] = []
    for face in faces:
        centre = face[:, :2].mean(axis=0)
        if not any(((centre > k[:, :2].min(axis=0)) & (centre < k[:, :2].max(axis=0))).all() for k in kept):
            kept.append(face)
    return kept


def _mediapipe() -> Any:
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import mediapipe
    except ImportError as error:
        remedy = (
            "pip install 'emohead[prepare]', on Python 3.11 or 3.12 and x86; on a bare Debian also libgl1 libglib2.0-0"
        )
        raise UserError("mediapipe", f"is needed to track faces ({error})", remedy) from None
    return mediapipe


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the C++ libraries' start-up messages, which no setting silences, off the terminal."""
    saved, void = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(void, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(void)
