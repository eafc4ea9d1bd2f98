"""Stage 2, `emohead train motion`: speech and a point of the (frozen) emotion space to 3DMM motion.

The emotion of a clip enters as text, as an image or as speech, drawn at random for each clip: afterwards any of them
drives the network. The losses are our own choice; the abstract of arXiv:2305.02572 names none.

Beside the network two critics learn from true motion: whether lips go with speech, and which emotion a motion has. The
network is then judged by them, as they are at that step (models/motion_critics.py). Evaluation asks others, since a
network learns to please its own critics (evaluation/jury.py).

Shapes: B clips, T frames, K expression coefficients, V vertices, E width of the emotion space, Z pose noise.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datamodules.batch import Batch
from ..datamodules.module import DataFacts
from ..models.emotion import EmotionSpace
from ..models.emotion_student import MODALITIES
from ..models.errors import UserError
from ..models.face_model import MOUTH, POSE_DIM, FaceModel
from ..models.full_precision import full_precision
from ..models.motion import SWAY_FRAMES, AudioTo3DMM, AudioTo3DMMConfig
from ..models.motion_critics import MotionCritics, MotionCriticsConfig
from ..models.ranges import number
from ..models.sent import sent
from .augmentation import augment_mel
from .contrast import contrastive_loss, described, match_weights
from .engines.draws import Draws
from .engines.ranks import all_rows, own_rows
from .frozen import Frozen
from .metrics import correlation
from .stage import Stage, StageConfig, Start

TEMPERATURE = 0.1  # of the critics' contrasts
NEIGHBOURS = 0.7  # frames: how far a moment of speech and its lips may lie apart
OTHER_LEVEL = 0.5  # how much of a match the same emotion at another level is


@dataclass
class MotionLossConfig:
    expression_loss: float = 1.0  # weight of the error of expression, in normalised coefficients
    vertex_loss: float = 5.0  # weight of the error of all vertices, in face units
    lip_loss: float = 10.0  # weight of the error of the mouth's vertices, in face units
    velocity_loss: float = 1.0  # weight of the error of changes from frame to frame
    pose_loss: float = 0.5  # weight of the error of head pose
    kl_loss: float = 0.002  # weight of the distance of pose noise from a normal distribution
    sync_loss: float = 0.1  # weight of the critic of lips and speech
    emotion_loss: float = 0.1  # weight of the critic of the emotion that a motion has


@dataclass
class MotionStageConfig(StageConfig):
    emotion: str = ""  # emotion.safetensors, the export of stage 1
    network: AudioTo3DMMConfig = field(default_factory=AudioTo3DMMConfig)
    loss: MotionLossConfig = field(default_factory=MotionLossConfig)
    critics: MotionCriticsConfig = field(default_factory=MotionCriticsConfig)
    emotion_from: list[str] = field(default_factory=lambda: list(MODALITIES))  # text alone suits clips without labels
    gain: float = 0.5  # speech is made louder or softer by up to this, log scale
    augmentation: float = 0.0  # strength of other changes to log-mel; small data sets need them
    speech_dropout: float = number(0.0, most=0.99)  # share of the channels of the speech features


@dataclass
class Teacher(Frozen):
    space: EmotionSpace


class MotionStage(Stage[MotionStageConfig]):
    """Trains AudioTo3DMM."""

    name = "motion"
    config_type = MotionStageConfig
    starts_from = (Start("emotion", "emotion"),)
    kind = "motion"
    monitor = "-val/loss"
    figures = ("loss", "expression_loss", "vertex_loss", "lip_loss", "velocity_loss", "pose_loss", "mouth_correlation")
    network: AudioTo3DMM
    critics: MotionCritics
    vertex_gram: Tensor  # (K, K)
    lip_gram: Tensor

    @classmethod
    def build(cls, config: MotionStageConfig, facts: DataFacts, given: dict[str, Any]) -> dict[str, Any]:
        emotion_dim = given["emotion"]["embed_dim"]
        sizes = {"motion_dim": facts.motion_dim, "identity_dim": facts.identity_dim, "emotion_dim": emotion_dim}
        network = AudioTo3DMM(replace(config.network, **sizes))
        sizes = {"num_expression": facts.motion_dim - POSE_DIM, "emotion_dim": emotion_dim}
        return {"network": network, "critics": MotionCritics(replace(config.critics, **sizes))}

    def __init__(self, config: MotionStageConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        if not config.emotion_from or set(config.emotion_from) - set(MODALITIES):
            raise UserError(f"emotion_from={config.emotion_from}", f"wanted are some of {', '.join(MODALITIES)}")
        if config.network.speech_encoder and config.augmentation:
            raise UserError(
                f"augmentation={config.augmentation}",
                "changes log-mel, which network.speech_encoder replaces",
                "set augmentation=0",
            )
        given = self.load_given()
        self.teacher = Teacher(EmotionSpace.rebuild(given["emotion"]))
        self.network, self.critics = self.assemble(facts, given).values()
        self.network.set_statistics(torch.as_tensor(facts.motion_mean), torch.as_tensor(facts.motion_std))
        num_expression = facts.motion_dim - POSE_DIM
        self.critics.expression_mean.copy_(self.network.motion_mean[:num_expression])
        self.critics.expression_std.copy_(self.network.motion_std[:num_expression])
        self.face_model: FaceModel = facts.face_model
        basis = self.face_model.expression_basis
        self.register_buffer("vertex_gram", gram(basis), persistent=False)
        self.register_buffer("lip_gram", gram(basis[:, self.face_model.landmark_index[MOUTH]]), persistent=False)

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    def trained(self) -> dict[str, nn.Module]:
        return {"network": self.network, "critics": self.critics}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.begin_step()
        emotions = []

        # The network: against the true motion, and before the critics, which only judge.
        self.critics.requires_grad_(False)
        for part in self.parts(batch):
            with self.autocast():
                draws = self.draws(part)
                emotions.append(self.draw_emotion(part, draws))
                losses = self.network_losses(part, emotions[-1], draws)
                total = self.total(losses)
            self.log_part(losses | {"loss": total})
            self.backpropagate("network", total)
        self.update("network")

        # The critics: true motion only, so that no trick of the network's teaches them anything.
        self.critics.requires_grad_(True)
        for part, emotion in zip(self.parts(batch), emotions, strict=True):
            with self.autocast():
                judged = self.judge(part, part["motion"], emotion)
            self.log_part({f"true_{name}": value for name, value in judged.items()})
            self.backpropagate("critics", torch.stack(list(judged.values())).sum())
        self.update("critics")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of a step on this batch, as `training_step` has them part by part."""
        draws = self.draws(batch)
        return self.network_losses(batch, self.draw_emotion(batch, draws), draws)

    def judge(self, batch: Batch, motion: Tensor, emotion: Tensor) -> dict[str, Tensor]:
        """The critics' losses of motion (B, T, D), made or true, for its speech and emotion (B, E).

        Which emotion it has is asked of clips only that say so: see `described`.
        """
        expression = self.critics.normalise(motion)
        heard, seen = self.critics.sync(batch["speech"], expression)
        rows = own_rows(len(emotion))
        own = (self.critics.emotion(expression), emotion, described(batch), batch["emotion"], batch["level"])
        shown, meant, told, labels, levels = all_rows(*own)
        weights = match_weights(labels, levels, OTHER_LEVEL, rows)
        return {
            "sync_loss": moments_loss(heard, seen),
            "emotion_loss": contrastive_loss(shown, meant, weights, TEMPERATURE, rows, counted=told),
        }

    def network_losses(self, batch: Batch, emotion: Tensor, draws: Draws) -> dict[str, Tensor]:
        noise = sent(draws.normal(self.network.config.noise_dim), emotion.device)
        gain = sent(2 * draws.uniform(1) - 1, emotion.device) * self.config.gain
        start = sent(draws.integers(SWAY_FRAMES), emotion.device)
        # No effect on a pretrained encoder that normalises its speech; most do.
        features, keep = self.network.listen(batch["speech"] * gain.exp()), None
        if self.training:
            c, draws = self.config, self.draws(batch, 1, device=features.device)
            if c.augmentation:
                features = augment_mel(features, c.augmentation, draws)
            if c.speech_dropout:
                keep = (draws.uniform(self.network.config.dim) >= c.speech_dropout).float() / (1 - c.speech_dropout)
        still = self.network.decode(features, emotion, batch["identity"], keep)
        mean, log_variance = self.network.infer_noise(batch["motion"], still, start)
        swayed = self.network.add_sway(still, mean + noise * (log_variance / 2).exp(), start)
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        found = self.motion_losses(still, swayed, batch["motion"]) | {"kl_loss": kl.mean()}
        return found | self.judge(batch, still, emotion)

    def motion_losses(self, still: Tensor, swayed: Tensor, motion: Tensor) -> dict[str, Tensor]:
        """Losses of motion (B, T, D), with the mean pose and with that of the posterior, against the true one."""
        error = (still - motion)[..., :-POSE_DIM]  # in the units of the face model
        still, swayed, motion = (self.network.normalise(m) for m in (still, swayed, motion))
        expression, true = still[..., :-POSE_DIM], motion[..., :-POSE_DIM]
        poses = [F.mse_loss(m[..., -POSE_DIM:], motion[..., -POSE_DIM:]) for m in (still, swayed)]
        return {
            "expression_loss": F.mse_loss(expression, true),
            "vertex_loss": vertex_distance(error, self.vertex_gram),
            "lip_loss": vertex_distance(error, self.lip_gram),
            "velocity_loss": F.mse_loss(expression.diff(dim=1), true.diff(dim=1)),
            # The mean pose is fitted too, so that it suits the speech if the head is kept still.
            "pose_loss": (poses[0] + poses[1]) / 2,
        }

    @torch.no_grad()
    def draw_emotion(self, batch: Batch, draws: Draws) -> Tensor:
        """The emotion of each clip as text, image or speech by chance -> (B, E)."""
        choice = draws.integers(len(self.config.emotion_from))
        emotion = torch.zeros(len(choice), self.teacher.space.config.embed_dim, device=batch["speech"].device)
        for index, modality in enumerate(self.config.emotion_from):
            rows = torch.nonzero(choice == index)[:, 0]
            if len(rows):
                emotion[sent(rows, emotion.device)] = self.embed(batch, modality, rows)
        return emotion

    def embed(self, batch: Batch, modality: str, rows: Tensor) -> Tensor:
        """The emotion of some clips of the batch, by one of the three encoders -> (rows, E)."""
        if modality == "text":
            return self.teacher.space.encode_text([batch["prompt"][row] for row in rows.tolist()])
        rows = sent(rows, batch["speech"].device)
        if modality == "image":
            return self.teacher.space.encode_image(batch["image"][rows])
        return self.teacher.space.encode_speech(batch["speech"][rows])

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """From speech alone, its emotion too; if `emotion_from` lacks speech, the emotion is by its first entry."""
        c, identity = self.config, batch["identity"]
        modality = "audio" if "audio" in c.emotion_from else c.emotion_from[0]
        emotion = self.embed(batch, modality, torch.arange(len(identity)))
        still = self.network(batch["speech"], emotion, identity)
        noise, _ = self.network.infer_noise(batch["motion"], still)
        losses = self.motion_losses(still, self.network.add_sway(still, noise), batch["motion"])
        openings = [self.face_model.mouth_opening(identity[:, None], m.float()) for m in (still, batch["motion"])]
        self.by_clip = {"mouth_correlation": correlation(*openings)}
        return losses | {"loss": self.total(losses), "mouth_correlation": self.by_clip["mouth_correlation"].mean()}


