"""The talker: everything that inference needs, in one file. Portrait + speech + emotion -> frames.

    text, image or speech ── EmotionStudent ── emotion (B, E) ─┐
    speech ───────────────────────────────── AudioTo3DMM ──────┴─ motion (B, T, D) ─┐
    portrait ── FaceGenerator.encode_portrait ── features, identity ────────────────┴─ FaceGenerator ── frames

Needs torch, safetensors and numpy only: no open_clip, no Lightning, no DeepSpeed, no W&B; and transformers if the
motion part has a pretrained speech encoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .blinks import add_blinks
from .checkpoint import Exported
from .emotion_student import EmotionStudent, EmotionStudentConfig, ImageStudentConfig, TextStudentConfig
from .face import FaceGenerator, FaceGeneratorConfig, to_bytes
from .face_model import POSE_DIM
from .motion import AudioTo3DMM, AudioTo3DMMConfig
from .timing import MOTION_WINDOW

PROVENANCE = "AI-generated talking head made with emohead"  # in the metadata of every video
HEAD = slice(-POSE_DIM, None)  # of motion, how the head is turned and where it is
EASE_FRAMES = 15  # 0.6 s, about as long as a face takes from one expression to another


@dataclass
class TalkerConfig:
    emotion: EmotionStudentConfig = field(default_factory=EmotionStudentConfig)
    motion: AudioTo3DMMConfig = field(default_factory=AudioTo3DMMConfig)
    face: FaceGeneratorConfig = field(default_factory=FaceGeneratorConfig)


def motion_windows(motion: Tensor) -> Tensor:
    """Motion (T, D) -> the W frames around each (T, W, D), the edges replicated: what training cuts."""
    around = MOTION_WINDOW // 2
    padded = F.pad(motion.T[None], (around, around), mode="replicate")[0]  # (D, T + W - 1)
    return rearrange(padded.unfold(1, MOTION_WINDOW, 1), "d t w -> t w d")


def anchor(motion: Tensor, portrait_motion: Tensor, mean: Tensor, *, relative: bool = False) -> Tensor:
    """Let motion (T, D) begin where the portrait is, whose own motion is (D,): the first frame is the portrait.

    The head moves on about its place and turn in the portrait, not about those of the mean of the training data (D,).
    The portrait's expression gives way to that of the motion within EASE_FRAMES; `relative` keeps it, and the motion's
    changes are added to it.
    """
    start = portrait_motion - motion[0]
    stays = start.clone() if relative else torch.zeros_like(start)
    stays[HEAD] = (portrait_motion - mean)[HEAD]
    time = torch.arange(len(motion), device=motion.device) / EASE_FRAMES
    left = (1 + (torch.pi * time.clamp(max=1)).cos()) / 2  # from 1 to 0
    return motion + stays + left[:, None] * (start - stays)


class Talker(Exported):
    """One student of the three stages.

    talker = Talker.load("talker.safetensors")
    emotion = talker.emotion_from_text("a slightly sad face")
    for frames in talker.animate(portrait, speech, emotion):  # uint8 (n, 3, S, S), in order
        ...
    """

    kind = "talker"

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.emotion = EmotionStudent(config.emotion)
        self.motion = AudioTo3DMM(config.motion)
        self.face = FaceGenerator(config.face)
        self.config = replace(config, motion=self.motion.config)  # which names no folder outside

    @staticmethod
    def config_of(values: dict[str, Any]) -> TalkerConfig:
        emotion = dict(values["emotion"])
        text, image = TextStudentConfig(**emotion.pop("text")), ImageStudentConfig(**emotion.pop("image"))
        return TalkerConfig(
            emotion=EmotionStudentConfig(text=text, image=image, **emotion),
            motion=AudioTo3DMM.config_of(values["motion"]),
            face=FaceGenerator.config_of(values["face"]),
        )

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """A talker from its one file, in eval mode; raises UserError if the file is no talker."""
        return cls.from_checkpoint(path).eval()

    @property
    def size(self) -> int:
        """Pixels a side of portraits and frames."""
        return self.config.face.size

    @property
    def device(self) -> torch.device:
        """The device that it computes on; inputs may lie on any other."""
        return self.motion.motion_mean.device

    def emotion_from_text(self, *texts: str) -> Tensor:
        """Descriptions such as "a very angry face" -> (B, E)."""
        return self.emotion.encode_text(list(texts))

    def emotion_from_image(self, image: Tensor) -> Tensor:
        """A face crop that shows the emotion, uint8 (B, 3, S, S) -> (B, E)."""
        return self.emotion.encode_image(image.to(self.device))

    def emotion_from_speech(self, speech: Tensor) -> Tensor:
        """A voice that carries the emotion, (B, N) at 16 kHz in [-1, 1] -> (B, E)."""
        return self.emotion.encode_speech(speech.to(self.device))

    @torch.inference_mode()
    def animate(
        self,
        portrait: Tensor,  # uint8 (1, 3, S, S)
        speech: Tensor,  # (1, N) at 16 kHz in [-1, 1]
        emotion: Tensor,  # (1, E)
        *,
        seed: int = 0,  # of the head movement and the blinks
        still: bool = False,  # keep the head where the portrait has it
        blinks: bool = True,
        relative: bool = False,  # keep the portrait's expression and add to it
        batch_size: int = 8,
    ) -> Iterator[Tensor]:
        """Frames of the portrait saying the speech, uint8 (n, 3, S, S) at 25 a second, `batch_size` at a time.

        Inputs may lie on any device; frames lie on the talker's device.
        """
        portrait, speech, emotion = (given.to(self.device) for given in (portrait, speech, emotion))
        features = self.face.encode_portrait(portrait)
        motion = self.motion.generate(speech, emotion, features.identity, seed=None if still else seed)[0]
        if still:
            motion[:, HEAD] = self.motion.motion_mean[HEAD]
        motion = anchor(motion, features.motion[0], self.motion.motion_mean, relative=relative)
        if blinks:  # of the eyes that are shown
            motion = add_blinks(motion, self.face.face, self.motion.motion_std, seed)
        yield from map(to_bytes, self.face.draw(features, motion_windows(motion), batch_size))


def copy_matching(student: nn.Module, teacher: nn.Module) -> bool:
    """Start a student from its teacher, if that has all of the student's tensors; returns whether it has.

    So the student may have fewer layers of the same width, as DistilBERT (Sanh et al. 2019). Of any other student
    nothing is copied: what a layer has learned to do is of no use behind layers that are random.
    """
    own, given = student.state_dict(), teacher.state_dict()
    alike = all(name in given and given[name].shape == tensor.shape for name, tensor in own.items())
    if alike:
        student.load_state_dict({name: given[name] for name in own})
    return alike
