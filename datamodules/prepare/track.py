"""The first pass of a preparation: the track of a source, and the small file that keeps it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...models.errors import UserError
from ...models.face_model_fit import NUM_TRACKED
from ...models.files import written_aside
from ..media.read import iterate_video, probe
from ..media.sound import read_audio
from ..sample import FPS, SAMPLES_PER_FRAME, Rejected
from ..tracking.tracker import FaceTracker
from .av_offset import band_energies
from .listing import Source

VERSION = 3  # of this file's content: another one makes all tracks anew
REGION_MARGIN = 0.25  # of an annotated crop's sides, added around it: the detector misses faces that fill a picture
MIN_INSIDE = 0.5  # share of frames in which the face must lie inside an annotated crop, or the crop is not believed
THUMBNAIL = 48  # pixels a side, of which colours are counted
COLOURS = 8  # steps of each channel
STEPS = 32767  # that a face is divided into, of int16
SMALLEST = 1e-6  # pixels, of a face, so that nothing is divided by zero
MIN_DECODED = 0.9  # share of an interval's frames that must be there


@dataclass
class Track:
    """The face and the sound of a source, T frames."""

    points: np.ndarray  # float32 (T, 478, 3) in pixels of the picture; nan if no face was found
    found: np.ndarray  # bool (T,)
    several: np.ndarray  # bool (T,), more than one face
    changes: np.ndarray  # float32 (T,), share of the picture whose colours differ from the frame before
    loudness: np.ndarray  # float32 (T,), root mean square of the speech of each frame
    bands: np.ndarray  # float32 (T, 2), log energies, see av_offset.py
    region: str = "none"  # as ClipInfo.region
    has_sound: bool = True

    def save(self, path: Path, partial: Path | None = None) -> None:
        """Write aside (to `partial`) and rename. Points are rounded to 1/32767 of the face: hundredths of a pixel."""
        centres = np.where(self.found[:, None], self.points.mean(axis=1), 0).astype(np.float32)  # (T, 3)
        offsets = np.nan_to_num(self.points - centres[:, None])
        scales = np.maximum(np.abs(offsets).max(axis=(1, 2)), SMALLEST).astype(np.float32)  # (T,)
        arrays = {"found": self.found, "several": self.several, "changes": self.changes}
        arrays |= {"loudness": self.loudness, "bands": self.bands}
        arrays |= {"region": np.array(self.region), "has_sound": np.array(self.has_sound)}
        arrays |= {"centres": centres, "scales": scales}
        arrays["offsets"] = np.round(offsets / scales[:, None, None] * STEPS).astype(np.int16)
        with written_aside(path, partial) as aside, open(aside, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Track":
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        scales = arrays.pop("scales")[:, None, None] / STEPS
        points = arrays.pop("offsets") * scales.astype(np.float32) + arrays.pop("centres")[:, None]
        points[~arrays["found"]] = np.nan
        return cls(points, **arrays | {"region": str(arrays["region"]), "has_sound": bool(arrays["has_sound"])})


def centres_and_sizes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (T, N, 2 or 3) -> centre (T, 2) and longer side (T,) of their boxes."""
    low, high = points[..., :2].min(axis=1), points[..., :2].max(axis=1)
    return (low + high) / 2, (high - low).max(axis=1)


def track_source(source: Source) -> Track | Rejected:
    """Track the face through a source at 25 fps. A file that cannot be read is a result, not an error.

    Raises UserError if the fault is not the file's: ai-edge-litert is missing.
    """
    try:
        track = _track_pictures(source, source.crop)
        if source.crop is not None and track.found.mean() < MIN_INSIDE:
            whole = _track_pictures(source, None)
            track = whole if whole.found.mean() > track.found.mean() else track
    except UserError as error:
        if str(source.path) not in error.where:
            raise
        return Rejected(source.name, error.reason, "unreadable")
    if source.audio is None and not probe(source.path).has_audio:
        track.has_sound = False
        return track
    try:
        speech = read_source_audio(source, 0, len(track.found))
    except UserError as error:
        where = "" if source.audio is None else f"{source.audio.name}: "
        return Rejected(source.name, where + error.reason, "damaged_audio")
    track.bands = band_energies(speech, len(track.found))
    track.loudness = np.sqrt((speech.reshape(-1, SAMPLES_PER_FRAME) ** 2).mean(axis=1)).astype(np.float32)
    return track


