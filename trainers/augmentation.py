"""Small changes to pictures and speech that leave the emotion alone, drawn on the device from an explicit seed."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT, ZOOM, TURN = 0.15, 0.2, 0.2  # crop units, log scale, radians
BRIGHTNESS, CONTRAST, TINT = 0.15, 0.3, 0.1  # of the range of a pixel, log scale, of the range of a channel
GAIN, SPEED = 0.5, 0.12  # log scale; the speed moves the pitch as well, as another speaker would


def seeded_generator(*integers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that is a pure function of the integers, such as (seed, batch number, rank)."""
    seed = int(np.random.default_rng(list(integers)).integers(2**62))
    return torch.Generator(device).manual_seed(seed)


def augment_image(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Shift, zoom, turn and recolour pictures (B, 3, S, S) of [0, 255]; no mirroring, since contempt is one-sided."""
    size = len(image)

    def draw(spread: float, *shape: int) -> Tensor:
        noise = torch.rand(size, *shape, generator=generator, device=image.device)
        return (2 * noise - 1) * spread * strength

    angle, zoom = draw(TURN), draw(ZOOM).exp()
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin, draw(SHIFT)], -1), torch.stack([sin, cos, draw(SHIFT)], -1)], dim=1)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    pixels = F.grid_sample(image.float() / 255, grid.float(), padding_mode="reflection", align_corners=False)
    pixels = (pixels - 0.5) * draw(CONTRAST, 1, 1, 1).exp() + 0.5 + draw(BRIGHTNESS, 1, 1, 1) + draw(TINT, 3, 1, 1)
    return pixels.clamp(0, 1) * 255


def augment_speech(speech: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change gain, speed and start of speech (B, N); what runs over the end comes back at the start."""
    size, length = speech.shape
    gain, speed, start = torch.rand(3, size, 1, generator=generator, device=speech.device)
    gain, speed = ((2 * gain - 1) * GAIN * strength).exp(), ((2 * speed - 1) * SPEED * strength).exp()
    position = (torch.arange(length, device=speech.device) * speed + start * length) % length  # (B, N)
    before = position.long()
    share = position - before
    after = (before + 1) % length
    return gain * (speech.gather(1, before) * (1 - share) + speech.gather(1, after) * share)
