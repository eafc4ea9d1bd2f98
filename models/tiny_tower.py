"""The image tower of "emohead-tiny" and of the student: a plain convolutional network that learns in a minute of CPU.

A CLIP of open_clip may take its image tower from timm; this is one more of timm's models. Its last layer sees where in
the face something is, which open_clip's own small ResNet and ViT are slow to learn.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

NAME = "emohead_tiny_tower"
IMAGE_SIZE = 64
WIDTHS = (24, 48, 96, 96)  # each halves the resolution: a 4 x 4 map is left


class TinyTower(nn.Module):
    """Normalised pixels (B, 3, 64, 64) -> (B, E)."""

    def __init__(self, num_classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        inputs = 3
        for width in widths:
            second = convolution(width, width) if inputs > 3 else ()
            stages.append(nn.Sequential(*convolution(inputs, width, stride=2), *second))
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs * (IMAGE_SIZE // 2 ** len(widths)) ** 2, num_classes)
        self.default_cfg = {"input_size": (3, IMAGE_SIZE, IMAGE_SIZE)}  # which timm's callers look at

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).flatten(1))

    def forward_intermediates(self, x: Tensor, **_: Any) -> list[Tensor]:
        """The maps of every stage, finest first: what a perceptual loss compares."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def convolution(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU()


def emohead_tiny_tower(pretrained: bool = False, num_classes: int = 64, **_: Any) -> TinyTower:
    """The entry point that timm knows; the name is the model's."""
    assert not pretrained
    return TinyTower(num_classes)


def register() -> None:
    """Make it known to timm, once."""
    import timm  # not at the top: a talker has this tower too, and needs no timm

    if not timm.is_model(NAME):
        timm.models.register_model(emohead_tiny_tower)
