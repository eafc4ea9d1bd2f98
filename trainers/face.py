"""Stage 3: portrait + motion -> frames, with an adversary. See models/face.py for the network."""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..datamodules.batch import Batch
from ..datamodules.config import nearest_batch_sizes
from ..datamodules.module import DataFacts
from ..models.discriminator import Discriminator, DiscriminatorConfig
from ..models.emotion import EmotionSpace
from ..models.face import FaceGenerator, FaceGeneratorConfig, FaceOutput, to_float, to_pictures
from ..models.face_loss import (
    EmotionFeatures,
    FeatureNetwork,
    VGGFeatures,
    discriminator_adversarial_loss,
    generator_adversarial_loss,
    gradient_penalty,
    perceptual_loss,
    pyramid_loss,
    region_loss,
    warp_loss,
)
from ..models.ranges import number
from .face_augmentation import FaceAugmentationConfig, augmented
from .frozen import Frozen
from .metrics import psnr, sharpness
from .optimizer import OptimizerConfig
from .portrait import of_portraits, portrait_losses
from .stage import Caution, Film, Stage, StageConfig, Start

PREVIEWED = 6  # pairs in a picture of samples/
BLUR = 2.0  # dB that `score` takes for each factor of two in the energy of fine detail
MAX_POINTS = 128  # vertices that give the coarse flow; beyond it a face model is thinned out


@dataclass
class FaceLossConfig:
    """Weights of the generator's terms."""

    pyramid_loss: float = 10.0  # difference from the true frame at every level
    region_loss: float = 2.0  # difference in the boxes of mouth and eyes
    warp_loss: float = 2.0  # difference of the warped portrait where it is shown
    places_loss: float = 1.0  # points that the encoder finds in a picture, cross entropy
    points_loss: float = 20.0  # points that follow from the encoder's coefficients
    coefficients_loss: float = 1.0  # coefficients that the encoder reads from a picture
    perceptual_loss: float = 1.0  # features of a frozen network; used if `perceptual` names one
    adversarial_loss: float = 0.1  # what the discriminator holds against a frame; 0: there is none


@dataclass
class AdversaryConfig:
    start: int = 10_000  # steps before the discriminator takes part; it then warms up as the generator did
    lr: float = number(2e-4, above=0)  # learning rate of the discriminator
    r1: float = 1.0  # weight of the gradient penalty (gamma)
    r1_every: int = number(16, least=1)  # steps between two penalties, each counting that many times


@dataclass
class PerceptualConfig:
    """The frozen network of the perceptual loss: the first of the two that is given."""

    vgg: str = ""  # state dict of torchvision's vgg19
    emotion: str = ""  # emotion.safetensors of stage 1


@dataclass
class FaceStageConfig(StageConfig):
    network: FaceGeneratorConfig = field(default_factory=FaceGeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: FaceLossConfig = field(default_factory=FaceLossConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=2e-3, weight_decay=0.0, beta1=0.0, beta2=0.99)
    )
    augment: FaceAugmentationConfig = field(default_factory=FaceAugmentationConfig)
    ema_decay: float = number(0.999, most=1)  # of the moving average of the weights, which is exported


@dataclass
class Perceptual(Frozen):
    network: FeatureNetwork | None


