"""The style-based face generator: hierarchical flow and residual faces.

The abstract of arXiv:2305.02572 names the two ideas and no more; layers, sizes and geometry are our own choices.
The geometry: vertices of the face model, moved from the portrait's motion to the wanted one, give a coarse flow (as in
first-order motion models); the levels only learn what is left of it.

    portrait ─ encoder ─┬─ features, one map a level ───────────────────────────┐ warped by the flow of the level
                        └─ landmarks ─ identity, motion of the portrait ─┐      │
    motion window (27 frames) ───────────────────────────────────────────┴─ style w ─► levels 8, 16, … size ─► frame
                              └─ landmarks of the target ─ coarse flow ───────► (residual flow, mask, residual image)

Shapes: B batch, S frame size, W frames of the motion window, D values of motion a frame, I identity coefficients,
P points (vertices of the face model: its 68 landmarks and some more), C channels, E style.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoint import Exported
from .errors import UserError
from .face_model import MIN_STD, POSE_DIM, FaceModel
from .face_model_fit import IRISES, NUM_TRACKED
from .flow import join, landmark_flow, landmark_maps, resize, warp
from .full_precision import full_precision
from .portrait_encoder import SLOPE, PortraitEncoder
from .ranges import number

NUM_LANDMARKS = 68
COARSEST = 8  # pixels of the first level
MASK_BIAS = 3.0  # logit of the untrained mask: show the warped portrait
MAP_WIDTH = 0.04  # crop units, but at least two pixels: of the bump that shows a level where a point is
FLOW_SHOWN, FLOW_STEP = 4, 0.1  # factors: of the flow as a level sees it, and of the change that a level makes to it
UNTRAINED = 1e-3  # standard deviation of initial weights, so small that an untrained level changes almost nothing


@dataclass
class FaceGeneratorConfig:
    size: int = number(128, least=8)  # pixels a side of a frame
    channels: list[int] = field(default_factory=lambda: [96, 96, 64, 32, 16])  # of the levels 8, 16, 32, … size
    style_dim: int = number(128, least=1)  # values by which motion and identity steer the layers
    motion_dim: int = 0  # values of motion of the data set; filled in by the stage
    identity_dim: int = 0  # identity coefficients of the data set; filled in by the stage
    num_points: int = NUM_LANDMARKS  # vertices of the face model that give the coarse flow, the 68 landmarks first
    landmark_level: int = 32  # pixels of the map in which the encoder finds the portrait's landmarks
    coarse_flow: int = 32  # pixels of the flow that the landmarks give
    geometry_max: int = 64  # levels above it see no landmark maps
    hierarchy: bool = True  # false, to compare with: only the coarsest level refines the flow, the others take it over

    def __post_init__(self) -> None:
        if self.size != COARSEST * 2 ** (len(self.channels) - 1):
            needed = f"{COARSEST} * 2^(levels - 1) = {COARSEST * 2 ** (len(self.channels) - 1)}"
            raise UserError(
                "network.size",
                f"{self.size} does not fit {len(self.channels)} channels",
                f"make it {needed}",
            )


class PortraitFeatures(NamedTuple):
    """All that is computed once for a portrait."""

    image: Tensor  # (B, 3, S, S) in [-1, 1]
    maps: list[Tensor]  # (B, C_i, s_i, s_i), coarsest first
    places: Tensor  # (B, P, s, s) log probabilities of the points' places
    identity: Tensor  # (B, I) predicted
    motion: Tensor  # (B, D) predicted, raw units

    def repeat(self, frames: int) -> "PortraitFeatures":
        """The same portrait for several frames: a batch of 1 becomes a batch of `frames`, without a copy."""
        image, maps, *rest = self
        wide = [feature.float().expand(frames, *feature.shape[1:]) for feature in maps]  # what warping reads
        return PortraitFeatures(
            image.expand(frames, -1, -1, -1), wide, *(part.expand(frames, *part.shape[1:]) for part in rest)
        )


class FaceOutput(NamedTuple):
    """The frame and how it came about; the lists run from the coarsest level to the finest."""

    frame: Tensor  # (B, 3, S, S), [-1, 1] but for overshoot
    flows: list[Tensor]  # (B, 2, s, s), see flow.py
    masks: list[Tensor]  # (B, 1, s, s): share of the warped portrait
    warped: list[Tensor]  # (B, 3, s, s): the portrait, moved
    pyramid: list[Tensor]  # (B, 3, s, s): the frame as the level knows it


def to_float(image: Tensor) -> Tensor:
    """uint8 [0, 255] -> float [-1, 1]."""
    return image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image


def to_bytes(frames: Tensor) -> Tensor:
    """Frames in [-1, 1] -> uint8, what lies outside clipped."""
    return ((frames.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_pictures(frames: Tensor) -> np.ndarray:
    """Frames (..., 3, H, W), in [-1, 1] or uint8 -> uint8 RGB (..., H, W, 3), as pictures and videos are written."""
    pixels = frames if frames.dtype == torch.uint8 else to_bytes(frames)
    return pixels.movedim(-3, -1).cpu().numpy()


class StyledConv(nn.Module):
    """A 3x3 convolution whose output channels are scaled and shifted by the style.

    Feature modulation instead of StyleGAN2's modulated weights: one kernel serves the whole batch and each map is
    touched once, which is what counts on a CPU.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, a=SLOPE)
        self.modulate = nn.Linear(style_dim, 2 * outputs)
        nn.init.normal_(self.modulate.weight, std=0.3 / style_dim**0.5)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = self.conv(x)
        scale, shift = self.modulate(style).to(x.dtype)[..., None, None].chunk(2, dim=1)
        return F.leaky_relu_(torch.addcmul(shift, x, 1 + scale), SLOPE)


