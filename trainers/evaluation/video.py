"""Whole videos against the true ones, in one table: what needs no network, the face stage alone, teacher and student.

Shapes: T frames, S pixels, D values of motion, F frames that are looked at, E width of the emotion space.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.prompts import label_prompts
from ...datamodules.sample import EMOTIONS, ClipInfo
from ...models.emotion_student import EmotionEncoder
from ...models.face import FaceGenerator, PortraitFeatures, to_bytes, to_float, to_pictures
from ...models.face_model import POSE_DIM, FaceModel
from ...models.motion import AudioTo3DMM
from ...models.motion_critics import MotionCritics
from ...models.talker import anchor, motion_windows
from ..metrics import correlation, landmark_distances, psnr
from .common import Advance, ClipFigures, averages, keys_of, no_advance
from .face import ssim
from .faces import FaceJudges
from .judges import Csim, Fid, FidCollection, Lpips, SyncNet
from .lips import follow
from .motion import acted_emotions, sync_figures

FRAMES_PER_CLIP = 8  # that pictures are compared at, evenly over the clip
TRUE_FRAMES, PORTRAIT = "true frames", "portrait"  # rows that nothing is made for
TRUE_MOTION, SPEECH = "true motion", "speech"  # ways of making a video that are shown, too

Table = dict[str, dict[str, float]]  # figures by name, for each way of making the video
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


class Judges:
    """The networks that a user brings (judges.py) or has installed (faces.py), and of the chain's own an emotion space,
    which names the emotion of frames and lends its texts to the jury of motion. Those not given are not asked."""

    def __init__(
        self,
        lpips: Path | None = None,
        fid: Path | None = None,
        csim: Path | None = None,
        syncnet: Path | None = None,
        *,
        space: EmotionEncoder | None = None,
        jury: MotionCritics | None = None,
        faces: FaceJudges | None = None,
    ) -> None:
        self.lpips = Lpips(lpips) if lpips else None
        self.csim = Csim(csim) if csim else None
        self.syncnet = SyncNet(syncnet) if syncnet else None
        self.fid = Fid(fid) if fid else None
        self.space, self.jury, self.faces = space, jury, faces
        with torch.no_grad():
            self.texts = space.encode_text(label_prompts()) if space else None  # (8, E)

    def missing(self) -> list[str]:
        """Names of the figures that are not measured, since the user did not bring their network."""
        given = {"LPIPS": self.lpips, "FID": self.fid, "CSIM": self.csim, "SyncNet": self.syncnet}
        return [name for name, judge in given.items() if judge is None] + (self.faces.missing() if self.faces else [])


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


@torch.inference_mode()
def evaluate_videos(
    makers: dict[str, Maker],
    reader: ClipReader,
    split: str,
    judges: Judges,
    *,
    unseen: Sequence[str] = (),
    advance: Advance = no_advance,
) -> Table:
    """Each clip made anew from its first frame, in several ways, and compared with the clip.

    Rows: "true frames" are the clip's own, which only those figures judge that need no truth, and "portrait" copies the
    first; for each maker, its name in front, "mean motion" of the training data, "true motion" (what the face stage
    alone can do), "speech" (all from speech, emotion too, the head still) and "speech, true pose". The head of "mean
    motion" and "speech" stays where it is in the portrait. A row without a figure is left out.
    Figures, averaged over clips: see `row_figures`; `fid` over the frames of all clips. Pictures are judged at eight
    frames of each clip, the first left out; SyncNet and the judge of lips, see `lip_closure`, look at all of them. With
    emotions named in `unseen`, `emotion_accuracy` stands there as `seen_…` and `unseen_…` too (see `averages`). All
    makers have one size.
    """
    (size,) = {maker.face.config.size for maker in makers.values()}
    found: dict[str, list[ClipFigures]] = {}
    collections: dict[str, FidCollection] = {}
    keys = keys_of(reader, split, heard=from_speech(makers))
    lips = judges.faces.lips if judges.faces else None
    if lips:
        lips.listen(reader, keys)
    for key in keys:
        clip = true_clip(reader, key, size)
        true_features = judges.fid.features(clip.frames) if judges.fid else None
        for row, motion, draw in ways(makers, clip):
            frames = draw(clip.at)
            figures = row_figures(row, reader.face_model, clip, motion, frames, judges)
            if judges.syncnet:
                figures |= judges.syncnet(draw(range(len(clip.motion))), clip.speech[0])
            if lips and key in lips.phones and row != PORTRAIT:
                figures |= lips.figures(key, follow(to_pictures(draw(range(len(clip.motion))))))
            if judges.fid and true_features is not None and row != TRUE_FRAMES:
                if row not in collections:
                    collections[row] = judges.fid.collect()
                collections[row].update(true_features, judges.fid.features(frames))
            found.setdefault(row, []).append((clip.info.emotion, figures))
        advance(1)
    table = {row: averages(clips, unseen, apart=["emotion_accuracy"]) for row, clips in found.items()}
    for row, collection in collections.items():
        table[row]["fid"] = collection.compute()
    return {row: figures for row, figures in table.items() if figures}


def from_speech(makers: dict[str, Maker]) -> bool:
    """Whether any of them makes motion from speech, so that clips without sound cannot be compared."""
    return any(maker.motion for maker in makers.values())


def ways(makers: dict[str, Maker], clip: TrueClip) -> Iterator[tuple[str, Tensor, Draw]]:
    """Each way of making the clip: its row of the table, its motion (T, D), and what draws it."""
    yield TRUE_FRAMES, clip.motion, clip.read
    yield PORTRAIT, clip.motion[:1].expand_as(clip.motion), lambda at: clip.portrait.expand(len(at), -1, -1, -1)
    for name, maker in makers.items():
        features = maker.face.encode_portrait(clip.portrait)
        for way, motion in maker.motions(clip.speech, clip.motion, features):
            yield f"{name}: {way}", motion, partial(maker.draw, features, motion)


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


def row_figures(
    row: str, face_model: FaceModel, clip: TrueClip, motion: Tensor, frames: Tensor, judges: Judges
) -> dict[str, float]:
    """One row of the table: figures of motion (T, D) and the frames (F, 3, S, S) that show it, by the functions below.

    The portrait does not move, so the jury has nothing to judge. True frames are not compared with themselves.
    """
    figures = compare_motions(face_model, clip, motion)
    if row != PORTRAIT:
        figures |= judge_motion(clip, motion, judges)
    if row != TRUE_FRAMES:
        figures |= compare_pictures(clip, frames, judges)
    return figures | judge_pictures(face_model, clip, motion, frames, judges)


def compare_motions(face_model: FaceModel, clip: TrueClip, motion: Tensor) -> dict[str, float]:
    """Figures of motion (T, D) against the true one; none if it is the true one.

    `m_lmd`, `f_lmd`: see `landmark_distances`; `mouth_correlation`: that over time of its mouth opening and the true.
    """
    if motion is clip.motion:
        return {}
    nobody = torch.zeros_like(clip.identity)[None]
    face, mouth = landmark_distances(face_model, clip.identity, motion, clip.motion)
    opening, truth = (face_model.mouth_opening(nobody, m) for m in (motion, clip.motion))
    return {"m_lmd": mouth, "f_lmd": face, "mouth_correlation": float(correlation(opening, truth))}


def judge_motion(clip: TrueClip, motion: Tensor, judges: Judges) -> dict[str, float]:
    """The jury's figures of motion (T, D); none without a jury.

    `sync_confidence`, `sync_offset`: see `sync_figures`. `motion_emotion`: 1 if the text that the motion is nearest
    to in the emotion space is that of the clip's label, else 0; needs a label and an emotion space.
    """
    if judges.jury is None:
        return {}
    figures = sync_figures(judges.jury, clip.speech, motion[None])
    if judges.texts is not None and clip.info.emotion is not None:
        acted = int(acted_emotions(judges.jury, motion[None], judges.texts))
        figures["motion_emotion"] = float(EMOTIONS[acted] == clip.info.emotion)
    return figures


def compare_pictures(clip: TrueClip, frames: Tensor, judges: Judges) -> dict[str, float]:
    """Figures of frames (F, 3, S, S) against the true ones: `psnr` in dB, `ssim`, and `lpips` if its judge is given."""
    figures = {"psnr": float(psnr(frames, clip.frames).mean()), "ssim": float(ssim(frames, clip.frames).mean())}
    if judges.lpips:
        figures["lpips"] = float(judges.lpips(frames, clip.frames).mean())
    return figures


def judge_pictures(
    face_model: FaceModel, clip: TrueClip, motion: Tensor, frames: Tensor, judges: Judges
) -> dict[str, float]:
    """Figures of frames (F, 3, S, S) that show motion (T, D), without the true ones.

    `csim`: against the portrait, if its judge is given. `emotion_accuracy`: 1 if the text that the mean of the
    frames' embeddings is nearest to in the emotion space is that of the clip's label, else 0; needs a label and an
    emotion space. `emotion_accuracy_happy_3` and its like: the same under the names of emotion and level. Those of the
    judges of faces: see faces.py.
    """
    figures = judges.faces.figures(frames, clip.portrait, clip.info.emotion) if judges.faces else {}
    if judges.csim:
        size = frames.shape[-1]
        landmarks = (face_model.landmarks(clip.identity, motion[clip.at]) + 1) * (size / 2)
        figures["csim"] = float(judges.csim(frames, landmarks, clip.portrait, clip.portrait_landmarks).mean())
    emotion, level = clip.info.emotion, clip.info.level
    if judges.space is not None and judges.texts is not None and emotion is not None:
        shown = F.normalize(judges.space.encode_image(to_bytes(frames)).mean(dim=0), dim=-1)  # (E,)
        right = float(EMOTIONS[int((judges.texts @ shown).argmax())] == emotion)
        suffix = "" if level is None else f"_{level}"
        figures |= {"emotion_accuracy": right, f"emotion_accuracy_{emotion}{suffix}": right}
    return figures
