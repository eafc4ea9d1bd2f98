"""The square crop that the points of a face ask for, and coordinates in it.

Points are pixels of the picture: x right, y down, z away from the viewer on the same scale; pixel i covers [i, i + 1).
"""

import cv2
import numpy as np

CROP_SIDE = 1.6  # side of the crop over the longer side of the face (hairline to chin)
CROP_MARGIN = 1.15  # at least this, over the space that a moving head takes
CROP_RISE = 0.06  # how far the crop is moved up, as share of its side: hair is not tracked


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
