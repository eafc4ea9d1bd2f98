"""Stage 1, `emohead train emotion`: text, images and speech into one emotion space.

Each pair of the three is drawn together by a symmetric contrastive loss (InfoNCE) over the global batch, in which every
clip of the same emotion counts as a match. The abstract of arXiv:2305.02572 speaks of aligning with CLIP; the losses
are our own choice.

Shapes: B clips of the global batch, E width of the space.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ..datamodules.batch import Batch
from ..datamodules.emotion_words import sentences_without
from ..datamodules.module import DataFacts
from ..datamodules.prompts import label_prompts
from ..datamodules.sample import EMOTIONS
from ..models.emotion import EmotionSpace, EmotionSpaceConfig
from ..models.errors import UserError
from ..models.ranges import number
from ..models.sent import sent
from .augmentation import augment_image, augment_speech
from .contrast import ALL, contrastive_loss, described, match_weights
from .engines.ranks import all_objects, all_rows, own_rows
from .metrics import emotion_retrieval
from .optimizer import decay_groups
from .stage import Stage, StageConfig

MIN_TEMPERATURE = 0.02  # with a sharper softmax single pairs dominate


@dataclass
class EmotionLossConfig:
    text_image_loss: float = 1.0  # weight of the contrast of texts and images
    text_audio_loss: float = 1.0  # weight of the contrast of texts and voices
    image_audio_loss: float = 0.5  # weight of the contrast of images and voices
    prior_loss: float = 0.0  # keeps what the text tower knew of emotion words, seen or not; for pretrained towers


@dataclass
class EmotionStageConfig(StageConfig):
    network: EmotionSpaceConfig = field(default_factory=EmotionSpaceConfig)
    loss: EmotionLossConfig = field(default_factory=EmotionLossConfig)
    temperature: float = number(0.1, above=0)  # at the start; learned from there
    other_level: float = number(0.5, most=1)  # how much of a match the same emotion at another level is
    tower_lr: float = 1.0  # learning rate of CLIP's own blocks, as a share; pretrained ones bear about 0.02
    augmentation: float = 1.0  # strength, 0 for none
    speech_dropout: float = number(0.1, most=0.99)  # share of the pooled features of speech


class Contrast(nn.Module):
    """The contrastive losses and their learned temperature, a network of its own so that ZeRO-3 can shard it."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor([math.log(temperature)]))  # (1,): DeepSpeed has no scalars

    def forward(
        self, text: Tensor, image: Tensor, audio: Tensor, described: Tensor, weights: Tensor, rows: slice = ALL
    ) -> dict[str, Tensor]:
        """Embeddings (B, E) of the global batch and `weights` (rows, B) -> three losses.

        described: which clips (B,) have a text. The others take part in the contrast of images and voices only, where
        each matches itself: so voices learn from what a pretrained image tower sees in films without labels.
        """
        temperature = self.log_temperature.float().exp().clamp(min=MIN_TEMPERATURE)
        return {
            "text_image_loss": contrastive_loss(text, image, weights, temperature, rows, counted=described),
            "text_audio_loss": contrastive_loss(text, audio, weights, temperature, rows, counted=described),
            "image_audio_loss": contrastive_loss(image, audio, weights, temperature, rows),
        }


