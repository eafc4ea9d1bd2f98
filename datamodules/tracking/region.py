"""A turned square of a picture: what the networks of the tracker are shown.

Coordinates are pixels: x right, y down; pixel i covers [i, i + 1). Angles are radians from x towards y.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Region:
    """A square of `side` about `centre`, whose upper edge runs in the direction `angle`."""

    centre: tuple[float, float]
    side: float
    angle: float = 0.0

    @staticmethod
    def around(box: np.ndarray, eyes: np.ndarray, scale: float) -> "Region":
        """About a box (2, 2), its least and greatest corner, upright for the line between two eyes (2, 2)."""
        low, high = box
        across, down = eyes[1] - eyes[0]
        x, y = (low + high) / 2
        return Region((float(x), float(y)), float((high - low).max()) * scale, math.atan2(down, across))

    def cut(self, picture: np.ndarray, size: int) -> np.ndarray:
        """The square out of picture uint8 (H, W, 3) as (size, size, 3); beyond the picture its edges go on."""
        matrix = cv2.invertAffineTransform(self._to_picture(self.side / size))
        return cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def to_picture(self, points: np.ndarray, size: int) -> np.ndarray:
        """Points (N, 3) in pixels of a square of `size` -> pixels of the picture; z has the scale of x and y."""
        matrix = self._to_picture(self.side / size)
        return np.column_stack((points[:, :2] @ matrix[:, :2].T + matrix[:, 2], points[:, 2] * self.side / size))

    def overlap(self, other: "Region") -> float:
        """Intersection over union, neither turned."""
        corners = np.array([[np.subtract(r.centre, r.side / 2), np.add(r.centre, r.side / 2)] for r in (self, other)])
        return intersection_over_union(corners[:1], corners[1])[0]

    def _to_picture(self, scale: float) -> np.ndarray:
        """Affine matrix (2, 3) from the square, whose pixels have `scale` of the picture's, to the picture."""
        across, down = math.cos(self.angle), math.sin(self.angle)
        turn = np.array([[across, -down], [down, across]])
        corner = np.array(self.centre) - turn @ np.full(2, self.side / 2)
        return np.column_stack((turn * scale, corner))


def intersection_over_union(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Boxes (N, 2, 2) as least and greatest corners, against one box (2, 2) -> (N,)."""
    sides = np.maximum(np.minimum(boxes[:, 1], box[1]) - np.maximum(boxes[:, 0], box[0]), 0)
    shared = sides.prod(axis=1)
    areas = (boxes[:, 1] - boxes[:, 0]).prod(axis=1) + (box[1] - box[0]).prod()
    return shared / np.maximum(areas - shared, 1e-12)
