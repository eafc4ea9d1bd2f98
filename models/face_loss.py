"""The losses of the face stage, each a function of what the generator gives and what the frame should be.

Shapes: B batch, S frame size, s a level's size; pictures are float in [-1, 1] unless named uint8.
"""

import pickle
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .emotion import EmotionSpace
from .errors import UserError
from .face import FaceOutput
from .face_model import EYES, MOUTH
from .flow import landmark_maps, pixel_centres
from .full_precision import full_precision
from .torchvision_ops import declare_torchvision_ops

EYE_MARGIN, MOUTH_MARGIN = 0.07, 0.06  # crop units around the landmarks' bounding box
VGG_TAPS = (3, 8, 17, 26)  # relu1_2, relu2_2, relu3_4, relu4_4


class FeatureNetwork(Protocol):
    """A frozen network whose maps the perceptual loss compares."""

    def features(self, image: Tensor) -> list[Tensor]:
        """Image (B, 3, S, S) in [-1, 1] -> maps, finest first."""
        ...


def shrink(image: Tensor, size: int) -> Tensor:
    """Area average: (B, C, S, S) -> (B, C, size, size)."""
    return image if image.shape[-1] == size else F.adaptive_avg_pool2d(image, size)


def pyramid_loss(output: FaceOutput, target: Tensor) -> Tensor:
    """Mean absolute difference at every level, so that coarse levels learn too; the finest counts half of all."""
    terms = [(image - shrink(target, image.shape[-1])).abs().mean() for image in output.pyramid]
    return 0.5 * terms[-1] + 0.5 * torch.stack(terms[:-1]).mean()


def warp_loss(output: FaceOutput, target: Tensor) -> Tensor:
    """Warp consistency: the portrait moved by each level's flow looks like the target where the mask shows it."""
    terms = []
    for warped, mask in zip(output.warped, output.masks, strict=True):
        difference = (warped - shrink(target, warped.shape[-1])).abs()
        terms.append((difference * mask.detach()).mean())
    return torch.stack(terms).mean()


def boxes_mask(landmarks: Tensor, size: int) -> Tensor:
    """Ones in the boxes around mouth and eyes of the landmarks (B, 68, 2) -> (B, 1, size, size)."""
    centres = pixel_centres(size, landmarks.device)
    inside = torch.zeros(landmarks.shape[0], size, size, dtype=torch.bool, device=landmarks.device)
    for part, margin in ((MOUTH, MOUTH_MARGIN), (EYES[0], EYE_MARGIN), (EYES[1], EYE_MARGIN)):
        low, high = landmarks[:, part].amin(1) - margin, landmarks[:, part].amax(1) + margin  # (B, 2)
        within = (centres >= low[..., None]) & (centres <= high[..., None])  # (B, 2, size)
        inside |= within[:, 1, :, None] & within[:, 0, None, :]
    return inside[:, None].float()


def region_loss(frame: Tensor, target: Tensor, landmarks: Tensor) -> Tensor:
    """Mean absolute difference in the boxes of mouth and eyes: few per cent of the picture, where viewers look."""
    mask = boxes_mask(landmarks, frame.shape[-1])
    difference = ((frame - target).abs() * mask).sum((1, 2, 3))
    return (difference / (3 * mask.sum((1, 2, 3)) + 1)).mean()


def places_loss(places: Tensor, points: Tensor) -> Tensor:
    """Cross entropy of places, log probabilities (B, P, s, s), against bumps at the true points (B, P, 2).

    Learns faster than the distance of mean positions.
    """
    wanted = landmark_maps(points, places.shape[-1], 1.6 / places.shape[-1])
    share = wanted / wanted.sum((2, 3), keepdim=True).clamp(min=1e-6)  # a point outside the picture has none
    return -(share * places).sum((2, 3)).mean()


def perceptual_loss(network: FeatureNetwork, frame: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of frozen features, each tap in units of its own mean magnitude."""
    with torch.no_grad():
        wanted = network.features(target)
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(network.features(frame), wanted, strict=True)]
    terms = [((a - b).abs().mean(1) / (b.abs().mean(1) + 1e-3)).mean() for a, b in pairs]
    return torch.stack(terms).mean()


def generator_adversarial_loss(logits: Tensor) -> Tensor:
    """Non-saturating: -log sigmoid(D(G))."""
    return F.softplus(-logits).mean()


def discriminator_adversarial_loss(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def gradient_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """R1: half the squared gradient of real frames' logits, in float32 (its second derivative needs the digits)."""
    with full_precision():
        real = real.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return 0.5 * gradient.square().sum((1, 2, 3)).mean()


class VGGFeatures(nn.Module):
    """VGG19 from a local state dict of torchvision's `vgg19` (`features.0.weight`, …)."""

    mean: Tensor  # (3, 1, 1), of pixels in [0, 1]
    std: Tensor

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        declare_torchvision_ops()
        from torchvision.models import vgg19

        self.layers = vgg19(weights=None).features[: VGG_TAPS[-1] + 1]
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.layers.load_state_dict({name: state[f"features.{name}"] for name in self.layers.state_dict()})
        except (OSError, KeyError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"perceptual.vgg={path}", f"no state dict of torchvision's vgg19 ({reason})") from None
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])
        self.eval().requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        x = ((image + 1) / 2 - self.mean) / self.std
        maps = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in VGG_TAPS:
                maps.append(x)
        return maps


class EmotionFeatures(nn.Module):
    """The image tower of a trained emotion space: what stage 1 sees in a face."""

    def __init__(self, space: EmotionSpace) -> None:
        super().__init__()
        self.space = space.eval().requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        pixels = self.space.tower_input((image + 1) * 127.5)
        tower: Any = self.space.image_tower  # open_clip's, any of which gives its maps
        return tower.forward_intermediates(pixels, intermediates_only=True)["image_intermediates"]
