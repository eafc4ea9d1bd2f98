"""Stage 4: one small student of the three teachers, which becomes the one inference checkpoint.

Each of the student's parts learns from its teacher and, if the data knows the answer, from the data:

    emotion   the teacher's embedding of the same text, image and speech (cosine)
    motion    the teacher's motion for the same speech, with the student's own emotion; and the tracked motion
    face      the teacher's frame for the same portrait and motion; and the true frame. Its encoder learns what the
              teacher's did: where the points of a portrait are, and which coefficients it has

The abstract of arXiv:2305.02572 has no such stage: all of this is our own choice.
Shapes: B clips, E embedding, T frames of speech, D values of motion.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..datamodules.batch import Batch
from ..datamodules.emotion_words import sentences_without
from ..datamodules.module import DataFacts
from ..datamodules.sample import SAMPLES_PER_FRAME
from ..models.emotion import EmotionSpace
from ..models.emotion_student import MODALITIES, EmotionEncoder
from ..models.errors import UserError
from ..models.face import FaceGenerator, to_float, to_pictures
from ..models.face_loss import region_loss
from ..models.face_model import POSE_DIM
from ..models.motion import SWAY_FRAMES, AudioTo3DMM
from ..models.sent import sent
from ..models.talker import Talker, TalkerConfig, anchor, copy_matching, motion_windows
from .frozen import Frozen
from .metrics import psnr
from .portrait import of_portraits, portrait_losses
from .stage import Film, Stage, StageConfig, Start

Values = dict[str, Any]  # the configuration of a network, as its export has it

NUM_PICKS = 64  # sentences beside the prompts of the batch
PREVIEWED = 4  # pairs in a picture of samples/
FILMED = 50  # frames of a video there


@dataclass
class DistillLoss:
    text_loss: float = 1.0  # weight of the distance from the teacher's embedding of texts
    image_loss: float = 1.0  # weight of the distance from the teacher's embedding of images
    speech_loss: float = 1.0  # weight of the distance from the teacher's embedding of voices
    motion_loss: float = 1.0  # weight of the difference from the teacher's motion
    true_motion_loss: float = 0.5  # weight of the difference from the tracked expression
    places_loss: float = 1.0  # weight of the points that the encoder finds in a picture, cross entropy
    points_loss: float = 20.0  # weight of the points that follow from the encoder's coefficients
    coefficients_loss: float = 1.0  # weight of the coefficients that the encoder reads from a picture
    frame_loss: float = 5.0  # weight of the difference from the teacher's frame
    true_frame_loss: float = 5.0  # weight of the difference from the true frame
    region_loss: float = 1.0  # weight of the difference in mouth and eyes of the true frame


@dataclass
class DistillStageConfig(StageConfig):
    emotion: str = ""  # emotion.safetensors, the teacher of the emotion part
    motion: str = ""  # motion.safetensors, the teacher of the motion part
    face: str = ""  # face.safetensors, the teacher of the face part
    start_from_teacher: bool = True  # copy what is of a teacher's width: of image, speech, motion, encoder, face
    network: TalkerConfig = field(default_factory=TalkerConfig)
    loss: DistillLoss = field(default_factory=DistillLoss)


@dataclass
class Teachers(Frozen):
    space: EmotionSpace
    motion: AudioTo3DMM
    face: FaceGenerator


class DistillStage(Stage[DistillStageConfig]):
    """Trains Talker, the student of the three other stages."""

    name = "distill"
    config_type = DistillStageConfig
    starts_from = (Start("emotion", "emotion"), Start("motion", "motion"), Start("face", "face"))
    kind = "talker"
    monitor = "-val/loss"
    figures = (
        *("loss", "text_loss", "image_loss", "speech_loss", "motion_loss", "true_motion_loss"),
        *("places_loss", "points_loss", "coefficients_loss", "frame_loss", "true_frame_loss", "region_loss"),
        *("student_psnr", "teacher_psnr"),
    )
    network: Talker

    @classmethod
    def build(cls, config: DistillStageConfig, facts: DataFacts, given: dict[str, Any]) -> dict[str, Any]:
        return {"network": Talker(student_config(config.network, **given))}

    @classmethod
    def frame_size(cls, config: DistillStageConfig, given: dict[str, Any]) -> int:
        return given["face"]["size"]

    def __init__(self, config: DistillStageConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        given = self.load_given()
        self.emotion_from = given["motion"].provenance.get("config", {}).get("emotion_from", list(MODALITIES))
        space = EmotionSpace.rebuild(given["emotion"])
        motion = AudioTo3DMM.rebuild(given["motion"])
        face = FaceGenerator.rebuild(given["face"])
        self.teachers = Teachers(space, motion, face)
        self.network = self.assemble(facts, given)["network"]
        config.network = self.network.config  # with what the teachers decided
        if config.start_from_teacher:
            copy_matching(self.network.emotion.image, space.image_tower)
            copy_matching(self.network.emotion.speech, space.speech_encoder)
            copy_matching(self.network.motion, motion)
            copy_matching(self.network.face.encoder, face.encoder)  # which depends on nothing of the rest
            copy_matching(self.network.face, face)
        copy_buffers(self.network, motion, face)
        # Those by which the teacher kept CLIP's knowledge of words.
        self.sentences = sentences_without(config.data.holdout_emotions)

    def on_fit_start(self) -> None:
        self.teachers.to(self.device)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return self.emotion_losses(batch) | self.motion_losses(batch) | self.face_losses(batch)

    def emotion_losses(self, batch: Batch) -> dict[str, Tensor]:
        student, teacher = self.network.emotion, self.teachers.space
        # Some of many sentences beside the batch's own prompts: text is cheap, and the student has no tower.
        picks = torch.randperm(len(self.sentences), generator=self.generator())[:NUM_PICKS]
        texts = list(batch["prompt"]) + [self.sentences[int(i)] for i in picks]
        images = torch.cat([batch["image"], batch["portrait"], batch["target"]])  # every frame there is shows one
        with torch.no_grad():
            text, image = teacher.encode_text(texts), teacher.encode_image(images)
            speech = teacher.encode_speech(batch["speech"])
        return {
            "text_loss": self.text_loss(cosine_distance(student.encode_text(texts), text), len(batch["prompt"])),
            "image_loss": cosine_distance(student.encode_image(images), image).mean(),
            "speech_loss": cosine_distance(student.encode_speech(batch["speech"]), speech).mean(),
        }

    def text_loss(self, distance: Tensor, own: int) -> Tensor:
        """The mean of the distances (B + picks,), `own` of them of this batch's prompts.

        All parts of a global batch share their picks. Weighted so, the mean over the parts is that of the whole batch.
        """
        total = own * self.config.trainer.accumulate * self.num_ranks if self.training else own
        return (distance[:own].mean() * total + distance[own:].sum()) / (total + NUM_PICKS)

    def motion_losses(self, batch: Batch) -> dict[str, Tensor]:
        student, teacher = self.network.motion, self.teachers.motion
        choice = int(torch.randint(len(self.emotion_from), (1,), generator=self.generator()))
        modality = self.emotion_from[choice]  # of what the teacher learned to hear with
        draws = self.draws(batch)
        noise = sent(draws.normal(student.config.noise_dim), self.device)
        start = sent(draws.integers(SWAY_FRAMES), self.device)
        with torch.no_grad():
            taught = teacher(
                batch["speech"], self.embed(self.teachers.space, batch, modality), batch["identity"], noise, start
            )
            emotion = self.embed(self.network.emotion, batch, modality)
        motion = student(batch["speech"], emotion, batch["identity"], noise, start)
        difference = student.normalise(motion) - student.normalise(taught)
        # The true head movement is one of many: only the expression is compared with it.
        truth = (student.normalise(motion) - student.normalise(batch["motion"]))[..., :-POSE_DIM]
        return {"motion_loss": difference.abs().mean(), "true_motion_loss": truth.abs().mean()}

    def face_losses(self, batch: Batch) -> dict[str, Tensor]:
        student = self.network.face
        with torch.no_grad():
            taught = drawn(self.teachers.face, batch["portrait"], batch["target_motion"])
        # As for its teacher: coefficients are read from both pictures and known of both, and the drawing teaches none.
        both = student.encode_portrait(torch.cat([batch["portrait"], batch["target"]]))
        frame = student(of_portraits(both), batch["target_motion"]).frame.float()
        target = to_float(batch["target"])
        return portrait_losses(student, both, batch) | {
            "frame_loss": pyramid_distance(frame, taught),
            "true_frame_loss": pyramid_distance(frame, target),
            "region_loss": region_loss(frame, target, batch["target_landmarks"]),
        }

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        target = to_float(batch["target"])
        losses = self.losses(batch)
        metrics = losses | {"loss": self.total(losses)}
        for name, face in (("student_psnr", self.network.face), ("teacher_psnr", self.teachers.face)):
            self.by_clip[name] = psnr(drawn(face, batch["portrait"], batch["target_motion"]), target)
            metrics[name] = self.by_clip[name].mean()
        return metrics

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, np.ndarray | Film]:
        """Rows of portrait, truth, teacher, student; and a video of the student."""
        portrait, target, window = (batch[name][:PREVIEWED] for name in ("portrait", "target", "target_motion"))
        made = [drawn(face, portrait, window) for face in (self.teachers.face, self.network.face)]
        columns = [to_float(portrait), to_float(target), *made]
        picture = torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2)  # (3, n S, 4 S)
        return {"portrait-truth-teacher-student": to_pictures(picture), "student-from-speech": self.film(batch)}

    def film(self, batch: Batch) -> Film:
        """What the student is for: a portrait says the first two seconds of the clip, the emotion given as text."""
        network, speech = self.network, batch["speech"][:1, : FILMED * SAMPLES_PER_FRAME]
        features = network.face.encode_portrait(batch["portrait"][:1])
        emotion = network.emotion.encode_text(batch["prompt"][:1])
        motion = network.motion.generate(speech, emotion, features.identity, seed=0)[0]
        motion = anchor(motion, features.motion[0], network.motion.motion_mean)
        drawn = network.face.draw(features, motion_windows(motion))
        frames = np.concatenate([to_pictures(part) for part in drawn])
        return Film(frames, speech[0].float().cpu().numpy())

    def embed(self, encoder: EmotionEncoder, batch: Batch, modality: str) -> Tensor:
        """The clip's emotion (B, E) from its text, image or audio."""
        if modality == "text":
            return encoder.encode_text(batch["prompt"])
        return encoder.encode_image(batch["image"]) if modality == "image" else encoder.encode_speech(batch["speech"])

    def generator(self) -> torch.Generator:
        """Draws of this step: a function of seed and position only."""
        return torch.Generator().manual_seed(self.step_seed())


