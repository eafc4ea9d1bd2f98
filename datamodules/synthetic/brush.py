"""The brush of the face painter: smooth curves, areas, lines and discs on a canvas of twice the size."""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

SUPERSAMPLING = 2
SHIFT = 4  # sub-pixel bits of OpenCV's drawing functions


@cache
def spline(num_points: int, closed: bool, steps: int = 5) -> np.ndarray:
    """Catmull-Rom as a matrix: control points (n, 2) -> curve (m, 2)."""
    spans = num_points if closed else num_points - 1
    matrix = np.zeros((spans * steps + (not closed), num_points))
    for span in range(spans):
        knots = [span - 1, span, span + 1, span + 2]
        knots = [k % num_points if closed else min(max(k, 0), num_points - 1) for k in knots]
        for step in range(steps):
            t = step / steps
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
            for knot, weight in zip(knots, weights, strict=True):
                matrix[span * steps + step, knot] += weight / 2
    if not closed:
        matrix[-1, -1] = 1
    return matrix


def curve(points: np.ndarray, closed: bool = False) -> np.ndarray:
    return spline(len(points), closed) @ points


def fixed(points: np.ndarray) -> np.ndarray:
    """Pixels (pixel i covers [i, i + 1)) to OpenCV's fixed-point coordinates (pixel i is centred on i)."""
    return np.rint((points - 0.5) * (1 << SHIFT)).astype(np.int32)


class Brush:
    """Paints on the canvas of a frame of S pixels a side."""

    def __init__(self, size: int) -> None:
        self.canvas_size = size * SUPERSAMPLING
        self.unit = 1.0  # pixels of a face unit, set for every frame

    def fill(self, canvas: np.ndarray, points: np.ndarray, colour: Sequence[int]) -> None:
        cv2.fillPoly(canvas, [fixed(points)], colour, cv2.LINE_AA, SHIFT)

    def line(self, canvas: np.ndarray, points: np.ndarray, colour: tuple, width: float, closed: bool = False) -> None:
        """A polyline; width in face units."""
        thickness = max(1, round(width * self.unit))
        cv2.polylines(canvas, [fixed(points)], closed, colour, thickness, cv2.LINE_AA, SHIFT)

    def off(self, x: float, y: float) -> np.ndarray:
        """An offset in face units as pixels of the canvas."""
        return np.array((x, y)) * self.unit

    def disc(self, canvas: np.ndarray, centre: np.ndarray, radii: tuple[float, float], colour: tuple) -> None:
        """A filled ellipse; radii in face units."""
        axes = tuple(round(r * self.unit * (1 << SHIFT)) for r in radii)
        x, y = fixed(centre).tolist()
        cv2.ellipse(canvas, (x, y), axes, 0, 0, 360, colour, -1, cv2.LINE_AA, SHIFT)
