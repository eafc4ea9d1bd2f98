"""Speech and emotion to 3DMM motion (the "EAC" of arXiv:2305.02572).

    speech ─ log-mel ─ stem ─ transformer ─┬─ expression (K)         (or a pretrained encoder's features for log-mel)
    emotion, identity ─ adaptive norms ────┤
    noise z ─ sway ────────────────────────┴─ head pose (6)

Lips follow speech, so the expression is regressed. Head pose does not: it is a distribution, of which z picks a member.
The abstract names inputs and outputs only; the layers, and the pose as a small conditional VAE, are our own choices.

Shapes: B batch, T frames, N = 640 T samples, D = K + 6 values of motion, I identity coefficients, E emotion, Z noise,
C channels, F values of each of R features of speech a frame: M = 80 and 4 of log-mel.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .audio import Block, LogMel, MelStem
from .checkpoint import Exported
from .face_model import MIN_STD, POSE_DIM
from .ranges import number
from .speech_encoder import PretrainedSpeech, SpeechStem, read_config
from .timing import FPS

SHORTEST_WAVE = 0.5  # seconds, of the sway
LOG_VARIANCE = (-8, 4)  # of the noise: beyond, its exponential says nothing more
STEM_REACH = 2  # frames to either side that a token of speech is made of
SWAY_FRAMES = 60 * FPS  # of a sway that training looks at; its waves are bounded for ever


@dataclass
class AudioTo3DMMConfig:
    motion_dim: int = 0  # values of motion of the data set; filled in by the stage
    identity_dim: int = 0  # identity coefficients of the data set; filled in by the stage
    emotion_dim: int = 0  # width of the emotion space; filled in by the stage
    use_identity: bool = True  # False: all move alike; a few people would be known by heart by their coefficients
    num_mels: int = number(80, least=1)  # bands of the log-mel that is heard
    speech_encoder: str = ""  # local folder of a wav2vec 2.0, HuBERT or WavLM that is heard, frozen; empty: log-mel
    speech_encoder_config: dict[str, Any] = field(default_factory=dict)  # its config.json, filled in
    dim: int = number(128, least=1)  # width of the network
    layers: int = number(3, least=1)  # blocks of the network
    heads: int = number(4, least=1)  # attention heads; divides dim
    reach: int = number(12, least=1)  # frames to either side that one block attends to
    noise_dim: int = 16  # values of the noise that head movement is drawn from
    num_waves: int = 12  # waves that the sway of the head is made of
    longest_wave: float = number(6.0, above=0)  # seconds; for the shortest see SHORTEST_WAVE
    chunk_frames: int = number(250, least=1)  # of motion that `generate` makes at once

    def without_folder(self) -> "AudioTo3DMMConfig":
        """The same network without its speech encoder's folder: a checkpoint has to give the encoder's weights."""
        if not self.speech_encoder:
            return self
        return replace(self, speech_encoder="", speech_encoder_config=read_config(self.speech_encoder))


class Sway(nn.Module):
    """Head movement as a sum of slow waves whose amplitudes and phases are linear in z: z = 0 is the mean pose.

    Being linear, decoder and posterior are a probabilistic principal component analysis of pose in frequency space.
    """

    def __init__(self, config: AudioTo3DMMConfig) -> None:
        super().__init__()
        self.config = config
        num_features = 2 * config.num_waves + 1
        self.amplitude = nn.Linear(config.noise_dim, num_features * POSE_DIM, bias=False)
        self.posterior = nn.Linear(num_features * POSE_DIM, 2 * config.noise_dim)
        nn.init.normal_(self.amplitude.weight, std=0.05)

    def waves(self, start: Tensor, num_frames: int) -> Tensor:
        """Constant, sines and cosines of the frames from `start` (B,) on -> (B, T, 2 waves + 1)."""
        c = self.config
        places = torch.linspace(0, 1, c.num_waves, device=start.device)
        seconds = c.longest_wave * (SHORTEST_WAVE / c.longest_wave) ** places
        frames = start[:, None] + torch.arange(num_frames, device=start.device)  # (B, T)
        angles = 2 * torch.pi * frames[..., None] / (FPS * seconds)
        return torch.cat([torch.ones_like(angles[..., :1]), angles.sin(), angles.cos()], dim=-1)

    def forward(self, noise: Tensor, start: Tensor, num_frames: int) -> Tensor:
        """Noise (B, Z), first frames (B,) -> pose about the mean, normalised (B, T, 6)."""
        amplitude = rearrange(self.amplitude(noise), "b (w p) -> b w p", p=POSE_DIM)
        return self.waves(start, num_frames).to(amplitude.dtype) @ amplitude

    def encode(self, pose: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pose about the mean (B, T, 6) from frames `start` (B,) on -> mean and log variance of z (B, Z)."""
        waves = self.waves(start, pose.shape[1])
        spectrum = torch.einsum("btw,btp->bwp", waves, pose.float()) / pose.shape[1]
        mean, log_variance = self.posterior(spectrum.flatten(1)).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(*LOG_VARIANCE)