def read_source_audio(source: Source, start: int, stop: int) -> np.ndarray:
    """The sound of frames start..stop (they may lie beyond it: silence) of a source, float32 ((stop - start) * 640,).

    A sound file of its own begins with the video's first frame.
    """
    first, last = source.start + start / FPS, source.start + stop / FPS
    before = round(max(0.0, -first) * FPS) * SAMPLES_PER_FRAME
    speech = read_audio(source.audio or source.path, aligned=source.audio is None, start=max(first, 0.0), stop=last)
    wanted = (stop - start) * SAMPLES_PER_FRAME
    speech = np.pad(speech, (before, 0))[:wanted]
    return np.pad(speech, (0, wanted - len(speech)))


def count_frames(source: Source) -> int | None:
    """Frames of a source's interval; None: to the end of the file."""
    return None if source.stop is None else round((source.stop - source.start) * FPS)


def _track_pictures(source: Source, region: tuple[int, int, int, int] | None) -> Track:
    points, several, changes = [], [], []
    before: np.ndarray | None = None
    wanted = count_frames(source)
    tracker = FaceTracker(video=True)
    for frame in iterate_video(source.path, stop=wanted, origin=source.start):
        faces = tracker.faces(frame) if region is None else _faces_inside(tracker, frame, region)
        points.append(faces[0] if faces else np.full((NUM_TRACKED, 3), np.nan, np.float32))
        several.append(len(faces) > 1)
        colours = count_colours(frame)
        changes.append(0.0 if before is None else float(np.abs(colours - before).sum() / 2))
        before = colours
    if (wanted is not None and len(points) < MIN_DECODED * wanted) or not points:
        seconds = f"{len(points) / FPS:.1f} s can be decoded from {source.start:.1f} s on"
        raise UserError(source.path, f"cut short: {seconds}, {(wanted or 0) / FPS:.1f} s are wanted")
    stacked = np.stack(points)
    found = ~np.isnan(stacked[:, 0, 0])
    empty = np.zeros(len(found), np.float32)
    label = "none" if source.crop is None else "landmarks" if region is None else "annotated"
    return Track(stacked, found, np.array(several), np.array(changes, np.float32), empty, empty[:, None], label)


def _faces_inside(tracker: FaceTracker, frame: np.ndarray, region: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Faces whose centre lies in the region (left, top, width, height), which is searched with a margin."""
    left, top, width, height = region
    across, down = round(REGION_MARGIN * width), round(REGION_MARGIN * height)
    corner = np.array([max(0, left - across), max(0, top - down), 0])
    part = frame[corner[1] : max(0, top + height + down), corner[0] : max(0, left + width + across)]
    if not part.size:
        return []
    faces = [face + corner.astype(np.float32) for face in tracker.faces(part)]
    centres = [centres_and_sizes(face[None])[0][0] for face in faces]
    inside = [left <= x <= left + width and top <= y <= top + height for x, y in centres]
    return [face for face, kept in zip(faces, inside, strict=True) if kept]


def count_colours(frame: np.ndarray) -> np.ndarray:
    """Share of each colour (512,) in frame uint8 (H, W, 3), of which only a grid of pixels is looked at."""
    height, width = frame.shape[:2]
    grid = frame[:: max(1, height // THUMBNAIL), :: max(1, width // THUMBNAIL)] // (256 // COLOURS)
    codes = (grid.astype(np.int64) @ np.array([COLOURS * COLOURS, COLOURS, 1])).ravel()
    return np.bincount(codes, minlength=COLOURS**3) / len(codes)