class StyleEncoder(nn.Module):
    """Target window, portrait motion and identity -> style w.

    Strided convolutions see the window; the centre frame, which is the one drawn, has its own way.
    """

    def __init__(self, config: FaceGeneratorConfig) -> None:
        super().__init__()
        wide = config.style_dim
        self.window = nn.Sequential(
            nn.Conv1d(config.motion_dim, wide, 3, stride=3),
            nn.LeakyReLU(SLOPE),
            nn.Conv1d(wide, wide, 3, stride=3),
            nn.LeakyReLU(SLOPE),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        )
        self.static = nn.Linear(2 * config.motion_dim + config.identity_dim, wide)
        self.mix = nn.Sequential(nn.LeakyReLU(SLOPE), nn.Linear(wide, wide), nn.LeakyReLU(SLOPE), nn.Linear(wide, wide))

    def forward(self, window: Tensor, portrait_motion: Tensor, identity: Tensor) -> Tensor:
        """Normalised window (B, W, D), portrait motion (B, D), identity (B, I) -> (B, E)."""
        centre = window[:, window.shape[1] // 2]
        static = self.static(torch.cat([centre, portrait_motion, identity], dim=1))
        return self.mix(static + self.window(window.transpose(1, 2)))


class Level(nn.Module):
    """One resolution: refine flow and mask, warp the portrait's features with them, add to the residual image."""

    def __init__(self, size: int, inputs: int, channels: int, config: FaceGeneratorConfig) -> None:
        super().__init__()
        self.size = size
        self.refines_flow = config.hierarchy or size == COARSEST
        self.map_width = max(MAP_WIDTH, 2 / size)
        self.geometry = nn.Conv2d(config.num_points, inputs, 1, bias=False) if size <= config.geometry_max else None
        self.look = StyledConv(inputs + channels + 3, channels, config.style_dim)
        self.refine = nn.Conv2d(channels, 3, 3, padding=1)
        self.paint = StyledConv(2 * channels, channels, config.style_dim)
        self.to_image = nn.Conv2d(channels, 3, 1)
        for head in (self.refine, self.to_image):
            nn.init.normal_(head.weight, std=UNTRAINED)
            assert head.bias is not None
            nn.init.zeros_(head.bias)

    def forward(
        self, state: Tensor, feature: Tensor, flow: Tensor, mask: Tensor, landmarks: Tensor, style: Tensor
    ) -> tuple[Tensor, ...]:
        """All at this resolution; the mask as a logit -> state, flow, mask, residual image."""
        if self.geometry is not None:
            state = state + self.geometry(landmark_maps(landmarks, self.size, self.map_width).to(state.dtype))
        hints = torch.cat([flow * FLOW_SHOWN, mask.sigmoid()], dim=1).to(state.dtype)
        feature = feature.float()  # once for both
        seen = self.look(join(state, warp(feature, flow).to(state.dtype), hints), style)
        change = self.refine(seen).float()
        flow, mask = flow + FLOW_STEP * self.refines_flow * change[:, :2], mask + change[:, 2:]
        shown = warp(feature, flow, mask.sigmoid())
        state = self.paint(join(seen, shown.to(seen.dtype)), style)
        return state, flow, mask, self.to_image(state).float()


class FaceGenerator(Exported):
    """Portrait + motion -> frame. `encode_portrait` once, then `forward` for any number of frames."""

    kind = "face"
    motion_mean: Tensor  # (D,)
    motion_std: Tensor  # (D,)

    def __init__(self, config: FaceGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        num = config.num_points
        identity, expression = (np.zeros((n, num, 3)) for n in (config.identity_dim, config.motion_dim - POSE_DIM))
        self.face = FaceModel(np.zeros((num, 3)), identity, expression, np.arange(NUM_LANDMARKS))
        self.register_buffer("motion_mean", torch.zeros(config.motion_dim))
        self.register_buffer("motion_std", torch.ones(config.motion_dim))
        self.encoder = PortraitEncoder(
            config.channels, config.landmark_level, num, config.identity_dim + config.motion_dim
        )
        self.style = StyleEncoder(config)
        self.start = nn.Parameter(torch.randn(1, config.channels[0], COARSEST, COARSEST) * 0.1)
        inputs = (config.channels[0], *config.channels[:-1])
        self.levels = nn.ModuleList(
            Level(COARSEST * 2**i, a, b, config) for i, (a, b) in enumerate(zip(inputs, config.channels, strict=True))
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @staticmethod
    def config_of(values: dict[str, Any]) -> FaceGeneratorConfig:
        """Earlier exports name a `window`; it does not matter, since all were trained with MOTION_WINDOW."""
        return FaceGeneratorConfig(**{name: value for name, value in values.items() if name != "window"})

    def adopt(self, face_model: FaceModel, motion_mean: Tensor, motion_std: Tensor) -> None:
        """Take over a data set's face model (landmarks, irises if it has any, vertices between) and motion statistics.

        They are buffers, so they travel with the weights.
        """
        first, count = face_model.landmark_index.tolist(), face_model.mean.shape[0]
        if count == NUM_TRACKED:
            first += [iris.start for iris in IRISES]
        others = sorted(set(range(count)) - set(first))
        chosen = np.linspace(0, len(others) - 1, self.config.num_points - len(first)).round().astype(int)
        index = first + [others[i] for i in chosen]
        self.face.mean.copy_(face_model.mean[index])
        self.face.identity_basis.copy_(face_model.identity_basis[:, index])
        self.face.expression_basis.copy_(face_model.expression_basis[:, index])
        self.motion_mean.copy_(motion_mean)
        self.motion_std.copy_(motion_std.clamp(min=MIN_STD))
        zero = torch.zeros(self.config.identity_dim + self.config.motion_dim)
        self.encoder.adopt(self._points_of(zero), torch.func.jacrev(self._points_of)(zero).flatten(0, 1))

    def _points_of(self, coefficients: Tensor) -> Tensor:
        """Identity and normalised motion of one face (I + D,) -> its points (P, 2)."""
        identity, motion = self._split(coefficients[None])
        return self.points(identity, motion)[0]

    def _split(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """(B, I + D) -> identity (B, I) and motion (B, D) in raw units."""
        identity, motion = coefficients.split([self.config.identity_dim, self.config.motion_dim], dim=1)
        return identity, motion * self.motion_std + self.motion_mean

    def normalise(self, motion: Tensor) -> Tensor:
        return (motion - self.motion_mean) / self.motion_std

    def points(self, identity: Tensor, motion: Tensor) -> Tensor:
        """Identity (B, I) and raw motion (B, D) -> points (B, P, 2) in crop units, always in float32."""
        with full_precision():
            vertices = self.face.vertices(identity.float(), motion[:, :-POSE_DIM].float())
            return self.face.project(vertices, motion[:, -POSE_DIM:].float())

    def encode_portrait(self, portrait: Tensor) -> PortraitFeatures:
        """Portrait (B, 3, S, S), uint8 or float in [-1, 1] -> its features, identity and motion."""
        image = to_float(portrait)
        maps, places, coefficients = self.encoder(image)
        return PortraitFeatures(image, maps, places, *self._split(coefficients))

    def draw(self, features: PortraitFeatures, windows: Tensor, batch_size: int = 8) -> Iterator[Tensor]:
        """One portrait, moved as each motion window (N, W, D) says -> frames (n, 3, S, S) in [-1, 1], in order.

        `to_bytes` makes uint8 frames of them to show, `to_pictures` pictures to write.
        """
        for part in windows.split(batch_size):
            yield self(features.repeat(len(part)), part).frame.float().clamp(-1, 1)

    def forward(self, features: PortraitFeatures, motion_window: Tensor) -> FaceOutput:
        """Features of B portraits and raw motion (B, W, D) centred on the frames wanted -> FaceOutput."""
        source = self.points(features.identity, features.motion)
        target = self.points(features.identity, motion_window[:, motion_window.shape[1] // 2])
        coarse = landmark_flow(source, target, self.config.coarse_flow)
        style = self.style(self.normalise(motion_window), self.normalise(features.motion), features.identity)
        batch = motion_window.shape[0]
        state = self.start.expand(batch, -1, -1, -1).to(style.dtype)
        flow = torch.zeros_like(coarse)
        mask = torch.full_like(coarse[:, :1], MASK_BIAS)
        residual = torch.zeros_like(features.image[:, :, :COARSEST, :COARSEST])
        flows, masks, moved, pyramid = [], [], [], []
        for level, feature in zip(self.levels, features.maps, strict=True):
            assert isinstance(level, Level)
            size = level.size
            prior = resize(coarse, size) if size >= coarse.shape[-1] else F.adaptive_avg_pool2d(coarse, size)
            state, residual = resize(state, size), resize(residual, size)
            state, total, mask, painted = level(
                state, feature, prior + resize(flow, size), resize(mask, size), target, style
            )
            flow, residual = total - prior, residual + painted  # the prior is upsampled once, from its own resolution
            image = features.image if size == self.config.size else F.adaptive_avg_pool2d(features.image, size)
            flows.append(total)
            masks.append(mask.sigmoid())
            moved.append(warp(image, total))
            pyramid.append(moved[-1] * masks[-1] + residual)
        return FaceOutput(pyramid[-1], flows, masks, moved, pyramid)
