"""From a folder of videos to a packed data set: track every face, fit the face model, crop and pack.

Three passes: `track_sources` (workers; keeps landmarks, no pictures), `fit_pieces`, `pack_pieces` (decodes again, one
source at a time, so that memory holds one clip's pictures and every clip's landmarks).
"""

import csv
import hashlib
import itertools
import multiprocessing
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

from ..models.errors import UserError
from ..models.face_model import FaceModel
from ..models.face_model_fit import MEDIAPIPE_IBUG_68, build_landmark_model, fit_face, tracking_residual
from .media import VIDEO_SUFFIXES, iterate_video, read_audio
from .sample import EMOTIONS, FPS, LEVELS, SAMPLES_PER_FRAME, Clip, ClipInfo, Rejected
from .shards import ShardWriter
from .tracking import Track, crop_box, crop_square, interpolate_gaps, to_crop_units, track_video

MAX_FRAMES = 10 * FPS  # of one clip
MIN_FRAMES = 1 * FPS
MAX_MISSING = 0.1  # share of frames in which the face may be missing, and be interpolated
MAX_SEVERAL = 0.1  # share of frames in which another face may be seen
MIN_LOUDNESS = 1e-3  # root mean square over the clip: -60 dB of full scale
LABELS = "labels.csv"
LABEL_COLUMNS = ("file", "identity", "emotion", "level", "sentence")

Progress = Callable[[int, int, str], None]  # done, total, label


@dataclass
class Source:
    """A video to prepare, and what is known about it."""

    path: Path
    name: str  # as reports call it: the path inside the source folder
    identity: str
    emotion: str | None = None
    level: int | None = None
    view: str = "front"
    sentence: str | None = None


@dataclass
class Piece:
    """One clip to be: a span of a source, its track, and after the second pass its motion."""

    source: Source
    key: str
    start: int  # frames of the source at 25 fps
    points: np.ndarray  # float32 (T, 468, 3), crop units
    crop: tuple[int, int, int]  # left, top, side in pixels of the source
    identity: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # (I,)
    motion: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (T, D)
    residual: float = 0.0

    @property
    def landmarks(self) -> np.ndarray:
        """The 68 tracked landmarks (T, 68, 2), crop units."""
        return self.points[:, MEDIAPIPE_IBUG_68, :2]


@dataclass
class PrepareReport:
    """What became of every video."""

    out: Path
    kept: list[ClipInfo]
    rejected: list[Rejected]
    seconds: dict[str, float]  # wall time of each pass
    frames: int  # tracked, those of rejected clips included


def prepare_folder(
    source: Path | str,
    out: Path | str,
    *,
    size: int = 256,
    codec: str = "h264",
    workers: int = 0,
    face_model: Path | str | None = None,
    progress: Progress | None = None,
) -> PrepareReport:
    """Prepare every video below `source`, with `labels.csv` where there is one, and pack it into the folder `out`.

    Raises UserError where `source` is missing or holds no video, where labels are wrong, or where no clip is left.
    """
    sources = find_sources(Path(source))
    return prepare_sources(
        sources,
        out,
        dataset=Path(source).resolve().name,
        size=size,
        codec=codec,
        workers=workers,
        face_model=face_model,
        progress=progress,
    )


def prepare_sources(
    sources: Sequence[Source],
    out: Path | str,
    *,
    dataset: str,
    size: int = 256,
    codec: str = "h264",
    workers: int = 0,
    face_model: Path | str | None = None,
    progress: Progress | None = None,
) -> PrepareReport:
    """Track, fit and pack a list of videos; the general form of `prepare_folder`."""
    if size < 32 or size % 2:
        raise UserError(f"size {size}: must be even and at least 32")
    tell = progress or (lambda done, total, label: None)
    given = FaceModel.load(face_model) if face_model is not None else None
    clock, seconds = time.monotonic(), {}
    # Opened first: a wrong codec or a folder that is taken must not cost hours of tracking.
    with ShardWriter(out, size=size, codec=codec) as writer:
        tracks = track_sources(sources, workers, tell)
        pieces, rejected = cut_pieces(sources, tracks)
        if not pieces:
            reasons = "; ".join(f"{r.source}: {r.reason}" for r in rejected[:10])
            raise UserError(f"no clip is fit for use ({len(rejected)} rejected): {reasons}")
        seconds["track"], clock = time.monotonic() - clock, time.monotonic()
        frames = sum(len(track.found) for track in tracks if isinstance(track, Track))
        del tracks
        model = fit_pieces(pieces, given, tell)
        seconds["fit"], clock = time.monotonic() - clock, time.monotonic()
        kept = []
        for clip in pack_pieces(pieces, dataset, size, tell):
            writer.write(clip)
            kept.append(clip.info)
        writer.close(model, rejected)
        seconds["pack"] = time.monotonic() - clock
    return PrepareReport(Path(out), kept, rejected, seconds, frames)


