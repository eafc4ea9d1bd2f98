"""Small changes to pictures and speech that leave the emotion alone, drawn on the device for each sample."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.full_precision import full_precision
from .engines.draws import Draws

SHIFT, ZOOM, TURN = 0.15, 0.2, 0.2  # crop units, log scale, radians
BRIGHTNESS, CONTRAST, TINT = 0.15, 0.3, 0.1  # of the range of a pixel, log scale, of the range of a channel
GAIN, SPEED = 0.5, 0.12  # log scale; the speed moves the pitch as well, as another speaker would
TRACT, TILT, ROOM = 0.15, 0.1, 0.35  # log scale of frequency, of the range of a log-mel: spectral slope, noise floor
BANDS_MASK, TIME_MASK = 0.2, 0.06  # largest share of the bands and of the time that is hidden


def augment_image(image: Tensor, strength: float, draws: Draws) -> Tensor:
    """Shift, zoom, turn and recolour pictures (B, 3, S, S) of [0, 255]; no mirroring, since contempt is one-sided."""

    def draw(spread: float, *shape: int) -> Tensor:
        return (2 * draws.uniform(*shape) - 1) * spread * strength

    angle, zoom = draw(TURN), draw(ZOOM).exp()
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin, draw(SHIFT)], -1), torch.stack([sin, cos, draw(SHIFT)], -1)], dim=1)
    with full_precision():
        grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
        pixels = F.grid_sample(image.float() / 255, grid, padding_mode="reflection", align_corners=False)
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


def augment_mel(mel: Tensor, strength: float, draws: Draws) -> Tensor:
    """Another vocal tract, microphone and noise floor for log-mel (B, M, T); a stretch of bands and of time is hidden.

    The time axis does not move, since lips follow it. After SpecAugment (Park et al. 2019) and vocal tract length
    perturbation (Jaitly & Hinton 2013); here both work on the log-mel.
    """
    _, bands, length = mel.shape
    tract, tilt, floor, band, bands_hidden, time, time_hidden = draws.uniform(7, 1).unbind(1)  # (B, 1) each
    line = torch.linspace(0, 1, bands, device=mel.device)  # (M,)
    source = (line * ((2 * tract - 1) * TRACT * strength).exp()).clamp(max=1) * (bands - 1)  # (B, M)
    before = source.long().clamp(max=bands - 2)
    share = (source - before)[:, :, None]
    index = before[:, :, None].expand(-1, -1, length)
    mel = mel.gather(1, index) * (1 - share) + mel.gather(1, index + 1) * share
    mel = mel + ((2 * tilt - 1) * TILT * strength * (2 * line - 1))[:, :, None]
    lowest = mel.flatten(1).amin(dim=1, keepdim=True)  # (B, 1)
    mel = mel.maximum((lowest + floor * ROOM * strength)[:, :, None])
    hidden = stretch(band, bands_hidden * BANDS_MASK * strength, bands)[:, :, None]  # (B, M, 1)
    hidden = hidden | stretch(time, time_hidden * TIME_MASK * strength, length)[:, None]
    return torch.where(hidden, mel.mean(dim=(1, 2), keepdim=True), mel)


def stretch(start: Tensor, share: Tensor, count: int) -> Tensor:
    """Which of `count` places lie in a stretch of that share of them: start, share (B, 1) -> bool (B, count)."""
    place = (torch.arange(count, device=start.device) + 0.5) / count
    first = start * (1 - share)
    return (place >= first) & (place < first + share)
