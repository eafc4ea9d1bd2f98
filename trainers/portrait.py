"""What a face generator is taught of a portrait, as a teacher (face.py) and as a student (distill.py).

Shapes: B clips, S frame size, W frames of the motion window, D values of motion, I identity coefficients.
"""

import torch
from torch import Tensor

from ..datamodules.batch import Batch
from ..models.face import FaceGenerator, PortraitFeatures
from ..models.face_loss import places_loss


def portrait_losses(network: FaceGenerator, both: PortraitFeatures, batch: Batch) -> dict[str, Tensor]:
    """Losses of the coefficients in both pictures, and of the face's points by these and by the encoder's maps.

    both: features of the portraits, then of the targets (2 B, 3, S, S): their coefficients are known alike.
    """
    window = batch["target_motion"]
    identity = torch.cat([batch["portrait_identity"], batch["identity"]])
    motion = torch.cat([batch["portrait_motion"], window[:, window.shape[1] // 2]])
    points = network.points(identity, motion)
    posed = network.points(both.identity, both.motion)
    moved = (network.normalise(both.motion) - network.normalise(motion)).abs().mean()
    return {
        "places_loss": places_loss(both.places, points),
        "points_loss": (posed - points).abs().mean(),
        "coefficients_loss": moved + (both.identity - identity).abs().mean(),
    }


def of_portraits(both: PortraitFeatures) -> PortraitFeatures:
    """Of portraits, then targets: the portraits. Coefficients are those found, as at inference, but are not taught."""
    identity, motion = first_half(both.identity).detach(), first_half(both.motion).detach()
    maps = [first_half(part) for part in both.maps]
    return PortraitFeatures(first_half(both.image), maps, first_half(both.places), identity, motion)


def first_half(part: Tensor) -> Tensor:
    if part.dim() == 4:  # the gradient's channels then lie last, as those that it is added to
        return part.permute(0, 2, 3, 1)[: len(part) // 2].permute(0, 3, 1, 2)
    return part[: len(part) // 2]
