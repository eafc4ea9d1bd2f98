"""The ways in which a clip is made anew: the rows of the table of videos.

Shapes: T frames, S pixels, D values of motion, I identity coefficients, F frames that are asked for, N samples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.media.write import DEFAULT_QUALITY
from ...datamodules.sample import ClipInfo
from ...models.emotion_student import EmotionEncoder
from ...models.face import FaceGenerator, PortraitFeatures, to_float, to_pictures
from ...models.face_model import POSE_DIM
from ...models.motion import AudioTo3DMM
from ...models.talker import anchor, motion_windows

FRAMES_PER_CLIP = 8  # that pictures are compared at, evenly over the clip
TRUE_FRAMES, AGAIN, PORTRAIT = "true frames", "true frames, again", "portrait"  # rows that no network makes
TRUE_MOTION, SPEECH = "true motion", "speech"  # ways of making a video that are shown, too

Draw = Callable[[Sequence[int]], Tensor]  # frames of a video by their numbers -> (F, 3, S, S) in [-1, 1]


@dataclass
class Maker:
    """The network that draws videos, and those that drive it from speech, if any."""

    face: FaceGenerator
    motion: AudioTo3DMM | None = None
    emotion: EmotionEncoder | None = None

    def motions(self, speech: Tensor, truth: Tensor, features: PortraitFeatures) -> Iterator[tuple[str, Tensor]]:
        """Motion (T, D) by its name, for speech (1, N) and the true motion (T, D)."""
        mean = self.face.motion_mean
        yield "mean motion", anchor(mean.expand_as(truth), features.motion[0], mean)
        yield TRUE_MOTION, truth
        if self.motion is None or self.emotion is None:
            return
        motion = self.motion.generate(speech, self.emotion.encode_speech(speech), features.identity)[0, : len(truth)]
        yield SPEECH, anchor(motion, features.motion[0], self.motion.motion_mean)
        yield "speech, true pose", torch.cat([motion[:, :-POSE_DIM], truth[:, -POSE_DIM:]], dim=1)

    def draw(self, features: PortraitFeatures, motion: Tensor, at: Sequence[int]) -> Tensor:
        """The frames `at` of motion (T, D) -> (F, 3, S, S) in [-1, 1]."""
        return torch.cat(list(self.face.draw(features, motion_windows(motion)[list(at)])))


@dataclass
class TrueClip:
    """A clip of the split, as the figures want it."""

    info: ClipInfo
    read: Draw  # the frames themselves
    frames: Tensor  # (F, 3, S, S) in [-1, 1]
    at: list[int]  # which of the T frames they are
    speech: Tensor  # (1, N)
    motion: Tensor  # (T, D)
    identity: Tensor  # (I,)
    portrait: Tensor  # (1, 3, S, S) in [-1, 1]
    portrait_landmarks: Tensor  # (68, 2), pixels of S


def true_clip(reader: ClipReader, key: str, size: int) -> TrueClip:
    motion, info = torch.from_numpy(reader.motion(key)), reader.info(key)
    last = len(motion) - 1
    at = np.unique(np.linspace(min(1, last), last, FRAMES_PER_CLIP).round()).astype(int).tolist()
    read = partial(true_frames, reader, key, size)
    frames = read([0, *at])
    return TrueClip(
        info=info,
        read=read,
        frames=frames[1:],
        at=at,
        speech=torch.from_numpy(reader.speech(key))[None],
        motion=motion,
        identity=torch.from_numpy(reader.identity(key)),
        portrait=frames[:1],
        portrait_landmarks=torch.from_numpy(reader.landmarks(key)[0]).float() * (size / reader.info(key).size),
    )


def true_frames(reader: ClipReader, key: str, size: int, at: Sequence[int]) -> Tensor:
    """Frames of a clip by their numbers (F, 3, S, S) in [-1, 1]."""
    return to_float(torch.from_numpy(reader.frames(key, list(at), size=size)))


def from_speech(makers: dict[str, Maker]) -> bool:
    """Whether any of them makes motion from speech, so that clips without sound cannot be compared."""
    return any(maker.motion for maker in makers.values())


def ways(makers: dict[str, Maker], clip: TrueClip) -> Iterator[tuple[str, Tensor, Draw]]:
    """Each way of making the clip: its row of the table, its motion (T, D), and what draws it."""
    yield TRUE_FRAMES, clip.motion, clip.read
    yield AGAIN, clip.motion, lambda at: again(clip.read(at))
    yield PORTRAIT, clip.motion[:1].expand_as(clip.motion), lambda at: clip.portrait.expand(len(at), -1, -1, -1)
    for name, maker in makers.items():
        features = maker.face.encode_portrait(clip.portrait)
        for way, motion in maker.motions(clip.speech, clip.motion, features):
            yield f"{name}: {way}", motion, partial(maker.draw, features, motion)


def again(frames: Tensor) -> Tensor:
    """True frames (F, 3, S, S) after one more JPEG file, like those that clips are stored as.

    The true frames bear the noise of one already: no perfect copy can be told from them more closely.
    """
    pictures = [np.ascontiguousarray(picture) for picture in to_pictures(frames)]
    files = [simplejpeg.encode_jpeg(picture, DEFAULT_QUALITY["mjpeg"], colorsubsampling="420") for picture in pictures]
    decoded = np.stack([simplejpeg.decode_jpeg(file, "RGB") for file in files])
    return to_float(torch.from_numpy(decoded).movedim(-1, 1))