class EmotionStage(Stage[EmotionStageConfig]):
    """Trains EmotionSpace. With trainer.accumulate > 1 the contrast is over each part of the global batch."""

    name = "emotion"
    config_type = EmotionStageConfig
    kind = "emotion"
    monitor = "-val/loss"
    figures = ("loss", "text_image_loss", "text_audio_loss", "image_audio_loss", "text_image_top1", "text_audio_top1")
    network: EmotionSpace
    original: Tensor | None  # (S, E)

    @classmethod
    def build(cls, config: EmotionStageConfig, facts: DataFacts, given: dict[str, Any]) -> dict[str, Any]:
        return {"network": EmotionSpace(config.network)}

    @classmethod
    def check(cls, config: EmotionStageConfig) -> None:
        check_towers(config.network, "network")

    def __init__(self, config: EmotionStageConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.network = self.assemble(facts, {})["network"]
        self.contrast = Contrast(config.temperature)
        self.bank = sentences_without(config.data.holdout_emotions)
        original = self.original_text() if config.loss.prior_loss else None
        self.register_buffer("original", original, persistent=False)
        self.validated: list[dict[str, Tensor]] = []  # embeddings of the validation clips seen so far

    def trained(self) -> dict[str, nn.Module]:
        return {"network": nn.ModuleDict({"contrast": self.contrast, "space": self.network})}

    def configure_optimizers(self) -> list[Optimizer]:
        """Blocks of a pretrained CLIP have their own learning rate and no decay, which would pull them towards zero."""
        c = self.config.optimizer
        (both,) = self.trained().values()
        groups = decay_groups(both, c.weight_decay)
        towers = nn.ModuleList([self.network.text_tower, self.network.image_tower])
        blocks = {p: None for p in towers.parameters() if p.requires_grad}
        if self.config.tower_lr != 1 and blocks:
            for group in groups:
                group["params"] = [p for p in group["params"] if p not in blocks]
            groups.append({"params": list(blocks), "weight_decay": 0.0, "lr": c.lr * self.config.tower_lr})
        return [torch.optim.AdamW(groups, lr=c.lr, betas=(c.beta1, c.beta2), fused=True)]

    @torch.no_grad()
    def original_text(self) -> Tensor:
        """The bank (S, E) as the original text tower embeds it. Called before any training, also at a restart."""
        tokens = self.network.tokenize(self.bank)
        tower = self.network.text_tower.eval()
        found = torch.cat([tower(part) for part in tokens.split(64)])
        self.network.train(self.training)
        return found

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        image, speech, keep = batch["image"], batch["speech"], None
        if self.training:
            draws, strength = self.draws(batch, device=image.device), self.config.augmentation
            if strength:
                image, speech = augment_image(image, strength, draws), augment_speech(speech, strength, draws)
            if self.config.speech_dropout:
                rate = self.config.speech_dropout
                keep = (draws.uniform(self.network.config.audio_dim) >= rate).float() / (1 - rate)
        text = self.network.encode_text(batch["prompt"])
        image, audio = self.network.encode_image(image), self.network.encode_speech(speech, keep)
        losses = self.pair_losses(batch, text, image, audio)
        if self.original is not None:
            losses["prior_loss"] = self.prior_loss(self.draws(batch, 1).integers(len(self.bank)))
        return losses

    def pair_losses(self, batch: Batch, text: Tensor, image: Tensor, audio: Tensor) -> dict[str, Tensor]:
        """The losses of embeddings (B, E) of this rank's share of the batch, in contrast to those of all ranks."""
        rows = own_rows(len(text))
        own = (text, image, audio, described(batch), batch["emotion"], batch["level"])
        text, image, audio, told, emotion, level = all_rows(*own)
        weights = match_weights(emotion, level, self.config.other_level, rows)
        return self.contrast(text, image, audio, told, weights, rows)

    def prior_loss(self, picks: Tensor) -> Tensor:
        """How far the similarities among some sentences of the bank, by number (B,), have drifted from CLIP's."""
        assert self.original is not None
        now = self.network.encode_text([self.bank[pick] for pick in picks.tolist()])
        rows = own_rows(len(now))
        now, picks = all_rows(now, sent(picks, now.device))
        return relation_loss(now, self.original[picks], rows)

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """No figures yet: a contrast needs the whole batch, and this rank has only a share."""
        found = {
            "text": self.network.encode_text(batch["prompt"]),
            "image": self.network.encode_image(batch["image"]),
            "audio": self.network.encode_speech(batch["speech"]),
        }
        found |= {"emotion": batch["emotion"], "level": batch["level"], "described": described(batch)}
        self.validated.append({name: value.cpu() for name, value in found.items()})
        return {}

    def metrics(self) -> dict[str, float]:
        """The contrast within each batch, averaged over clips, and the retrieval over all of them."""
        validated, self.validated = all_objects(self.validated), []
        batches = [
            {k: torch.cat([share[k] for share in shares]) for k in shares[0]} for shares in zip(*validated, strict=True)
        ]
        return self.contrasts(batches) | self.retrieval(batches)

    def contrasts(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        """Each loss as the mean over those clips of all batches that take part in it, and their total."""
        sums, counts = defaultdict[str, float](float), defaultdict[str, int](int)
        for batch in batches:
            told, clips = int(batch["described"].sum()), len(batch["described"])
            for name, value in self.contrast_of(batch).items():
                count = told if "text" in name else clips
                sums[name] += float(value) * count
                counts[name] += count
        terms = {name: torch.tensor(total / max(1, counts[name])) for name, total in sums.items()}
        return {name: float(value) for name, value in (terms | {"loss": self.total(terms)}).items()}

    @torch.no_grad()
    def contrast_of(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of one whole batch of embeddings."""
        batch = {name: value.to(self.device) for name, value in batch.items()}
        weights = match_weights(batch["emotion"], batch["level"], self.config.other_level)
        return self.contrast(batch["text"], batch["image"], batch["audio"], batch["described"], weights)

    @torch.no_grad()
    def retrieval(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        """Top-1 of 8: from one plain description of each emotion to images and to speech."""
        labels = torch.arange(len(EMOTIONS))
        text = self.network.encode_text(label_prompts()).cpu()
        emotion = torch.cat([batch["emotion"] for batch in batches]).cpu()
        scores = {}
        for name in ("image", "audio"):
            gallery = torch.cat([batch[name] for batch in batches]).cpu()
            scores[f"text_{name}_top1"] = emotion_retrieval(text, labels, gallery, emotion, seed=self.config.seed)
        return scores


def check_towers(network: EmotionSpaceConfig, where: str) -> None:
    """Raises UserError if CLIP's towers begin at random and are frozen: adapters have nothing to learn from noise.

    where: the key of the network.
    """
    if not network.pretrained and network.trainable == "adapters":
        problem = f"is empty, and {where}.trainable=adapters freezes the towers: they would stay random"
        remedy = f"{where}.pretrained=FILE or a tag of open_clip, or {where}.trainable=all"
        raise UserError(f"{where}.pretrained", problem, remedy)


def relation_loss(a: Tensor, b: Tensor, rows: slice = ALL) -> Tensor:
    """How far the cosine similarities of `rows` to all of a (B, E) are from those among b (B, F)."""
    a, b = F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)
    return F.mse_loss(a[rows] @ a.T, b[rows] @ b.T)