def moments_loss(heard: Tensor, seen: Tensor) -> Tensor:
    """Symmetric InfoNCE over the moments of each clip: a_t belongs to v_t (B, T, S), and almost to its neighbours."""
    time = torch.arange(heard.shape[1], device=heard.device, dtype=torch.float32)
    near = (-0.5 * ((time[:, None] - time) / NEIGHBOURS).square()).exp()  # (T, T)
    targets = (near / near.sum(dim=0, keepdim=True)).expand(len(heard), -1, -1)  # of each column
    likeness = heard @ seen.transpose(1, 2) / TEMPERATURE  # (B, T, T)
    return (F.cross_entropy(likeness, targets) + F.cross_entropy(likeness.transpose(1, 2), targets)) / 2


def gram(basis: Tensor) -> Tensor:
    """Products (K, K) of expression axes (K, V, 3), per vertex: x' gram x is the mean squared distance that x moves."""
    flat = basis.flatten(1)
    return flat @ flat.T / basis.shape[1]


def vertex_distance(error: Tensor, gram: Tensor) -> Tensor:
    """Expression error (B, T, K) -> root mean square distance of the vertices of a frame, averaged over frames."""
    with full_precision():  # float16 has no squares of such small numbers
        squared = torch.einsum("...k,kl,...l->...", error.float(), gram, error.float())
    return (squared + 1e-8).sqrt().mean()
