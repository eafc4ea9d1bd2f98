"""Small changes to pictures and speech that leave the emotion alone, drawn on the device for each sample."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .draws import Draws

SHIFT, ZOOM, TURN = 0.15, 0.2, 0.2  # crop units, log scale, radians
BRIGHTNESS, CONTRAST, TINT = 0.15, 0.3, 0.1  # of the range of a pixel, log scale, of the range of a channel
GAIN, SPEED = 0.5, 0.12  # log scale; the speed moves the pitch as well, as another speaker would


def augment_image(image: Tensor, strength: float, draws: Draws) -> Tensor:
    """Shift, zoom, turn and recolour pictures (B, 3, S, S) of [0, 255]; no mirroring, since contempt is one-sided."""

    def draw(spread: float, *shape: int) -> Tensor:
        return (2 * draws.uniform(*shape) - 1) * spread * strength

    angle, zoom = draw(TURN), draw(ZOOM).exp()
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin, draw(SHIFT)], -1), torch.stack([sin, cos, draw(SHIFT)], -1)], dim=1)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    pixels = F.grid_sample(image.float() / 255, grid.float(), padding_mode="reflection", align_corners=False)
    pixels = (pixels - 0.5) * draw(CONTRAST, 1, 1, 1).exp() + 0.5 + draw(BRIGHTNESS, 1, 1, 1) + draw(TINT, 3, 1, 1)
    return pixels.clamp(0, 1) * 255


def augment_speech(speech: Tensor, strength: float, draws: Draws) -> Tensor:
    """Change gain, speed and start of speech (B, N); what runs over the end comes back at the start."""
    length = speech.shape[1]
    gain, speed, start = draws.uniform(3, 1).unbind(1)  # (B, 1) each
    gain, speed = ((2 * gain - 1) * GAIN * strength).exp(), ((2 * speed - 1) * SPEED * strength).exp()
    position = (torch.arange(length, device=speech.device) * speed + start * length) % length  # (B, N)
    before = position.long()
    share = position - before
    after = (before + 1) % length
    return gain * (speech.gather(1, before) * (1 - share) + speech.gather(1, after) * share)