class FaceStage(Stage[FaceStageConfig]):
    """Trains FaceGenerator; its moving average is exported."""

    name = "face"
    config_type = FaceStageConfig
    starts_from = (Start("perceptual.emotion", "emotion", needed=False),)
    weights = ("perceptual.vgg",)
    kind = "face"
    monitor = "val/score"
    figures = ("psnr", "copy_psnr", "psnr_gain", "sharpness", "score", "region_loss", "points_error")
    network: FaceGenerator
    average: FaceGenerator
    discriminator: Discriminator

    @classmethod
    def build(cls, config: FaceStageConfig, facts: DataFacts, given: dict[str, Any]) -> dict[str, Any]:
        num_points = min(facts.face_model.mean.shape[0], MAX_POINTS)
        sized = replace(config.network, motion_dim=facts.motion_dim, identity_dim=facts.identity_dim)
        network = FaceGenerator(replace(sized, num_points=num_points))
        discriminator = Discriminator(replace(config.discriminator, size=config.network.size))
        average = copy.deepcopy(network).requires_grad_(False)
        return {"network": network, "discriminator": discriminator, "average": average}

    @classmethod
    def frame_size(cls, config: FaceStageConfig, given: dict[str, Any]) -> int:
        return config.network.size

    @classmethod
    def cautions(cls, config: FaceStageConfig) -> list[Caution]:
        """The discriminator compares the clips of a group: a part that holds no whole groups gets smaller ones."""
        c, group = config.trainer, config.discriminator.group
        adversarial = config.loss.adversarial_loss > 0 and config.adversary.start < c.max_steps
        parts = c.nodes * c.devices * c.accumulate
        size = config.data.batch_size // parts
        if not adversarial or group < 2 or size % group == 0:
            return []
        problem = f"each part has {size} clips, no multiple of discriminator.group={group}: groups become smaller"
        return [Caution("batch", problem, nearest_batch_sizes(config.data.batch_size, parts * group))]

    def __init__(self, config: FaceStageConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.network, self.discriminator, self.average = self.assemble(facts, {}).values()
        for network in (self.network, self.average):
            network.adopt(facts.face_model, torch.as_tensor(facts.motion_mean), torch.as_tensor(facts.motion_std))
        self.discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.perceptual = Perceptual(self._feature_network())

    def _feature_network(self) -> FeatureNetwork | None:
        c = self.config.perceptual
        if c.vgg:
            return VGGFeatures(c.vgg)
        if c.emotion:
            return EmotionFeatures(EmotionSpace.rebuild(self.load_given()["emotion"], towers=["image"]))
        return None

    def on_fit_start(self) -> None:
        self.perceptual.to(self.device)

    @property
    def adversarial(self) -> bool:
        return self.config.loss.adversarial_loss > 0 and self.num_batches >= self.config.adversary.start

    def trained(self) -> dict[str, nn.Module]:
        return {"network": self.network, "discriminator": self.discriminator}

    def saved(self) -> dict[str, nn.Module]:
        return self.trained() | {"average": self.average}

    def lr_scale(self, name: str) -> float:
        """The discriminator warms up when it starts: its optimizer has no state then, and the rate is at its top."""
        scale, warmup_steps = super().lr_scale(name), self.config.optimizer.warmup_steps
        if name != "discriminator" or not warmup_steps:
            return scale
        taken = max(0, self.num_batches - self.config.adversary.start)
        return scale * min(1.0, (taken + 1) / warmup_steps)

    def clip_norm(self, name: str) -> float:
        """The discriminator's gradient stays as it is, as StyleGAN2's: cut down, its lazy penalty would weigh less."""
        return math.inf if name == "discriminator" else super().clip_norm(name)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.begin_step()
        changed, fakes = [], []

        # Gmain: all generator terms in one pass; the discriminator only judges.
        self.discriminator.requires_grad_(False)
        for part in self.parts(batch):
            part = augmented(part, self.config.augment, self.draws(part, device=self.device))
            with self.autocast():
                losses, output = self._generator_losses(part, part["target"])
                total = self.total(losses)
            self.log_part(losses | {"loss": total})
            self.backpropagate("network", total)
            changed.append(part["target"])
            fakes.append(output.frame.detach())
        self.update("network")
        self._update_average()

        self.discriminator.requires_grad_(True)
        if self.adversarial:
            self._train_discriminator(batch, changed, fakes)

    def _train_discriminator(self, batch: Batch, reals: list[Tensor], fakes: list[Tensor]) -> None:
        # Dmain: the same fakes, cut off from the generator.
        for _, target, frame in zip(self.parts(batch), reals, fakes, strict=True):
            with self.autocast():
                fake, real = self.discriminator(frame), self.discriminator(target)
                loss = discriminator_adversarial_loss(real, fake)
            self.log_part({"discriminator_loss": loss, "real_logit": real.mean(), "fake_logit": fake.mean()})
            self.backpropagate("discriminator", loss)
        self.update("discriminator")

        # R1 is lazy: each penalty stands for the steps without one.
        adversary = self.config.adversary
        if self.num_batches % adversary.r1_every == 0:
            for _, target in zip(self.parts(batch), reals, strict=True):
                with self.engines["discriminator"].whole():  # for the second derivative
                    penalty = gradient_penalty(self.discriminator, target)
                    self.backpropagate("discriminator", penalty * adversary.r1 * adversary.r1_every)
                self.log_part({"gradient_penalty": penalty})
            self.update("discriminator", phase="gradient_penalty")

    def _generator_losses(self, batch: Batch, target: Tensor) -> tuple[dict[str, Tensor], FaceOutput]:
        # The encoder reads both frames, for both have known coefficients, but only the portrait is drawn from.
        both = self.network.encode_portrait(torch.cat([to_float(batch["portrait"]), target]))
        output = self.network(of_portraits(both), batch["target_motion"])
        losses = portrait_losses(self.network, both, batch) | {
            "pyramid_loss": pyramid_loss(output, target),
            "region_loss": region_loss(output.frame, target, batch["target_landmarks"]),
            "warp_loss": warp_loss(output, target),
        }
        if self.perceptual.network is not None:
            losses["perceptual_loss"] = perceptual_loss(self.perceptual.network, output.frame, target)
        if self.adversarial:
            losses["adversarial_loss"] = generator_adversarial_loss(self.discriminator(output.frame))
        return losses, output

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The generator's terms of a step on this batch without augmentation; `training_step` has them part by part."""
        return self._generator_losses(batch, to_float(batch["target"]))[0]

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """PSNR of the frame and of the portrait left as it is; sharpness; a score of both; mouth and eyes."""
        features = self.average.encode_portrait(batch["portrait"])
        output = self.average(features, batch["target_motion"])
        target = to_float(batch["target"])
        landmarks = self.average.points(batch["portrait_identity"], batch["portrait_motion"])
        found = self.average.points(features.identity, features.motion)
        frame, copied = psnr(output.frame, target), psnr(features.image, target)
        sharp = sharpness(output.frame, target)
        self.by_clip = {"psnr": frame, "copy_psnr": copied, "sharpness": sharp, "score": score(frame, sharp)}
        return {
            **{name: values.mean() for name, values in self.by_clip.items()},
            "psnr_gain": frame.mean() - copied.mean(),
            "region_loss": region_loss(output.frame, target, batch["target_landmarks"]),
            "points_error": (found - landmarks).norm(dim=-1).mean(),
        }

    def preview(self, batch: Batch) -> dict[str, np.ndarray | Film]:
        """Rows: portrait, generated, target, and the mask of the finest level."""
        shown = slice(PREVIEWED)
        features = self.average.encode_portrait(batch["portrait"][shown])
        output = self.average(features, batch["target_motion"][shown])
        mask = output.masks[-1].expand(-1, 3, -1, -1) * 2 - 1
        rows = [features.image, output.frame, to_float(batch["target"][shown]), mask]
        return {"frames": to_pictures(torch.cat([torch.cat(list(row.float()), dim=2) for row in rows], dim=1))}

    @torch.no_grad()
    def _update_average(self) -> None:
        """Exponential average in float32; shorter at the start, when the weights still change much.

        Statistics of batch norms are averaged as the weights are: those of the latest weights would not fit.
        """
        decay = min(self.config.ema_decay, (1 + self.num_batches) / (10 + self.num_batches))
        with self.engines["network"].whole():
            pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
            averaged, current = (list(group) for group in zip(*pairs, strict=True))
            torch._foreach_lerp_(averaged, current, 1 - decay)
        for kept, buffer in zip(self.average.buffers(), self.network.buffers(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(buffer, 1 - decay)
            else:
                kept.copy_(buffer)

    def configure_optimizers(self) -> list[Optimizer]:
        c, adversary = self.config.optimizer, self.config.adversary
        share = adversary.r1_every / (adversary.r1_every + 1)  # StyleGAN2's, since regularisation takes extra steps
        rate, betas = adversary.lr * share, (0.0, c.beta2**share)
        return [
            torch.optim.Adam(self.network.parameters(), lr=c.lr, betas=(c.beta1, c.beta2), fused=True),
            torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=betas, fused=True),
        ]

    def export_tensors(self) -> dict[str, Tensor]:
        return self.average.state_dict()


def score(psnr: Tensor, sharpness: Tensor) -> Tensor:
    """PSNR less BLUR dB for each factor of two that the energy of fine detail is off, each (B,).

    PSNR alone likes a blur: detail that cannot be known costs its energy once if it is left out and twice if it is
    drawn, which is 3 dB where nothing else is wrong, and less than 2 where half of the error is of another kind. So the
    last steps before an adversary begins would be called the best.
    """
    return psnr - BLUR * sharpness.log2().abs()