# -- sources ---------------------------------------------------------------------------------------------------------


def find_sources(folder: Path) -> list[Source]:
    """The videos below a folder in the order of their names, with their labels."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of videos")
    videos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    if not videos:
        raise UserError(f"{folder}: holds no video ({' '.join(VIDEO_SUFFIXES)})")
    sources = [Source(path, path.relative_to(folder).as_posix(), path.stem) for path in videos]
    if (folder / LABELS).is_file():
        _apply_labels(folder / LABELS, {source.name: source for source in sources})
    return sources


def _apply_labels(table: Path, sources: dict[str, Source]) -> None:
    """Read file, identity, emotion, level, sentence (all but file optional) into the sources."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        unknown = set(reader.fieldnames or ()) - set(LABEL_COLUMNS)
        if unknown or "file" not in (reader.fieldnames or ()):
            raise UserError(f"{table}: columns must be file and any of {', '.join(LABEL_COLUMNS[1:])}")
        for row in reader:
            where = f"{table} line {reader.line_num}"
            cells = {name: (value or "").strip() for name, value in row.items() if name}
            if cells["file"] not in sources:
                raise UserError(f"{where}: no video {cells['file']!r} in this folder")
            _label(sources[cells["file"]], cells, where)


def _label(source: Source, cells: dict[str, str], where: str) -> None:
    emotion, level = cells.get("emotion") or None, cells.get("level") or None
    if emotion is not None and emotion not in EMOTIONS:
        raise UserError(f"{where}: emotion {emotion!r} is not one of {', '.join(EMOTIONS)}")
    if level is not None and level not in map(str, LEVELS):
        raise UserError(f"{where}: level {level!r} is not one of {', '.join(map(str, LEVELS))}")
    source.identity = cells.get("identity") or source.identity
    source.emotion = emotion
    source.level = 1 if emotion == "neutral" else int(level) if level else None
    source.sentence = cells.get("sentence") or None


# -- pass 1: track ---------------------------------------------------------------------------------------------------


def track_sources(sources: Sequence[Source], workers: int, tell: Progress) -> list[Track | Rejected]:
    """The track of each source, in their order, or why it has none; in this process where `workers` is 0."""
    tracks: dict[int, Track | Rejected] = {}

    def note(index: int, track: Track | Rejected) -> None:
        tracks[index] = track
        failed = sum(isinstance(t, Rejected) for t in tracks.values())
        tell(len(tracks), len(sources), f"track, {failed} rejected" if failed else "track")

    tell(0, len(sources), "track")
    if workers == 0:
        for index, source in enumerate(sources):
            note(index, track_source(source))
    else:
        # Spawned: MediaPipe and FFmpeg hold threads, which a fork would copy in the middle of their work.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_single_threaded) as pool:
            jobs = {pool.submit(track_source, source): index for index, source in enumerate(sources)}
            for job in as_completed(jobs):
                note(jobs[job], job.result())
    return [tracks[index] for index in range(len(sources))]


def track_source(source: Source) -> Track | Rejected:
    """Track one video. Runs in worker processes; an unreadable file is a result, not an error."""
    try:
        track = track_video(source.path)
    except UserError as error:
        if str(source.path) not in str(error):  # the fault is not this file's: mediapipe is missing
            raise
        return Rejected(source.name, str(error).removeprefix(f"{source.path}: "))
    if not track.loudness.size:
        return Rejected(source.name, "no sound")
    return track


def _single_threaded() -> None:
    cv2.setNumThreads(1)


# -- quality gates ---------------------------------------------------------------------------------------------------


