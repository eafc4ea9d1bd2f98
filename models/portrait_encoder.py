"""The part of the face generator that sees the portrait only: feature maps, and the fit of the face model to it.

Inference then needs no face tracker. The fit is a ridge regression of the linearised face model on points found in
the picture. A second look, at the places where the fit puts the points, corrects it. The geometry is known, so it need
not be learned.

Shapes: B batch, S frame size, s a level's size, P points (vertices of the face model), I identity coefficients,
D values of motion, C channels.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .flow import pixel_centres, resize, sample
from .full_precision import full_precision

SLOPE = 0.2
POINT_NOISE = 0.015  # crop units: how far a found point is trusted against a spread of 1 in every coefficient
SEARCH_RADIUS = 0.1  # crop units around a point's mean position in which it is looked for first
SEEN = 8  # channels of a map that a second look reads at each point
LOOKS = 2


class ResidualDown(nn.Module):
    """Two 3x3 convolutions and a 1x1 shortcut, half the resolution: (B, C, s, s) -> (B, C', s / 2, s / 2).

    `norm` is for the encoder, which learns faster with it; a discriminator must not mix the frames of a batch.
    """

    def __init__(self, inputs: int, outputs: int, *, norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(F.leaky_relu_(self.norms[0](self.first(x)), SLOPE))
        return F.leaky_relu_((self.norms[1](hidden) + self.shortcut(F.avg_pool2d(x, 2))).mul_(0.7), SLOPE)


class LookAgain(nn.Module):
    """Corrects coefficients: reads the maps where these put the face (a cascade, as Xiong & De la Torre 2013)."""

    def __init__(self, channels: list[int], num_points: int, num_coefficients: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(count, SEEN, 1) for count in channels)
        enter = nn.Linear(len(channels) * SEEN * num_points + num_coefficients, 256)
        leave = nn.Linear(256, num_coefficients)
        nn.init.normal_(leave.weight, std=1e-3)
        self.correct = nn.Sequential(enter, nn.LeakyReLU(SLOPE), leave)

    def forward(self, maps: list[Tensor], points: Tensor, coefficients: Tensor) -> Tensor:
        """Maps (B, C_i, s_i, s_i), points (B, P, 2) in crop units -> corrected coefficients (B, I + D)."""
        seen = [sample(reduce(m), points).flatten(1) for reduce, m in zip(self.reduce, maps, strict=True)]
        return coefficients + self.correct(torch.cat([*seen, coefficients], dim=1)).float()


class PortraitEncoder(nn.Module):
    """A portrait -> feature maps of every level, places of its points, identity and normalised motion."""

    mean_points: Tensor  # (P, 2) crop units, of the mean motion
    jacobian: Tensor  # (2 P, I + D): how points move with the coefficients there
    fit: Tensor  # (I + D, 2 P): offsets of points -> coefficients
    log_prior: Tensor  # (P, s * s)

    def __init__(self, channels: list[int], landmark_level: int, num_points: int, num_coefficients: int) -> None:
        super().__init__()
        fine_first = channels[::-1]
        self.stem = nn.Conv2d(3, fine_first[0], 3, padding=1)
        self.down = nn.ModuleList(ResidualDown(a, b, norm=True) for a, b in pairwise(fine_first))
        self.landmark_level = landmark_level
        self.index = (landmark_level // 8).bit_length() - 1  # of its map, coarsest first
        found = channels[self.index]
        self.context = nn.Conv2d(channels[0], found, 1)
        self.find = nn.Sequential(
            nn.Conv2d(found, 2 * found, 5, padding=2),
            nn.BatchNorm2d(2 * found),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * found, num_points, 1),
        )
        looked_at = channels[self.index : self.index + 2]
        self.looks = nn.ModuleList(LookAgain(looked_at, num_points, num_coefficients) for _ in range(LOOKS))
        self.register_buffer("mean_points", torch.zeros(num_points, 2))
        self.register_buffer("jacobian", torch.zeros(2 * num_points, num_coefficients))
        self.register_buffer("fit", torch.zeros(num_coefficients, 2 * num_points))
        self.register_buffer("log_prior", torch.zeros(num_points, landmark_level**2))

    def adopt(self, mean_points: Tensor, jacobian: Tensor) -> None:
        """Take over the mean places of points (P, 2) and how they move with each coefficient (2 P, I + D)."""
        self.mean_points.copy_(mean_points)
        self.jacobian.copy_(jacobian)
        gram = jacobian.T @ jacobian + POINT_NOISE**2 * torch.eye(jacobian.shape[1])
        self.fit.copy_(torch.linalg.solve(gram, jacobian.T))
        centres = pixel_centres(self.landmark_level)
        square = (centres - mean_points[..., None]).square()  # (P, 2, s)
        distance = square[:, 1, :, None] + square[:, 0, None, :]
        self.log_prior.copy_((-0.5 * distance / SEARCH_RADIUS**2).flatten(1))

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Image (B, 3, S, S) -> maps (coarsest first), places of the points, coefficients (B, I + D).

        Places are log probabilities (B, P, s, s); the motion among the coefficients is normalised.
        """
        maps = [F.leaky_relu_(self.stem(image), SLOPE)]
        for block in self.down:
            maps.append(block(maps[-1]))
        maps.reverse()
        places = self.find_points(maps)
        with full_precision():
            coefficients = (expected_points(places) - self.mean_points).flatten(1) @ self.fit.T
        for look in self.looks:
            with full_precision():
                points = self.mean_points + (coefficients.detach() @ self.jacobian.T).unflatten(1, (-1, 2))
            coefficients = look(maps[self.index : self.index + 2], points, coefficients)
        return maps, places, coefficients

    def find_points(self, maps: list[Tensor]) -> Tensor:
        """The places of the points, as log probabilities over the map of `landmark_level` -> (B, P, s, s)."""
        size, seen = self.landmark_level, maps[self.index]
        scores = self.find(F.leaky_relu(seen + resize(self.context(maps[0]), size), SLOPE)).float().flatten(2)
        return (scores + self.log_prior).log_softmax(-1).unflatten(2, (size, size))


def expected_points(places: Tensor) -> Tensor:
    """Log probabilities (B, P, s, s) -> mean positions (B, P, 2) in crop units."""
    probability, centres = places.exp(), pixel_centres(places.shape[-1], places.device)
    return torch.stack([probability.sum(2) @ centres, probability.sum(3) @ centres], dim=-1)
