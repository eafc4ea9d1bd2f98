"""A random face model, its motion, and what a perfect tracker would see of it."""

import numpy as np
import torch
from emohead.models.face_model import FaceModel, rotation_matrix
from emohead.models.face_model_fit import MEDIAPIPE_IBUG_68, NUM_TRACKED

NUM_IDENTITY, NUM_EXPRESSION = 4, 6


def made_up_model(seed: int = 0) -> FaceModel:
    """A random face whose bases hold no rigid motion or scaling, which no fit could tell from a pose."""
    rng = np.random.default_rng(seed)
    mean = rng.uniform(-1, 1, (NUM_TRACKED, 3)) * (0.9, 1.2, 0.5)
    # On a plane x = const through the middle, so that the mean face is upright and its eyes are level.
    mean[10], mean[152], mean[33], mean[263] = (0, -1.1, 0), (0, 1.1, 0), (-0.5, -0.3, 0), (0.5, -0.3, 0)
    mean -= mean.mean(axis=0)
    rigid = [np.tile(axis, (NUM_TRACKED, 1)) for axis in np.eye(3)] + [np.cross(axis, mean) for axis in np.eye(3)]
    bases = rng.normal(size=(NUM_IDENTITY + NUM_EXPRESSION, NUM_TRACKED * 3))
    blocked = np.linalg.qr(np.stack([r.ravel() for r in [*rigid, mean]]).T)[0]  # (3V, 7)
    bases = np.linalg.qr((bases - bases @ blocked @ blocked.T).T)[0].T.reshape(-1, NUM_TRACKED, 3)
    bases *= 0.05 * np.sqrt(NUM_TRACKED)  # a coefficient of 1 moves a vertex by 5% of the eye distance
    return FaceModel(mean, bases[:NUM_IDENTITY], bases[NUM_IDENTITY:], MEDIAPIPE_IBUG_68, kind="made-up")


def made_up_motion(frames: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, frames])
    expression = rng.normal(size=(frames, NUM_EXPRESSION))
    pose = rng.uniform(-1, 1, (frames, 6)) * (0.4, 0.5, 0.3, 0.2, 0.2, 0.1) + (0, 0, 0, 0, 0, -0.5)
    return np.concatenate([expression, pose], axis=1).astype(np.float32)


def tracks(model: FaceModel, identity: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Points (T, V, 3) in crop units as a perfect tracker would give them; depth from the face's own centre."""
    vertices = model.vertices(torch.from_numpy(identity), torch.from_numpy(motion[:, :-6]))
    pose = torch.from_numpy(motion[:, -6:])
    flat = model.project(vertices, pose)
    depth = (vertices @ rotation_matrix(pose[:, :3]).mT)[..., 2:] * pose[:, None, 5:].exp()
    return torch.cat([flat, depth], dim=-1).numpy()
