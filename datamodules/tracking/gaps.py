"""Frames in which no face was found, filled in from those around them."""

import numpy as np


def interpolate_gaps(points: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Points (T, N, 3) with the frames that are not `found` (T,) filled in linearly, or by the nearest at the ends."""
    times, known = np.arange(len(points)), np.flatnonzero(found)
    after = known[np.minimum(np.searchsorted(known, times), len(known) - 1)]
    before = known[np.maximum(np.searchsorted(known, times, side="right") - 1, 0)]
    share = np.clip((times - before) / np.maximum(after - before, 1), 0, 1)[:, None, None]
    return ((1 - share) * points[before] + share * points[after]).astype(np.float32)
