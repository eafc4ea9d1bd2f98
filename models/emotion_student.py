"""The student of the emotion space: text, image and speech -> the teacher's embedding, with no CLIP tower at run time.

Shapes: B items, E embedding, L words, S pixels a side, N samples of speech.
"""

import re
import zlib
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .emotion import EmotionSpace, EmotionSpaceConfig, SpeechEncoder, central
from .ranges import number
from .sent import sent
from .tiny_tower import IMAGE_SIZE, WIDTHS, TinyTower

MODALITIES = ("text", "image", "audio")  # in which an emotion can be given
MAX_WORDS = 48
WORD = re.compile(r"[^\W_]+")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures that CLIP was trained on (Radford et al. 2021)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class TextStudentConfig:
    num_buckets: int = number(4096, least=1)  # that words and their letter trigrams are hashed into
    width: int = number(96, least=1)  # width of the text encoder
    layers: int = number(1, least=1)  # blocks of the text encoder
    heads: int = number(4, least=1)  # attention heads of the text encoder; divides width


@dataclass
class ImageStudentConfig:
    widths: list[int] = field(default_factory=lambda: list(WIDTHS))  # channels of the image encoder, level by level
    crop: float = number(0.0, most=1)  # central share of the picture that is looked at; 0: the teacher's


@dataclass
class EmotionStudentConfig:
    embed_dim: int = 0  # 0: the teacher's
    text: TextStudentConfig = field(default_factory=TextStudentConfig)
    image: ImageStudentConfig = field(default_factory=ImageStudentConfig)
    audio_dim: int = number(64, least=1)  # width of the speech encoder
    audio_layers: int = number(2, least=1)  # blocks of the speech encoder
    audio_heads: int = number(4, least=1)  # attention heads of the speech encoder; divides audio_dim


def subword_buckets(word: str, num_buckets: int) -> list[int]:
    """A word and its letter trigrams as hash buckets, so that unseen word forms land near seen ones.

    The scheme of fastText (Bojanowski et al. 2017, "Enriching Word Vectors with Subword Information"), with CRC-32.
    """
    marked = f"<{word}>"
    pieces = [marked] + [marked[i : i + 3] for i in range(len(marked) - 2)]
    return [zlib.crc32(piece.encode()) % num_buckets for piece in pieces]


class TextStudent(nn.Module):
    """Hashed subwords -> a small transformer over words -> E."""

    def __init__(self, config: TextStudentConfig, embed_dim: int) -> None:
        super().__init__()
        self.num_buckets = config.num_buckets
        self.subwords = nn.EmbeddingBag(config.num_buckets, config.width, mode="mean")
        self.positions = nn.Parameter(torch.randn(MAX_WORDS, config.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            4 * config.width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.transformer = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.out = nn.Linear(config.width, embed_dim)

    def forward(self, texts: list[str]) -> Tensor:
        words = [WORD.findall(text.lower())[:MAX_WORDS] or [""] for text in texts]
        buckets = [subword_buckets(word, self.num_buckets) for sentence in words for word in sentence]
        device = self.positions.device
        flat = sent(torch.tensor([bucket for word in buckets for bucket in word]), device)
        lengths = sent(torch.tensor([0] + [len(word) for word in buckets[:-1]]), device)
        embedded = self.subwords(flat, lengths.cumsum(0))  # (all words, width)
        sentences = torch.split(embedded, [len(sentence) for sentence in words])
        x = nn.utils.rnn.pad_sequence(list(sentences), batch_first=True)  # (B, L, width)
        counts = sent(torch.tensor([len(sentence) for sentence in words]), device)
        padding = torch.arange(x.shape[1], device=device) >= counts[:, None]  # (B, L)
        x = self.transformer(x + self.positions[: x.shape[1]], src_key_padding_mask=padding)
        pooled = x.masked_fill(padding[..., None], 0).sum(1) / counts[:, None]
        return self.out(pooled)


class ImageStudent(nn.Module):
    """A small convolutional network: uint8 (B, 3, H, W) -> E. It may start from a teacher that has the same one."""

    mean: Tensor  # (3, 1, 1), of pixels in [0, 1]
    std: Tensor

    def __init__(self, config: ImageStudentConfig, embed_dim: int) -> None:
        super().__init__()
        assert config.crop > 0
        self.crop = config.crop
        self.trunk = TinyTower(embed_dim, config.widths)
        self.register_buffer("mean", torch.tensor(CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = central(images, self.crop).float() / 255
        x = F.interpolate(x, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True, align_corners=False)
        return self.trunk((x - self.mean) / self.std)


class EmotionStudent(nn.Module):
    """Same calls as EmotionSpace, without its towers."""

    def __init__(self, config: EmotionStudentConfig) -> None:
        super().__init__()
        assert config.embed_dim > 0
        self.config = config
        self.text = TextStudent(config.text, config.embed_dim)
        self.image = ImageStudent(config.image, config.embed_dim)
        self.speech = SpeechEncoder(
            EmotionSpaceConfig(
                embed_dim=config.embed_dim,
                audio_dim=config.audio_dim,
                audio_layers=config.audio_layers,
                audio_heads=config.audio_heads,
            )
        )

    def encode_text(self, texts: list[str]) -> Tensor:
        """Sentences -> (B, E), L2-normalised."""
        return F.normalize(self.text(texts).float(), dim=-1)

    def encode_image(self, images: Tensor) -> Tensor:
        """Face crops uint8 (B, 3, H, W) -> (B, E), L2-normalised."""
        return F.normalize(self.image(images).float(), dim=-1)

    def encode_speech(self, speech: Tensor) -> Tensor:
        """Speech (B, N) in [-1, 1] at 16 kHz -> (B, E), L2-normalised."""
        return F.normalize(self.speech(speech).float(), dim=-1)


EmotionEncoder = EmotionSpace | EmotionStudent  # both have encode_text, encode_image, encode_speech
