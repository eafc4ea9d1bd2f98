"""Which tracked clips are good enough for training, and why the others are not.

Pass `fit` asks for all gates but the residual of a face model's fit, which pass `pack` finds.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from ...models.errors import UserError
from ..sample import FPS, Rejected
from .av_offset import Offset
from .track import Track, centres_and_sizes

CUT_SETTLES = 3  # frames that the tracker may take to follow a cut
LEFT_EAR, RIGHT_EAR = 127, 356  # MediaPipe vertices before the ears, as seen in the picture


SILENT_CODES = {"no_audio", "silent_audio"}  # of clips that are kept if the preparation keeps those without sound


@dataclass
class GateConfig:
    """The thresholds; a clip must keep within all of them."""

    min_seconds: float = 1.0
    max_missing: float = 0.1  # share of frames in which the face may be missing, and be interpolated
    max_several: float = 0.1  # share of frames in which another face may be seen
    min_face: float = 64.0  # pixels, height or width of the face, whichever is longer: median
    max_yaw: float = 60.0  # degrees, in nine of ten frames
    cut_picture: float = 0.25  # share of the picture whose colours change at once, and
    cut_face: float = 0.15  # shift of the face's points at the same time, in face sizes: together a cut
    min_loudness: float = 1e-3  # root mean square of the speech: -60 dB of full scale
    max_residual: float = 0.06  # landmarks to fitted face model, in distances of the outer eye corners: mean
    min_av_confidence: float = 3.5  # of the sound's delay; below it nothing is done about it
    max_av_shift: float = 5.0  # frames of delay that are made good; a sure delay beyond is a reason to reject


def parse_gates(assignments: Sequence[str]) -> GateConfig:
    """A config from "name=value" texts; raises UserError for an unknown name or a value that is no number."""
    names = [item.name for item in fields(GateConfig)]
    values = {}
    for text in assignments:
        name, _, value = text.partition("=")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            raise UserError(f"--gate {text}", f"no gate {name!r}", f"did you mean {near[0]}? All: {', '.join(names)}")
        values[name] = _number(value)
        if not math.isfinite(values[name]):
            raise UserError(f"--gate {text}", f"{value!r} is no finite number", f"write --gate {name}={_default(name)}")
    return GateConfig(**values)


def _number(text: str) -> float:
    """nan, if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _default(name: str) -> float:
    return asdict(GateConfig())[name]


def check_span(
    track: Track, start: int, stop: int, cuts: Sequence[int], config: GateConfig, name: str
) -> Rejected | None:
    """Why frames start..stop of a track with these cuts (`find_cuts`) are unfit, or None.

    `name` is what the report calls the clip.
    """
    frames = stop - start
    if frames < config.min_seconds * FPS:
        reason = f"too short: {frames / FPS:.2f} s of at least {config.min_seconds:g} s"
        return Rejected(name, reason, "too_short", round(frames / FPS, 2))
    missing = float(1 - track.found[start:stop].mean())
    if missing > config.max_missing or missing == 1:  # without any face there is nothing to crop, whatever is allowed
        reason = "no face" if missing == 1 else f"no face in {missing:.0%} of the frames"
        return Rejected(name, reason, "no_face", round(missing, 3))
    several = float(track.several[start:stop].mean())
    if several > config.max_several:
        return Rejected(name, f"several faces in {several:.0%} of the frames", "several_faces", round(several, 3))
    if refused := _check_face(track, start, stop, config, name):
        return refused
    for frame in cuts:
        if start < frame < stop:
            reason = f"scene cut at {frame / FPS:.2f} s of the source"
            return Rejected(name, reason, "scene_cut", round(frame / FPS, 2))
    return None


def _check_face(track: Track, start: int, stop: int, config: GateConfig, name: str) -> Rejected | None:
    points = track.points[start:stop][track.found[start:stop]]
    size = float(np.median(centres_and_sizes(points)[1]))
    if size < config.min_face:
        reason = f"face too small: {size:.0f} pixels of at least {config.min_face:g}"
        return Rejected(name, reason, "face_too_small", round(size, 1))
    yaw = float(np.degrees(np.percentile(np.abs(yaw_angles(points)), 90)))
    if yaw > config.max_yaw:
        reason = f"face turned away: yaw {yaw:.0f} degrees, at most {config.max_yaw:g}"
        return Rejected(name, reason, "large_yaw", round(yaw, 1))
    return None


def check_sound(track: Track, start: int, stop: int, config: GateConfig, name: str) -> Rejected | None:
    """Why frames start..stop of a track cannot be heard, or None."""
    if not track.has_sound:
        return Rejected(name, "no sound", "no_audio")
    loudness = float(np.sqrt((track.loudness[start:stop].astype(np.float64) ** 2).mean()))
    if loudness < config.min_loudness:
        return Rejected(name, "silent sound", "silent_audio", round(loudness, 6))
    return None


def yaw_angles(points: np.ndarray) -> np.ndarray:
    """Points (T, 478, 3) -> yaw (T,) in radians, 0 seen from the front: how the line from ear to ear is turned."""
    across = points[:, RIGHT_EAR] - points[:, LEFT_EAR]
    return np.arctan2(-across[:, 2], across[:, 0])


def find_cuts(track: Track, config: GateConfig) -> list[int]:
    """Frames at which another scene begins: the colours of the picture jump, and the face with them."""
    known = np.flatnonzero(track.found)
    if len(known) < 2:
        return []
    points = track.points[known, :, :2]
    sizes = centres_and_sizes(points)[1]
    moved = np.linalg.norm(np.diff(points, axis=0), axis=-1).mean(axis=1) / np.minimum(sizes[1:], sizes[:-1])
    jumped = known[1:][moved > config.cut_face]
    cuts = np.flatnonzero(track.changes > config.cut_picture)
    return [int(frame) for frame in cuts if ((jumped >= frame) & (jumped <= frame + CUT_SETTLES)).any()]


def check_offset(offset: Offset | None, config: GateConfig, name: str) -> Rejected | None:
    """Why the sound of a source cannot be used with its pictures, or None."""
    if offset is None or not is_sure(offset, config) or abs(offset.frames) <= config.max_av_shift:
        return None
    reason = f"sound {offset.frames:+d} frames off the lips (confidence {offset.confidence:.1f})"
    return Rejected(name, reason, "av_offset", offset.frames)


def is_sure(offset: Offset | None, config: GateConfig) -> bool:
    return offset is not None and offset.confidence >= config.min_av_confidence


def check_residual(residual: float, config: GateConfig, name: str) -> Rejected | None:
    """Whether the face model follows the tracked face."""
    if residual <= config.max_residual:
        return None
    reason = f"face model {residual:.1%} of the eyes' distance off the landmarks, at most {config.max_residual:.1%}"
    return Rejected(name, reason, "tracking_residual", round(residual, 4))
