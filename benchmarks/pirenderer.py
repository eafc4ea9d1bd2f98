"""Layers of the shapes of PIRenderer at 256 pixels (Ren et al. 2021), as a yardstick of speed; random weights.

Widths, resolutions and kinds of layers are those of its public configuration (face.yaml), as are
its 61.6 GMAC a frame, 6.6 of them before the picture is edited. The code is our own. A step here has an L1 loss alone,
which favours it: its own has VGG-19 at four scales as well.
"""

import itertools

import torch
import torch.nn.functional as F
from emohead.models.flow import identity_grid
from torch import Tensor, nn

COEFFICIENTS, WINDOW, STYLE = 73, 27, 256
SLOPE = 0.1


class Adain(nn.Module):
    """Instance norm whose scale and shift follow from the motion's descriptor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.style = nn.Sequential(nn.Linear(STYLE, 128), nn.ReLU(), nn.Linear(128, 2 * channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style)[..., None, None].chunk(2, dim=1)
        return self.norm(x) * (1 + scale) + shift


class Styled(nn.Module):
    """Adain, leaky ReLU, a layer."""

    def __init__(self, inputs: int, layer: nn.Module) -> None:
        super().__init__()
        self.norm, self.layer = Adain(inputs), layer

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return self.layer(F.leaky_relu(self.norm(x, style), SLOPE))


def up(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)


def convolution(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
    """Convolution, norm over the whole map, leaky ReLU."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    return nn.Sequential(layer, nn.GroupNorm(1, outputs), nn.LeakyReLU(SLOPE))


class Warp(nn.Module):
    """Portrait (B, 3, 256, 256) -> a flow of 64 x 64."""

    def __init__(self) -> None:
        super().__init__()
        widths = [32, 64, 128, 256, 256, 256]
        self.enter = nn.Conv2d(3, widths[0], 7, padding=3)
        self.down = nn.ModuleList(
            nn.ModuleList([Styled(a, nn.Conv2d(a, b, 4, 2, 1)), Styled(b, nn.Conv2d(b, b, 3, 1, 1))])
            for a, b in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            nn.ModuleList([Styled(a, nn.Conv2d(a, b, 3, 1, 1)), Styled(b, up(b, b)), Styled(a, up(a, b))])
            for a, b in ((256, 256), (512, 256), (512, 128))
        )
        self.leave = nn.Sequential(nn.GroupNorm(1, 256), nn.LeakyReLU(SLOPE), nn.Conv2d(256, 2, 7, padding=3))

    def forward(self, portrait: Tensor, style: Tensor) -> Tensor:
        maps = [self.enter(portrait)]
        for first, second in self.down:
            maps.append(second(first(maps[-1], style), style))
        x = maps.pop()
        for first, second, shortcut in self.up:
            x = torch.cat([second(first(x, style), style) + shortcut(x, style), maps.pop()], dim=1)
        return self.leave(x)


class Block(nn.Module):
    """A residual of two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(Adain(channels) for _ in range(2))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        inner = F.leaky_relu(self.norms[0](self.convolutions[0](x), style), SLOPE)
        return x + self.norms[1](self.convolutions[1](inner), style)


class Edit(nn.Module):
    """Portrait and warped portrait (B, 6, 256, 256) -> frame (B, 3, 256, 256)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [64, 128, 256, 256]
        self.enter = convolution(6, widths[0], 7)
        levels = list(itertools.pairwise(widths))  # channels above and below, finest first
        self.down = nn.ModuleList(convolution(a, b) for a, b in levels)
        self.blocks = nn.ModuleList(nn.ModuleList([Block(b), Block(b)]) for _, b in reversed(levels))
        self.up = nn.ModuleList(convolution(b, a) for a, b in reversed(levels))
        self.jump = nn.ModuleList(convolution(a, a) for a, _ in reversed(levels))
        self.leave = nn.Conv2d(widths[0], 3, 7, padding=3)

    def forward(self, both: Tensor, style: Tensor) -> Tensor:
        maps = [self.enter(both)]
        for down in self.down:
            maps.append(F.avg_pool2d(down(maps[-1]), 2))
        x = maps.pop()
        for blocks, rise, jump in zip(self.blocks, self.up, self.jump, strict=True):
            for block in blocks:
                x = block(x, style)
            x = rise(F.interpolate(x, scale_factor=2)) + jump(maps.pop())
        return self.leave(x).tanh()


class PIRendererShapes(nn.Module):
    """Portrait (B, 3, 256, 256) in [-1, 1] and motion (B, 73, 27) -> frame (B, 3, 256, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(COEFFICIENTS, STYLE, 7)
        self.mapping = nn.ModuleList(nn.Conv1d(STYLE, STYLE, 3, dilation=3) for _ in range(3))
        self.warp, self.edit = Warp(), Edit()

    def forward(self, portrait: Tensor, motion: Tensor) -> Tensor:
        x = self.first(motion)
        for layer in self.mapping:
            x = layer(F.leaky_relu(x, SLOPE)) + x[..., 3:-3]
        style = x.mean(dim=-1)
        flow = F.interpolate(self.warp(portrait, style).float(), portrait.shape[-2:], mode="bilinear")
        grid = identity_grid(portrait.shape[-1], portrait.device) + flow
        warped = F.grid_sample(portrait, grid.permute(0, 2, 3, 1), align_corners=False)
        return self.edit(torch.cat([portrait, warped], dim=1), style)
