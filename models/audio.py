"""From speech to tokens: log-mel, a convolutional stem and the transformer blocks of both speech networks.

Shapes: B batch, T frames of video (25 a second), N = T * 640 samples, M mel bands, C channels, H heads.
Alignment: mel frame 4t is centred on sample t * 640; token t sees mel frames 4t - 4 to 4t + 7, centred on 4t + 1.5.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .full_precision import full_precision
from .timing import SAMPLE_RATE, SAMPLES_PER_FRAME

HOP = 160  # samples a mel frame: 100 mel frames a second
MELS_PER_FRAME = SAMPLES_PER_FRAME // HOP  # 4 mel frames a frame of video
FFT = 1024  # twice the window: 80 bands need bins finer than 31 Hz at the low end
WINDOW = 512  # 32 ms
LOWEST_HZ = 50.0
FLOOR = 1e-6  # power, about -60 dB: below the quantisation noise of what people record


def mel_filters(num_mels: int) -> Tensor:
    """Triangular filters evenly spaced on the HTK mel scale -> (FFT // 2 + 1, M)."""
    edges_mel = torch.linspace(_hz_to_mel(LOWEST_HZ), _hz_to_mel(SAMPLE_RATE / 2), num_mels + 2)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)  # Hz
    bins = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)


def _hz_to_mel(hz: float) -> float:
    return float(2595 * torch.log10(torch.tensor(1 + hz / 700)))


class LogMel(nn.Module):
    """Speech (B, N) in [-1, 1] -> log-mel (B, M, 4T), about 0 to 2; silence fills N up to whole frames of video."""

    rate = MELS_PER_FRAME
    window: Tensor
    filters: Tensor

    def __init__(self, num_mels: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", mel_filters(num_mels), persistent=False)

    @full_precision()
    def forward(self, speech: Tensor) -> Tensor:
        speech = F.pad(speech.float(), (FFT // 2, FFT // 2 + -speech.shape[-1] % SAMPLES_PER_FRAME))
        spectrum = torch.stft(speech, FFT, HOP, WINDOW, self.window.float(), center=False, return_complex=True)
        spectrum = spectrum[..., :-1]  # the last frame lies past the end
        mel = self.filters.float().T @ (spectrum.real.square() + spectrum.imag.square())  # abs() would take roots
        return (mel.clamp(min=FLOOR).log10() + 6) / 4


class MelStem(nn.Module):
    """Log-mel (B, M, 4T) -> tokens (B, T, C). Each halving is centred on the middle of its pair of inputs."""

    def __init__(self, num_mels: int, dim: int) -> None:
        super().__init__()
        self.enter = nn.Conv1d(num_mels, dim, kernel_size=3, padding=1)
        self.halve = nn.ModuleList(nn.Conv1d(dim, dim, kernel_size=4, stride=2, padding=1) for _ in range(2))
        self.norm = nn.LayerNorm(dim)

    def forward(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.enter(mel.to(self.enter.weight.dtype)))
        for conv in self.halve:
            x = F.gelu(conv(x))
        return self.norm(rearrange(x, "b c t -> b t c"))


def rotate_by_position(x: Tensor) -> Tensor:
    """Rotary positions: x (B, H, T, C) with its pairs of channels turned by angles that grow with t."""
    frequencies = 1000.0 ** -torch.linspace(0, 1, x.shape[-1] // 2, device=x.device)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * frequencies  # (T, C / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Block(nn.Module):
    """A transformer block with rotary positions. A condition (B, `condition_dim`), if any, shifts, scales and gates it.

    `reach`: how many tokens to either side a token attends to; None for all of them.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        condition_dim: int = 0,
        reach: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.reach = heads, reach
        plain = condition_dim == 0
        self.attention_norm = nn.LayerNorm(dim, elementwise_affine=plain)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim, elementwise_affine=plain)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.modulation = None if plain else nn.Linear(condition_dim, 6 * dim)
        if self.modulation is not None:
            nn.init.normal_(self.modulation.weight, std=0.01)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Tokens (B, T, C) -> (B, T, C)."""
        if self.modulation is None:
            x = x + self.attend(self.attention_norm(x))
            return x + self.mlp(self.mlp_norm(x))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + (1 + gate_a) * self.attend(self.attention_norm(x) * (1 + scale_a) + shift_a)
        return x + (1 + gate_m) * self.mlp(self.mlp_norm(x) * (1 + scale_m) + shift_m)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b t (three h c) -> three b h t c", three=3, h=self.heads)
        mask = None
        if self.reach is not None:
            t = torch.arange(x.shape[1], device=x.device)
            mask = (t[:, None] - t).abs() <= self.reach  # (T, T)
        out = F.scaled_dot_product_attention(rotate_by_position(q), rotate_by_position(k), v, attn_mask=mask)
        return self.attention_out(rearrange(out, "b h t c -> b t (h c)"))


class AttentionPool(nn.Module):
    """Tokens (B, T, C) -> one vector (B, C): each head takes its own weighted mean over time."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, heads)
        self.value = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.score(x).softmax(dim=1)  # (B, T, H)
        value = rearrange(self.value(x), "b t (h c) -> b t h c", h=weight.shape[-1])
        return rearrange((weight[..., None] * value).sum(dim=1), "b h c -> b (h c)")