def student_config(config: TalkerConfig, emotion: Values, motion: Values, face: Values) -> TalkerConfig:
    """Fill in what the configurations of the teachers decide. Raises UserError if the frames have another size."""
    student = deepcopy(config)
    student.emotion.embed_dim = student.motion.emotion_dim = emotion["embed_dim"]
    student.emotion.image.crop = student.emotion.image.crop or emotion["image_crop"]
    for part, teacher in ((student.motion, motion), (student.face, face)):
        part.motion_dim, part.identity_dim = teacher["motion_dim"], teacher["identity_dim"]
    for name in ("noise_dim", "use_identity"):
        setattr(student.motion, name, motion[name])
    if student.face.size != face["size"]:
        problem = f"is {student.face.size}, its teacher's frames have {face['size']} pixels"
        remedy = f"network.face.size={face['size']} and as many network.face.channels as its {len(face['channels'])}"
        raise UserError("network.face.size", problem, remedy)
    for name in ("num_points", "landmark_level"):
        setattr(student.face, name, face[name])
    return student


def copy_buffers(talker: Talker, motion: AudioTo3DMM, face: FaceGenerator) -> None:
    """Motion statistics and face model are the teachers', whatever the student's size."""
    pairs = ((talker.motion, motion), (talker.face, face), (talker.face.face, face.face))
    for student, teacher in (*pairs, (talker.face.encoder, face.encoder)):
        given = dict(teacher.named_buffers(recurse=False))
        for name, buffer in student.named_buffers(recurse=False):
            buffer.copy_(given[name])


def drawn(face: FaceGenerator, portraits: Tensor, windows: Tensor) -> Tensor:
    """Portraits, uint8 (B, 3, S, S), each moved as its motion window (B, W, D) says -> (B, 3, S, S)."""
    return face(face.encode_portrait(portraits), windows).frame.float()


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of unit vectors (B, E) -> (B,)."""
    return 1 - (a * b).sum(-1)


def pyramid_distance(a: Tensor, b: Tensor) -> Tensor:
    """L1 of images (B, 3, S, S) at full, half and quarter size."""
    return sum((F.avg_pool2d(a, k) - F.avg_pool2d(b, k)).abs().mean() for k in (1, 2, 4)) / 3  # type: ignore[return-value]
