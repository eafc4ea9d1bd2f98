"""Faces as the tracker finds them again in every frame of a video, made or true, whatever moved them.

Shapes: T frames, S pixels, N = 478 points of the tracker; D values of motion.
Points are (x, y, z) in pixels of a picture of 256, z away from the viewer on the same scale.
"""

import importlib.util
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...datamodules.tracking.gaps import interpolate_gaps
from ...datamodules.tracking.tracker import FaceTracker
from ...models.face_model import FaceModel
from ...models.face_model_fit import MEDIAPIPE_IBUG_68, NUM_TRACKED, fit_motion, person_of
from ..metrics import PIXELS

LEAST_FOUND = 0.75  # share of the frames that must show a face, so that the others can be filled in
TRACKER = "pip install 'emohead[prepare]'"  # brings what the tracker needs


class Tracked(NamedTuple):
    """A face in all frames of a video."""

    points: np.ndarray | None  # float32 (T, N, 3), frames without a face filled in; None: they are too many
    found: float  # share of the frames in which there is a face


def tracker_installed() -> bool:
    return importlib.util.find_spec("ai_edge_litert") is not None


def track(video: np.ndarray) -> Tracked:
    """The face in a video uint8 (T, S, S, 3), followed from its first frame on by a tracker of its own."""
    tracker = FaceTracker(video=True, max_faces=1)
    faces = [tracker.faces(np.ascontiguousarray(frame)) for frame in video]
    found = np.array([bool(face) for face in faces])
    if found.mean() < LEAST_FOUND:
        return Tracked(None, float(found.mean()))
    nothing = np.zeros((NUM_TRACKED, 3), np.float32)
    points = np.stack([face[0] if face else nothing for face in faces]) * np.float32(PIXELS / video.shape[1])
    return Tracked(interpolate_gaps(points, found), float(found.mean()))


class Refitted(NamedTuple):
    """Motion that shows what is seen in a video, in a face model."""

    motion: Tensor  # (T, D)
    residual: float  # mean distance of the model's 68 landmarks from the tracked ones in pixels of 256


def refitted(model: FaceModel, made: np.ndarray, truth: np.ndarray, true_motion: Tensor) -> Refitted:
    """Fit the face model to a video's points (T, N, 3), beside those of the true clip, whose motion (T', D) is known.

    So the rest pose that both are measured from is that of the true motion: what the tracker sees differently in a
    whole film is no expression.
    """
    made, truth = (points * np.float32(2 / PIXELS) - np.array([1, 1, 0], np.float32) for points in (made, truth))
    person = person_of(model, truth, true_motion.numpy())
    motion = fit_motion(model, person, made)
    landmarks = model.landmarks(torch.from_numpy(person.identity), torch.from_numpy(motion)).numpy()
    apart = np.linalg.norm(landmarks - made[:, MEDIAPIPE_IBUG_68, :2], axis=-1).mean()
    return Refitted(torch.from_numpy(motion), float(apart) * PIXELS / 2)
