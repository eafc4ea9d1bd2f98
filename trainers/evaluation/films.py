"""All frames of a video: what pictures eight frames apart do not show.

Shapes: T frames, S pixels.
"""

from collections import Counter
from dataclasses import dataclass

import cv2
import numpy as np

from ...datamodules.dataset.reader import ClipReader
from ...models.face import to_pictures
from .landmarks import LEAST_FRAMES, compare_faces
from .makers import Draw
from .tracked import Tracked, track, tracker_installed

CHUNK = 64  # frames that are drawn at a time


@dataclass
class Film:
    """A whole video, and the face in it."""

    frames: np.ndarray  # uint8 (T, S, S, 3)
    face: Tracked | None  # None: the tracker is not installed


def film(frames: np.ndarray) -> Film:
    return Film(frames, track(frames) if tracker_installed() else None)


def drawn(draw: Draw, count: int) -> np.ndarray:
    """All frames of a video, uint8 (T, S, S, 3)."""
    spans = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    return np.concatenate([to_pictures(draw(span)) for span in spans])


def compare_films(made: Film, true: Film, *, follows: bool) -> dict[str, float]:
    """Figures of a made film against the true one: `compare_pixels`, and if both show a face `compare_faces`."""
    figures = compare_pixels(made.frames, true.frames)
    if made.face is None or true.face is None or made.face.points is None or true.face.points is None:
        return figures
    return figures | compare_faces(made.face.points, true.face.points, follows=follows)


def compare_pixels(made: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Figures of two videos uint8 (T, S, S, 3), of grey levels from 0 to 255.

    `temporal`: mean absolute difference of what changes from frame to frame, in grey levels. `flicker`: mean absolute
    second difference over time, over that of the true video; above 1 it flickers, a picture that stands has 0.
    `sharpness`: energy of the Laplacian over that of the true video; below 1 it is blurred.
    """
    a, b = grey(made), grey(true)
    changes = [np.diff(video, axis=0) for video in (a, b)]
    second = [float(np.abs(np.diff(change, axis=0)).mean()) for change in changes]
    edges = [edge_energy(video) for video in (a, b)]
    return {
        "temporal": float(np.abs(changes[0] - changes[1]).mean()),
        "flicker": second[0] / max(second[1], 1e-6),
        "sharpness": edges[0] / max(edges[1], 1e-6),
    }


def grey(video: np.ndarray) -> np.ndarray:
    """uint8 (T, S, S, 3) -> int16 (T, S, S), whose differences fit as well."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]).astype(np.int16)


def edge_energy(video: np.ndarray) -> float:
    """Mean square of the Laplacian of grey frames (T, S, S)."""
    return float(np.mean([np.square(cv2.Laplacian(frame, cv2.CV_32F)).mean() for frame in video]))


def spread(reader: ClipReader, keys: list[str], count: int) -> list[str]:
    """At most `count` of the clips, spread over people and, within them, over emotions; always the same ones.

    One after the other: of the people who were taken least, a clip of the emotion that was taken least; the first such
    in the order that they are stored in. Clips of a few frames are none of them.
    """
    left = {key: record for key in keys if (record := reader.clip(key).record)["frames"] >= LEAST_FRAMES}
    people: Counter[str] = Counter()
    emotions: Counter[str | None] = Counter()
    chosen: list[str] = []
    while left and len(chosen) < count:
        key = min(left, key=lambda key: (people[left[key]["identity"]], emotions[left[key]["emotion"]]))
        record = left.pop(key)
        people[record["identity"]] += 1
        emotions[record["emotion"]] += 1
        chosen.append(key)
    return chosen