def cut_pieces(sources: Sequence[Source], tracks: Sequence[Track | Rejected]) -> tuple[list[Piece], list[Rejected]]:
    """Cut tracks into equal pieces of at most 10 s; those that fail a gate are rejected."""
    pieces, rejected = [], []
    for index, (source, track) in enumerate(zip(sources, tracks, strict=True)):
        if isinstance(track, Rejected):
            rejected.append(track)
            continue
        count = -(-len(track.found) // MAX_FRAMES)
        bounds = np.linspace(0, len(track.found), count + 1).round().astype(int)
        for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
            if reason := gate(track, start, stop):
                span = f" [{start / FPS:.2f}-{stop / FPS:.2f} s]" if count > 1 else ""
                rejected.append(Rejected(source.name + span, reason))
                continue
            points = interpolate_gaps(track.points[start:stop], track.found[start:stop])
            box = crop_box(points)
            key = f"{index:06d}_{re.sub(r'[^A-Za-z0-9_-]+', '-', source.path.stem)}_{number:03d}"
            pieces.append(Piece(source, key, int(start), to_crop_units(points, box), box))
    return pieces, rejected


def gate(track: Track, start: int, stop: int) -> str | None:
    """Why frames start..stop of a track are unfit for use, or None."""
    frames = stop - start
    if frames < MIN_FRAMES:
        return f"too short: {frames / FPS:.2f} s of at least {MIN_FRAMES / FPS:.0f} s"
    missing, several = 1 - track.found[start:stop].mean(), track.several[start:stop].mean()
    if missing > MAX_MISSING:
        return "no face" if missing == 1 else f"no face in {missing:.0%} of the frames"
    if several > MAX_SEVERAL:
        return f"several faces in {several:.0%} of the frames"
    if np.sqrt((track.loudness[start:stop] ** 2).mean()) < MIN_LOUDNESS:
        return "silent sound"
    return None


# -- pass 2: fit -----------------------------------------------------------------------------------------------------


def fit_pieces(pieces: Sequence[Piece], face_model: FaceModel | None, tell: Progress) -> FaceModel:
    """Fill in identity, motion and residual of each piece, in `face_model` or in one built from the pieces."""
    model = face_model or build_landmark_model([p.points for p in pieces], [p.source.identity for p in pieces])
    people = defaultdict(list)
    for piece in pieces:
        people[piece.source.identity].append(piece)
    tell(0, len(pieces), "fit")
    done = 0
    for own in people.values():
        identity, motions = fit_face(model, [piece.points for piece in own])
        for piece, motion in zip(own, motions, strict=True):
            piece.identity, piece.motion = identity, motion
            piece.residual = tracking_residual(model, identity, motion, piece.landmarks)
        done += len(own)
        tell(done, len(pieces), "fit")
    return model


# -- pass 3: pack ----------------------------------------------------------------------------------------------------


def pack_pieces(pieces: Sequence[Piece], dataset: str, size: int, tell: Progress) -> Iterator[Clip]:
    """Every piece with its pictures and speech, in the order of the sources."""
    splits = split_identities({piece.source.identity for piece in pieces})
    tell(0, len(pieces), "pack")
    done = 0
    for _, group in itertools.groupby(pieces, key=lambda piece: piece.source.path):
        own = list(group)
        frames = iterate_video(own[0].source.path)  # one way through a source, however many pieces it has
        speech = read_audio(own[0].source.path, aligned=True)
        position = 0
        for piece in own:
            stop = piece.start + len(piece.motion)
            span = itertools.islice(frames, piece.start - position, stop - position)
            pictures = np.stack([crop_square(frame, piece.crop, size) for frame in span])
            position = stop
            yield Clip(
                info=_describe(piece, dataset, splits[piece.source.identity], size),
                frames=pictures,
                speech=_span(speech, piece.start * SAMPLES_PER_FRAME, stop * SAMPLES_PER_FRAME),
                motion=piece.motion,
                identity=piece.identity,
                landmarks=((piece.landmarks + 1) / 2 * size).astype(np.float16),
            )
            done += 1
            tell(done, len(pieces), "pack")


def split_identities(identities: set[str]) -> dict[str, str]:
    """Identity -> split, so that nobody is in two: a tenth each (at least one) to test and val, the rest to train.

    The order is that of the names' SHA-256. Two people make train and val, one makes train only.
    """
    order = sorted(identities, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    held = max(1, len(order) // 10)
    tests = held if len(order) >= 3 else 0
    vals = held if len(order) >= 2 else 0
    trains = len(order) - tests - vals
    return dict(zip(order, ["train"] * trains + ["val"] * vals + ["test"] * tests, strict=True))


def _span(speech: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Samples start..stop, with silence where the sound is over."""
    part = speech[start:stop]
    return np.pad(part, (0, stop - start - len(part)))


def _describe(piece: Piece, dataset: str, split: str, size: int) -> ClipInfo:
    source, frames = piece.source, len(piece.motion)
    left, top, side = piece.crop
    return ClipInfo(
        key=piece.key,
        dataset=dataset,
        identity=source.identity,
        split=split,
        frames=frames,
        size=size,
        emotion=source.emotion,
        level=source.level,
        view=source.view,
        sentence=source.sentence,
        source=source.name,
        start=piece.start / FPS,
        end=(piece.start + frames) / FPS,
        crop=(float(left), float(top), float(side)),
        tracking_residual=round(piece.residual, 5),
        tools={name: metadata.version(name) for name in ("mediapipe", "av")},
    )
