"""The emotion space (the "AME" of arXiv:2305.02572): text, images and speech meet in one space that derives from CLIP.

    text ─── CLIP text tower ──── adapter ─┐
    image ── CLIP image tower ─── adapter ─┼─ L2 norm ─ emotion (B, E)
    speech ─ log-mel, transformer, pooling ┘

The abstract says as much; the adapters, the audio encoder and all sizes are our own choices.
Shapes: B batch, E width of the space, S pixels, N samples of speech at 16 kHz.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .audio import AttentionPool, Block, LogMel, MelStem
from .checkpoint import Exported
from .clip import build_towers, top_blocks
from .full_precision import full_precision
from .kept_rows import KeptRows
from .ranges import number
from .sent import sent


@dataclass
class EmotionSpaceConfig:
    clip: str = "emohead-tiny"  # or any model name of open_clip
    pretrained: str = ""  # weights of the towers: a local file, or a tag to download; empty: random
    trainable: Literal["all", "adapters"] = "all"  # all, or adapters: CLIP's two towers are frozen
    trainable_blocks: int = 0  # with adapters: blocks at the top of each tower that learn
    towers: list[str] = field(default_factory=lambda: ["text", "image", "audio"])  # what this instance can encode
    embed_dim: int = 0  # that of CLIP, filled in
    image_crop: float = number(1.0, above=0, most=1)  # central share that the image tower sees: crops have a margin
    num_mels: int = number(80, least=1)  # bands of the log-mel that is heard
    audio_dim: int = number(96, least=1)  # width of the speech encoder
    audio_layers: int = number(3, least=1)  # blocks of the speech encoder
    audio_heads: int = number(4, least=1)  # attention heads of the speech encoder; divides audio_dim


class Adapter(nn.Module):
    """The layers that fine-tuning adds to a tower: a residual bottleneck that changes almost nothing at the start."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, max(16, dim // 4))
        self.up = nn.Linear(max(16, dim // 4), dim)
        nn.init.normal_(self.up.weight, std=0.01)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, E) -> (B, E)."""
        return x + self.up(F.gelu(self.down(x)))


class SpeechEncoder(nn.Module):
    """Speech (B, N) -> (B, E): how it is said, not the words."""

    def __init__(self, config: EmotionSpaceConfig) -> None:
        super().__init__()
        dim, heads = config.audio_dim, config.audio_heads
        self.mel = LogMel(config.num_mels)
        self.stem = MelStem(config.num_mels, dim)
        self.blocks = nn.ModuleList(Block(dim=dim, heads=heads) for _ in range(config.audio_layers))
        self.norm = nn.LayerNorm(dim)
        self.pool = AttentionPool(dim, heads)
        self.project = nn.Linear(dim, config.embed_dim)

    def forward(self, speech: Tensor, keep: Tensor | None = None) -> Tensor:
        """`keep` (B, C) multiplies the pooled features: the dropout of a training step, 0 or 1 / (1 - rate)."""
        x = self.stem(self.mel(speech))  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        x = self.pool(self.norm(x))
        return self.project(x if keep is None else x * keep)


class EmotionSpace(Exported):
    """Three encoders into one space of unit vectors (B, E)."""

    kind = "emotion"
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: EmotionSpaceConfig) -> None:
        super().__init__()
        self.tokenizer: Callable[[list[str]], Tensor] | None = None
        self.kept_tokens, self.kept_features = KeptRows(), KeptRows()
        self.config = config
        if {"text", "image"} & set(config.towers):
            self.config = config = self._add_clip_towers(config)
        if "audio" in config.towers:
            self.speech_encoder = SpeechEncoder(config)

    def _add_clip_towers(self, config: EmotionSpaceConfig) -> EmotionSpaceConfig:
        clip = build_towers(config.clip, config.pretrained)
        if "text" in config.towers:
            self.tokenizer = clip.tokenize
            self.text_tower, self.text_adapter = clip.text, Adapter(clip.embed_dim)
        if "image" in config.towers:
            self.image_size = clip.image_size
            self.image_tower, self.image_adapter = clip.image, Adapter(clip.embed_dim)
            self.register_buffer("image_mean", torch.tensor(clip.image_mean)[:, None, None])
            self.register_buffer("image_std", torch.tensor(clip.image_std)[:, None, None])
        if config.trainable == "adapters":
            for tower in self.frozen_towers():
                tower.requires_grad_(False)
                for block in top_blocks(tower, config.trainable_blocks):
                    block.requires_grad_(True)
        return replace(config, embed_dim=clip.embed_dim)

    @staticmethod
    def config_of(values: dict[str, Any]) -> EmotionSpaceConfig:
        """From an export, whose tensors are all there is to it: no pretrained file is read again."""
        return EmotionSpaceConfig(**values | {"pretrained": ""})

    def frozen_towers(self) -> list[nn.Module]:
        """The towers that stay as they were loaded, but for their trainable blocks."""
        names = [name for name in ("text_tower", "image_tower") if hasattr(self, name)]
        return [getattr(self, name) for name in names if self.config.trainable != "all"]

    def train(self, mode: bool = True) -> "EmotionSpace":
        super().train(mode)
        for tower in self.frozen_towers():  # no batch statistics, no dropout: frozen means frozen
            tower.eval()
        return self

    def encode_text(self, prompts: list[str]) -> Tensor:
        """Descriptions -> (B, E)."""
        return F.normalize(self.text_adapter(self.text_features(prompts)).float(), dim=-1)

    def text_features(self, prompts: list[str]) -> Tensor:
        """What the text tower makes of descriptions -> (B, E); of a frozen tower each is found once, in float32."""
        parameters = list(self.text_tower.parameters())
        sharded = hasattr(parameters[0], "ds_id")  # by ZeRO-3: then all ranks have to ask at once
        if sharded or any(p.requires_grad for p in parameters):
            return self.text_tower(self.tokenize(prompts))
        state = (parameters[0].device, parameters[0].dtype, sum(p._version for p in parameters))
        with full_precision():
            return self.kept_features.get(prompts, lambda prompt: self.text_tower(self.tokenize([prompt]))[0], state)

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Descriptions -> tokens (B, L) on the device of the text tower."""
        tokenizer = self.tokenizer
        assert tokenizer is not None, "built without a text tower"
        tokens = self.kept_tokens.get(prompts, lambda prompt: tokenizer([prompt])[0])
        return sent(tokens, self.text_adapter.up.weight.device)

    def encode_image(self, image: Tensor) -> Tensor:
        """Pixels (B, 3, S, S) in [0, 255], uint8 or float, any S -> (B, E)."""
        features = self.image_tower(self.tower_input(image))
        return F.normalize(self.image_adapter(features).float(), dim=-1)

    def tower_input(self, image: Tensor) -> Tensor:
        """The pixels of `encode_image` as the image tower sees them: cropped, resized, normalised."""
        pixels = central(image, self.config.image_crop).to(self.image_mean.dtype) / 255
        if pixels.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        return (pixels - self.image_mean) / self.image_std

    def encode_speech(self, speech: Tensor, keep: Tensor | None = None) -> Tensor:
        """Speech (B, N) in [-1, 1] -> (B, E). For `keep` see SpeechEncoder."""
        return F.normalize(self.speech_encoder(speech, keep).float(), dim=-1)


def central(image: Tensor, share: float) -> Tensor:
    """The central share of a picture (B, 3, S, S), as a view."""
    side = round(image.shape[-1] * share)
    start = (image.shape[-1] - side) // 2
    return image[..., start : start + side, start : start + side]


def blend(emotions: Tensor, weights: Tensor) -> Tensor:
    """A mixture of emotions (N, E) with weights (N,), as one unit vector (1, E). Negative weights take away."""
    return F.normalize((weights[:, None] * emotions).sum(dim=0, keepdim=True), dim=-1)


def with_intensity(emotion: Tensor, neutral: Tensor, intensity: float) -> Tensor:
    """Move an emotion (B, E) away from the neutral one (1, E), or towards it: 0 is neutral, 1 leaves it as it is."""
    return F.normalize(neutral + intensity * (emotion - neutral), dim=-1)
