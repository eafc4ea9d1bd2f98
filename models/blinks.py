"""Blinks on top of generated motion. Speech says nothing of when eyes close, so a regression never closes them.

Blinks come by chance: as often as people in conversation blink, 26 times a minute (Bentivoglio et al. 1997), each over
in about 0.3 s and faster shut than open (Guitton et al. 1991). The face model tells which coefficients close the lids:
the least change, in standard deviations, that shuts both eyes and moves nothing else.

Shapes: T frames, K expression coefficients, D = K + 6 values of motion, P other landmarks.
"""

import torch
from torch import Tensor

from .face_model import POSE_DIM, FaceModel
from .timing import FPS

A_MINUTE = 26.0
SHORTEST_PAUSE = 0.8  # seconds from blink to blink
SHUT = (0.35, 0.9, 1.0, 0.8, 0.55, 0.3, 0.12)  # share of the way down, frame by frame
CLOSED = 0.95  # of the opening that a full blink takes away
LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))  # iBUG landmarks, upper and lower
STILLNESS = 30.0  # weight of what else would move, against the size of the change


def eyelid_opening(model: FaceModel, expression: Tensor) -> Tensor:
    """Mean distance of upper and lower lids in face units, of the mean identity: (..., K) -> (...)."""
    identity = expression.new_zeros(*expression.shape[:-1], model.num_identity)
    points = model.vertices(identity, expression, model.landmark_index)  # (..., 68, 3)
    upper, lower = (points[..., list(index), :] for index in zip(*LIDS, strict=True))
    return (upper - lower).norm(dim=-1).mean(dim=-1)


def closing(model: FaceModel, std: Tensor) -> Tensor:
    """The change of expression (K,) that narrows the lids by one face unit; std (K,) is that of the training data."""
    step = 0.1 * torch.diag(std)  # (K, K): differences, as gradients are not to be had in inference mode
    slope = (eyelid_opening(model, step) - eyelid_opening(model, -step)) / 0.2  # of a standard deviation, (K,)
    eyes = {index for pair in LIDS for index in pair} | set(range(36, 48))
    others = model.landmark_index[[i for i in range(68) if i not in eyes]]
    moved = (model.expression_basis[:, others] * std[:, None, None]).flatten(1)  # (K, 3 P)
    cost = torch.eye(len(std), device=std.device) + STILLNESS * moved @ moved.T
    change = torch.linalg.solve(cost, slope)
    return -std * change / (slope @ change).clamp(min=1e-8)


def blink_track(frames: int, seed: int) -> Tensor:
    """How far the lids are down in each frame (T,), 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    track = torch.zeros(frames)
    mean_pause = 60 / A_MINUTE - SHORTEST_PAUSE
    time = 0.0
    while True:
        pause = -mean_pause * torch.rand(1, generator=generator).clamp(min=1e-6).log().item()
        time += pause + SHORTEST_PAUSE
        first = round(time * FPS)
        if first >= frames:
            return track
        shape = torch.tensor(SHUT)[: frames - first]
        track[first : first + len(shape)] = torch.maximum(track[first : first + len(shape)], shape)


def add_blinks(motion: Tensor, model: FaceModel, std: Tensor, seed: int) -> Tensor:
    """Motion (T, D) with blinks; std (D,) is that of the training data."""
    expression = motion[:, :-POSE_DIM]
    down = blink_track(len(motion), seed).to(motion.device) * CLOSED * eyelid_opening(model, expression)
    blinking = expression + down[:, None] * closing(model, std[:-POSE_DIM])
    return torch.cat([blinking, motion[:, -POSE_DIM:]], dim=1)
