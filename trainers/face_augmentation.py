"""Variety for the face stage: other colours, and heads turned, moved and scaled, with the motion to match.

A weak perspective makes the second exact: a similarity of the picture is a change of roll, translation and log scale.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..datamodules.batch import Batch
from ..models.face import to_float
from ..models.flow import identity_grid, warp
from .engines.draws import Draws

ROLL, TRANSLATION, LOG_SCALE = -4, slice(-3, -1), -1  # places in a motion vector


@dataclass
class FaceAugmentationConfig:
    """Standard deviations; 0 leaves a kind out. Portrait and target of a pair change alike."""

    colour: float = 0.05  # spread of a 3x3 matrix on RGB and of an offset, in units of [-1, 1]
    roll: float = 0.05  # spread of a rotation, radians
    shift: float = 0.02  # spread of a shift, crop units
    scale: float = 0.04  # spread of a change of size, log


def augmented(batch: Batch, config: FaceAugmentationConfig, draws: Draws) -> Batch:
    """A batch of the face stage with float pictures in [-1, 1], changed as `draws` say."""
    draw = draws.normal
    roll, shift, log_scale = config.roll * draw(), config.shift * draw(2), config.scale * draw()
    matrix = similarity(roll, log_scale)  # (B, 2, 2)
    colour = torch.eye(3, device=draws.device) + config.colour * draw(3, 3)
    offset = config.colour * draw(3, 1, 1)
    changed = dict(batch)
    for name in ("portrait", "target"):
        picture = torch.einsum("bij,bjhw->bihw", colour, to_float(batch[name])) + offset  # type: ignore[arg-type]
        changed[name] = transform_picture(picture, matrix, shift).clamp(-1, 1)
    changed["portrait_motion"] = transform_motion(batch["portrait_motion"], roll, matrix, shift, log_scale)  # type: ignore[arg-type]
    expanded = (part[:, None] for part in (roll, matrix, shift, log_scale))
    changed["target_motion"] = transform_motion(batch["target_motion"], *expanded)  # type: ignore[arg-type]
    changed["target_landmarks"] = batch["target_landmarks"] @ matrix.mT + shift[:, None]  # type: ignore[operator]
    return changed


def similarity(roll: Tensor, log_scale: Tensor) -> Tensor:
    """Turn by `roll` and scale, (B,) each -> (B, 2, 2)."""
    c, s = roll.cos(), roll.sin()
    return (
        torch.stack([torch.stack([c, -s], dim=-1), torch.stack([s, c], dim=-1)], dim=-2)
        * log_scale.exp()[:, None, None]
    )


def transform_picture(picture: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Move what is at u to matrix u + shift: (B, 3, S, S), (B, 2, 2), (B, 2)."""
    grid = identity_grid(picture.shape[-1], picture.device)
    centred = grid - shift[..., None, None]  # (B, 2, S, S)
    inverse = torch.linalg.inv_ex(matrix).inverse  # which a GPU does without the CPU waiting for it
    return warp(picture, torch.einsum("bij,bjhw->bihw", inverse, centred) - grid)


def transform_motion(motion: Tensor, roll: Tensor, matrix: Tensor, shift: Tensor, log_scale: Tensor) -> Tensor:
    """The motion (..., D) of the transformed picture; the other arguments broadcast against its leading dimensions."""
    changed = motion.clone()
    changed[..., ROLL] = torch.remainder(motion[..., ROLL] + roll + math.pi, 2 * math.pi) - math.pi
    changed[..., TRANSLATION] = (matrix @ motion[..., TRANSLATION, None]).squeeze(-1) + shift
    changed[..., LOG_SCALE] = motion[..., LOG_SCALE] + log_scale
    return changed