class AudioTo3DMM(Exported):
    """Speech, emotion and identity -> raw motion (B, T, D) at 25 frames a second."""

    kind = "motion"
    motion_mean: Tensor  # (D,) of the training data
    motion_std: Tensor

    def __init__(self, config: AudioTo3DMMConfig) -> None:
        super().__init__()
        folder, dim = config.speech_encoder, config.dim
        self.config = config = config.without_folder()
        self.listen: LogMel | PretrainedSpeech
        self.stem: MelStem | SpeechStem
        if config.speech_encoder_config:
            self.listen = PretrainedSpeech(config.speech_encoder_config, folder)
            self.stem = SpeechStem(self.listen.num_features, dim)
        else:
            self.listen, self.stem = LogMel(config.num_mels), MelStem(config.num_mels, dim)
        self.condition = nn.Sequential(
            nn.Linear(config.emotion_dim + config.identity_dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU()
        )
        self.blocks = nn.ModuleList(
            Block(dim=dim, heads=config.heads, condition_dim=dim, reach=config.reach) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.expression_head = nn.Linear(2 * dim, config.motion_dim - POSE_DIM)
        self.pose_head = nn.Linear(2 * dim, POSE_DIM)
        self.sway = Sway(config)
        self.register_buffer("motion_mean", torch.zeros(config.motion_dim))
        self.register_buffer("motion_std", torch.ones(config.motion_dim))

    @staticmethod
    def config_of(values: dict[str, Any]) -> AudioTo3DMMConfig:
        return AudioTo3DMMConfig(**values)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Mean and standard deviation (D,) of the motion of the training data."""
        self.motion_mean.copy_(mean)
        self.motion_std.copy_(std.clamp(min=MIN_STD))

    def normalise(self, motion: Tensor) -> Tensor:
        return (motion.float() - self.motion_mean) / self.motion_std

    def forward(
        self,
        speech: Tensor,
        emotion: Tensor,
        identity: Tensor,
        pose_noise: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Speech (B, N), emotion (B, E), identity (B, I), noise (B, Z) or None for the mean pose -> (B, T, D).

        start: see `add_sway`.
        """
        motion = self.decode(self.listen(speech), emotion, identity)
        return motion if pose_noise is None else self.add_sway(motion, pose_noise, start)

    def decode(self, features: Tensor, emotion: Tensor, identity: Tensor, keep: Tensor | None = None) -> Tensor:
        """The output of `listen` (B, F, R T) and the conditions -> motion with the mean pose (B, T, D).

        `keep` (B, C) multiplies the tokens of speech: the dropout of a training step, 0 or 1 / (1 - rate).
        """
        dtype = self.stem.enter.weight.dtype
        if not self.config.use_identity:
            identity = torch.zeros_like(identity)
        condition = self.condition(torch.cat([emotion, identity], dim=-1).to(dtype))  # (B, C)
        x = self.stem(features)  # (B, T, C)
        if keep is not None:
            x = x * keep[:, None]
        for block in self.blocks:
            x = block(x, condition)
        x = torch.cat([self.norm(x), condition[:, None].expand_as(x)], dim=-1)
        motion = torch.cat([self.expression_head(x), self.pose_head(x)], dim=-1).float()
        return motion * self.motion_std + self.motion_mean

    def add_sway(self, motion: Tensor, noise: Tensor, start: Tensor | None = None) -> Tensor:
        """Move the head of motion (B, T, D) as noise (B, Z) says.

        start: the frame (B,) of a long sway at which each clip begins; None for frame 0. Training draws it: a network
        that knew only the first few seconds of a sway would shake the head after them.
        """
        start = motion.new_zeros(len(motion)) if start is None else start
        sway = self.sway(noise.to(self.stem.enter.weight.dtype), start, motion.shape[1])
        pose = motion[..., -POSE_DIM:] + sway.float() * self.motion_std[-POSE_DIM:]
        return torch.cat([motion[..., :-POSE_DIM], pose], dim=-1)

    def infer_noise(self, motion: Tensor, mean_motion: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The posterior of z, mean and log variance (B, Z), of true motion about the mean pose of this network."""
        residual = (self.normalise(motion) - self.normalise(mean_motion))[..., -POSE_DIM:]
        return self.sway.encode(residual.detach(), motion.new_zeros(len(motion)) if start is None else start)

    @torch.no_grad()
    def generate(self, speech: Tensor, emotion: Tensor, identity: Tensor, seed: int | None = None) -> Tensor:
        """Motion (B, T, D) for speech (B, N), in chunks.

        A chunk gets as many features to either side as its frames can depend on. So the joined chunks equal one pass
        over the features of all of the speech, with no seam and no drift, and memory does not grow with the square of
        the length. Features of log-mel are exact at any length; a pretrained encoder makes them piece by piece, each
        with a limited context (speech_encoder.py). Features and motion are held whole.

        seed: picks one head movement; None keeps the head at its mean pose.
        """
        c, rate = self.config, self.listen.rate
        features = self.listen(speech)
        num_frames, context = features.shape[-1] // rate, c.layers * c.reach + STEM_REACH
        chunks = []
        for start in range(0, num_frames, c.chunk_frames):
            end = min(start + c.chunk_frames, num_frames)
            first, last = max(0, start - context), min(end + context, num_frames)
            heard = features[..., first * rate : last * rate]
            chunks.append(self.decode(heard, emotion, identity)[:, start - first : end - first])
        motion = torch.cat(chunks, dim=1)
        if seed is None:
            return motion
        noise = torch.randn(len(speech), c.noise_dim, generator=torch.Generator().manual_seed(seed))
        return self.add_sway(motion, noise.to(motion.device))
