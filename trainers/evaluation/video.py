"""Whole videos against the true ones, in one table: what needs no network, the face stage alone, teacher and student.

Shapes: T frames, S pixels, D values of motion, F frames that are looked at, E width of the emotion space.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.sample import EMOTIONS
from ...models.emotion_student import EmotionEncoder
from ...models.face import to_bytes
from ...models.face_model import POSE_DIM, FaceModel
from ..metrics import correlation, landmark_distances, psnr
from .common import Advance, ClipFigures, Interval, averages, intervals, keys_of, name_embeddings, no_advance
from .face import ssim
from .faces import FaceJudges
from .films import Film, compare_films, drawn, film, spread
from .judges import Csim, Fid, FidCollection, Lpips, SyncNet
from .jury import Jury
from .landmarks import blinks_per_minute
from .makers import PORTRAIT, TRUE_FRAMES, Draw, Maker, TrueClip, from_speech, true_clip, ways
from .tracked import refitted

Table = dict[str, dict[str, float]]  # figures by name, for each way of making the video


class Judges:
    """The networks that a user brings (judges.py) or has installed (faces.py), an emotion space of the chain's own,
    which names the emotion of frames, and the jury of motion. Those not given are not asked."""

    def __init__(
        self,
        lpips: Path | None = None,
        fid: Path | None = None,
        csim: Path | None = None,
        syncnet: Path | None = None,
        *,
        space: EmotionEncoder | None = None,
        jury: Jury | None = None,
        faces: FaceJudges | None = None,
    ) -> None:
        self.lpips = Lpips(lpips) if lpips else None
        self.csim = Csim(csim) if csim else None
        self.syncnet = SyncNet(syncnet) if syncnet else None
        self.fid = Fid(fid) if fid else None
        self.space, self.jury, self.faces = space, jury, faces
        with torch.no_grad():
            self.texts = name_embeddings(space) if space else None  # (8, E)

    def missing(self) -> list[str]:
        """Names of the figures that are not measured, since the user did not bring their network."""
        given = {"LPIPS": self.lpips, "FID": self.fid, "CSIM": self.csim, "SyncNet": self.syncnet}
        return [name for name, judge in given.items() if judge is None] + (self.faces.missing() if self.faces else [])


@dataclass
class Compared:
    """The table of videos, and how sure it is."""

    table: Table = field(default_factory=dict)
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)  # of 95 %, by row and figure
    tracked: list[str] = field(default_factory=list)  # clips all of whose frames were looked at
    faceless: dict[str, list[str]] = field(default_factory=dict)  # those of them without a face, by row
    doubted: dict[str, str] = field(default_factory=dict)  # figures left out, since their judge is wrong of true films


@torch.inference_mode()
def evaluate_videos(
    makers: dict[str, Maker],
    reader: ClipReader,
    split: str,
    judges: Judges,
    *,
    unseen: Sequence[str] = (),
    tracked_clips: int = 0,
    advance: Advance = no_advance,
) -> Compared:
    """Each clip made anew from its first frame, in several ways, and compared with the clip.

    Rows: "true frames" are the clip's own, of which only those figures are given that need no truth; "true frames,
    again" are those from JPEG files of them, whose figures are the noise of each; "portrait" copies the first. For each
    maker, its name in front, "mean motion" of the training data, "true motion" (what the face stage alone can do),
    "speech" (all from speech, emotion too, the head without sway) and "speech, true pose". The head of "mean motion"
    and "speech" moves about its place in the portrait. A row without a figure is left out.

    Figures, averaged over clips: `row_figures` are of eight frames of each clip, the first left out; `fid` is of the
    frames of all clips, and has no interval; SyncNet sees all frames. `whole_figures` are those of all frames, of at
    most `tracked_clips` clips, as those of the judge of lips, see `lip_closure`. With emotions named in `unseen`,
    `emotion_accuracy` stands there as `seen_…` and `unseen_…` too (see `averages`). All makers have one size.
    """
    (size,) = {maker.face.config.size for maker in makers.values()}
    keys, seen = keys_of(reader, split, heard=from_speech(makers)), Seen()
    tracked = spread(reader, keys, tracked_clips)
    if judges.faces and judges.faces.lips:
        judges.faces.lips.listen(reader, tracked)
    for key in keys:
        clip = true_clip(reader, key, size)
        _compare_clip(key, clip, ways(makers, clip), reader.face_model, judges, seen, whole=key in tracked)
        advance(1)
    result = Compared(tracked=tracked, faceless=seen.faceless)
    for row, clips in seen.figures.items():
        if table := averages(clips, unseen, apart=["emotion_accuracy"]):
            fid = {"fid": seen.pictures[row].compute()} if row in seen.pictures else {}
            result.table[row] = table | fid
            result.intervals[row] = intervals(clips, unseen, apart=["emotion_accuracy"])
    if judges.jury:
        result.doubted = judges.jury.doubts(seen.figures.get(TRUE_FRAMES, []))
    for name in result.doubted:
        for row in result.table:
            result.table[row].pop(name, None)
            result.intervals[row].pop(name, None)
    return result


@dataclass
class Seen:
    """What was seen of the clips so far, by row."""

    figures: dict[str, list[ClipFigures]] = field(default_factory=dict)
    pictures: dict[str, FidCollection] = field(default_factory=dict)
    faceless: dict[str, list[str]] = field(default_factory=dict)  # clips that no face was found in


def _compare_clip(
    key: str,
    clip: TrueClip,
    rows: Iterable[tuple[str, Tensor, Draw]],
    face_model: FaceModel,
    judges: Judges,
    seen: Seen,
    *,
    whole: bool,
) -> None:
    """Add the figures of a clip in all `rows`, those of all its frames too if it is seen `whole`."""
    count = len(clip.motion)
    truth = film(drawn(clip.read, count)) if whole else None
    true_features = judges.fid.features(clip.frames) if judges.fid else None
    for row, motion, draw in rows:
        frames = draw(clip.at)
        figures = row_figures(row, face_model, clip, motion, frames, judges)
        if judges.syncnet:
            figures |= judges.syncnet(draw(range(count)), clip.speech[0])
        if judges.fid and true_features is not None and row != TRUE_FRAMES:
            if row not in seen.pictures:
                seen.pictures[row] = judges.fid.collect()
            seen.pictures[row].update(true_features, judges.fid.features(frames))
        if truth is not None:
            made = truth if row == TRUE_FRAMES else film(drawn(draw, count))
            figures |= whole_figures(face_model, clip, motion, made, truth, judges)
            if made.face is not None and made.face.points is None:
                seen.faceless.setdefault(row, []).append(key)
            if row != PORTRAIT:
                figures |= judge_lips(key, made, judges)
        seen.figures.setdefault(row, []).append((clip.info.emotion, figures))


def judge_lips(key: str, made: Film, judges: Judges) -> dict[str, float]:
    """Whether lips close in P, B and M, see `lip_closure`: of a face that was tracked, if the judge is installed."""
    lips = judges.faces.lips if judges.faces else None
    points = made.face.points if made.face else None
    return lips.figures(key, points) if lips and points is not None else {}


def whole_figures(
    face_model: FaceModel, clip: TrueClip, motion: Tensor, made: Film, truth: Film, judges: Judges
) -> dict[str, float]:
    """Figures of all frames of a video that motion (T, D) drives; `made is truth` if it is the clip itself.

    `temporal`, `flicker`, `sharpness`: see `compare_pixels`. All others need the tracker. `faces_found`: share of the
    frames in which it finds a face. `blinks_per_minute`: see `blinks`. Those of `compare_faces` are against the true
    film, `pose_error` and `place_error` only if the motion has the true pose. `model_residual`: how far the face model,
    fitted to the tracked points, lies from them, in pixels of 256. `judge_motion` is of the motion of that fit, in
    which the true and the made clip have one rest pose.
    """
    own = made is truth
    follows = torch.equal(motion[:, -POSE_DIM:], clip.motion[:, -POSE_DIM:])
    figures = {} if own else compare_films(made, truth, follows=follows)
    if made.face is None or truth.face is None:
        return figures
    figures["faces_found"] = made.face.found
    if made.face.points is None or truth.face.points is None:
        return figures
    figures["blinks_per_minute"] = blinks_per_minute(made.face.points)
    fit = refitted(face_model, made.face.points, truth.face.points, clip.motion)
    figures["model_residual"] = fit.residual
    return figures | judge_motion(clip, fit.motion, judges)


def row_figures(
    row: str, face_model: FaceModel, clip: TrueClip, motion: Tensor, frames: Tensor, judges: Judges
) -> dict[str, float]:
    """Figures of the frames (F, 3, S, S) that show motion (T, D), and of that motion, by the functions below.

    True frames are not compared with themselves. The motion of the portrait does not move, so the jury has nothing to
    judge. `driving_…`: figures of what drives a video, whatever the video shows of it.
    """
    driving = compare_motions(face_model, clip, motion)
    if row != PORTRAIT:
        driving |= judge_motion(clip, motion, judges)
    figures = {} if row == TRUE_FRAMES else compare_pictures(clip, frames, judges)
    figures |= {f"driving_{name.removeprefix('motion_')}": value for name, value in driving.items()}
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
    """What the jury says of motion (T, D), see `Jury.judge`; nothing without a jury."""
    if judges.jury is None:
        return {}
    return judges.jury.judge(clip.info.identity, clip.speech, motion, clip.info.emotion)


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
