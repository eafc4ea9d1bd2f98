"""Whole videos against the true ones, in one table: what needs no network, the face stage alone, teacher and student.

Shapes: T frames, S pixels, D values of motion, F frames that are looked at.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..datamodules.reader import ClipReader
from ..models.emotion_student import EmotionEncoder
from ..models.face import FaceGenerator, PortraitFeatures
from ..models.face_model import POSE_DIM, FaceModel
from ..models.motion import AudioTo3DMM
from ..models.talker import anchor, motion_windows
from .distill import psnr
from .evaluation import Advance, keys_of, no_advance
from .evaluation_face import ssim
from .evaluation_motion import correlation, landmark_distances
from .judges import Csim, Fid, FidCollection, Lpips, SyncNet

FRAMES_PER_CLIP = 8  # that pictures are compared at, evenly over the clip
BATCH = 8

Table = dict[str, dict[str, float]]  # figures by name, for each way of making the video
Draw = Callable[[Sequence[int]], Tensor]  # frames of a video by their numbers -> (F, 3, S, S) in [-1, 1]


@dataclass
class Maker:
    """What draws videos, and what drives it from speech if there is anything."""

    face: FaceGenerator
    motion: AudioTo3DMM | None = None
    emotion: EmotionEncoder | None = None

    def motions(self, speech: Tensor, truth: Tensor, features: PortraitFeatures) -> Iterator[tuple[str, Tensor]]:
        """Motion (T, D) by its name, for speech (1, N) and the true motion (T, D)."""
        yield "mean motion", self.face.motion_mean.expand_as(truth)
        yield "true motion", truth
        if self.motion is None or self.emotion is None:
            return
        motion = self.motion.generate(speech, self.emotion.encode_speech(speech), features.identity)[0, : len(truth)]
        yield "speech", anchor(motion, features.motion[0], self.motion.motion_mean)
        yield "speech, true pose", torch.cat([motion[:, :-POSE_DIM], truth[:, -POSE_DIM:]], dim=1)

    def draw(self, features: PortraitFeatures, motion: Tensor, at: Sequence[int]) -> Tensor:
        """The frames `at` of motion (T, D) -> (F, 3, S, S) in [-1, 1]."""
        windows = motion_windows(motion, self.face.config.window)[list(at)]
        made = [self.face(features.repeat(len(part)), part).frame.float() for part in windows.split(BATCH)]
        return torch.cat(made).clamp(-1, 1)


class Judges:
    """The networks that a user brings (see judges.py); those that are not given are not asked."""

    def __init__(
        self,
        lpips: Path | None = None,
        fid: Path | None = None,
        csim: Path | None = None,
        syncnet: Path | None = None,
    ) -> None:
        self.lpips = Lpips(lpips) if lpips else None
        self.csim = Csim(csim) if csim else None
        self.syncnet = SyncNet(syncnet) if syncnet else None
        self.fid = Fid(fid) if fid else None

    def missing(self) -> list[str]:
        """What is not measured, by name."""
        given = {"LPIPS": self.lpips, "FID": self.fid, "CSIM": self.csim, "SyncNet": self.syncnet}
        return [name for name, judge in given.items() if judge is None]


@dataclass
class TrueClip:
    """A clip of the split, as the figures want it."""

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
    advance: Advance = no_advance,
) -> Table:
    """Each clip made anew from its first frame, in several ways, and compared with the clip.

    Rows: "portrait" copies the first frame; for each maker, its name in front, "mean motion" of the training data,
    "true motion" (what the face stage alone can do), "speech" (all from speech, emotion too, the head still) and
    "speech, true pose". Columns: `psnr` in dB, `ssim`; `lpips`, `fid`, `csim`, `sync_net_…` where judges are given;
    `m_lmd`, `f_lmd` (see `landmark_distances`) and `mouth_correlation` of the motion that was drawn. Averaged over
    clips; pictures are compared at eight frames of each, the first left out, and SyncNet sees all of them. All makers
    have one size.
    """
    (size,) = {maker.face.config.size for maker in makers.values()}
    found: dict[str, dict[str, list[float]]] = {}
    collections: dict[str, FidCollection] = {}
    for key in keys_of(reader, split):
        clip = true_clip(reader, key, size)
        true_features = judges.fid.features(clip.frames) if judges.fid else None
        for row, motion, draw in ways(makers, clip):
            frames = draw(clip.at)
            figures = compare_motions(reader.face_model, clip, motion)
            figures |= compare_pictures(reader.face_model, clip, motion, frames, judges)
            if judges.syncnet:
                figures |= judges.syncnet(draw(range(len(clip.motion))), clip.speech[0])
            if judges.fid and true_features is not None:
                if row not in collections:
                    collections[row] = judges.fid.collect()
                collections[row].update(true_features, judges.fid.features(frames))
            for name, value in figures.items():
                found.setdefault(row, {}).setdefault(name, []).append(value)
        advance(1)
    table = {row: {name: float(np.mean(values)) for name, values in figures.items()} for row, figures in found.items()}
    for row, collection in collections.items():
        table[row]["fid"] = collection.compute()
    return table


def ways(makers: dict[str, Maker], clip: TrueClip) -> Iterator[tuple[str, Tensor, Draw]]:
    """Each way of making the clip: its row of the table, its motion (T, D), and what draws it."""
    yield "portrait", clip.motion[:1].expand_as(clip.motion), lambda at: clip.portrait.expand(len(at), -1, -1, -1)
    for name, maker in makers.items():
        features = maker.face.encode_portrait(clip.portrait)
        for way, motion in maker.motions(clip.speech, clip.motion, features):
            yield f"{name}: {way}", motion, partial(maker.draw, features, motion)


def true_clip(reader: ClipReader, key: str, size: int) -> TrueClip:
    motion = torch.from_numpy(reader.motion(key))
    last = len(motion) - 1
    at = np.unique(np.linspace(min(1, last), last, FRAMES_PER_CLIP).round())
    indices = [0, *at.astype(int).tolist()]
    frames = torch.from_numpy(reader.frames(key, indices, size=size)).float() / 127.5 - 1
    return TrueClip(
        frames=frames[1:],
        at=indices[1:],
        speech=torch.from_numpy(reader.speech(key))[None],
        motion=motion,
        identity=torch.from_numpy(reader.identity(key)),
        portrait=frames[:1],
        portrait_landmarks=torch.from_numpy(reader.landmarks(key)[0]).float() * (size / reader.info(key).size),
    )


def compare_motions(face_model: FaceModel, clip: TrueClip, motion: Tensor) -> dict[str, float]:
    """Of motion (T, D) against the true one; nothing where it is the true one."""
    if motion is clip.motion:
        return {}
    nobody = torch.zeros_like(clip.identity)[None]
    face, mouth = landmark_distances(face_model, clip.identity, motion, clip.motion)
    opening, truth = (face_model.mouth_opening(nobody, m) for m in (motion, clip.motion))
    return {"m_lmd": mouth, "f_lmd": face, "mouth_correlation": correlation(opening, truth)}


def compare_pictures(
    face_model: FaceModel, clip: TrueClip, motion: Tensor, frames: Tensor, judges: Judges
) -> dict[str, float]:
    """Of frames (F, 3, S, S) that show motion (T, D) against the true ones."""
    figures = {"psnr": float(psnr(frames, clip.frames).mean()), "ssim": float(ssim(frames, clip.frames).mean())}
    if judges.lpips:
        figures["lpips"] = float(judges.lpips(frames, clip.frames).mean())
    if judges.csim:
        size = frames.shape[-1]
        landmarks = (face_model.landmarks(clip.identity, motion[clip.at]) + 1) * (size / 2)
        figures["csim"] = float(judges.csim(frames, landmarks, clip.portrait, clip.portrait_landmarks).mean())
    return figures
