"""Third pass of a preparation: the clips of a shard, from decoding to a finished tar."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ...models.errors import UserError
from ...models.face_model import FaceModel
from ...models.face_model_fit import MEDIAPIPE_IBUG_68, Person, fit_motion, tracking_residual
from ..dataset.layout import index_path
from ..dataset.manifest import read_json
from ..dataset.tally import Tally
from ..dataset.writer import ShardFile, encode_members, index_content
from ..jobs import count_one
from ..media.crop import crop_square
from ..media.read import iterate_video
from ..sample import FPS, SAMPLES_PER_FRAME, Clip, ClipInfo, Rejected
from ..tracking.tracker import NAME as TRACKER
from .bfm09 import coefficients_file, read_coefficients
from .fit import Piece, Plan, Refusal, load_track, piece_points
from .gates import check_residual
from .listing import Source
from .people import load_people
from .track import Track, read_source_audio
from .work import PrepareConfig, WorkFolder


@dataclass
class PackJob:
    """A shard to be packed, with all that a process needs to know for it."""

    out: Path
    name: str
    pieces: list[Piece]
    sources: dict[int, Source]  # by number
    keys: dict[int, str]  # of their tracks
    dataset: str
    config: PrepareConfig
    plan: str  # its SHA-256


@dataclass
class PackedShard:
    """`packed/<shard>.json`: all that finishing the data set needs of a finished shard."""

    plan: str
    tally: Tally  # empty if all its clips were rejected: there is no tar then
    kept: list[ClipInfo]
    rejected: list[Refusal]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tally": self.tally.as_dict()}


def pack_jobs(
    plan: Plan,
    listing_sources: Sequence[Source],
    keys: Sequence[str],
    work: WorkFolder,
    dataset: str,
    config: PrepareConfig,
) -> list[PackJob]:
    """A job for each shard of the plan."""
    sha256 = plan.sha256
    jobs = []
    for name, pieces in plan.shards.items():
        numbers = sorted({piece.source for piece in pieces})
        sources, own = {n: listing_sources[n] for n in numbers}, {n: keys[n] for n in numbers}
        jobs.append(PackJob(work.out, name, pieces, sources, own, dataset, config, sha256))
    return jobs


def read_packed(work: WorkFolder, name: str, plan: str) -> PackedShard | None:
    """The note on a finished shard; None if it is not finished, or was packed by another plan."""
    path = work.packed / f"{name}.json"
    if not path.is_file():
        return None
    content = read_json(path, missing="the pack pass writes it")
    if content["plan"] != plan or "tally" not in content:  # it was written by an emohead that kept no tally
        return None
    tally, tar = Tally.of_dict(content["tally"]), work.out / f"{name}.tar"
    for shard in tally.shards:
        if not (tar.is_file() and tar.stat().st_size == shard.bytes and index_path(tar).is_file()):
            return None
    kept = [ClipInfo(**info) for info in content["kept"]]
    rejected = [(source, number, Rejected(**clip)) for source, number, clip in content["rejected"]]
    return PackedShard(plan, tally, kept, rejected)


def pack_shard(job: PackJob) -> PackedShard:
    """Pack a shard. Its tar is written aside. Tar, index and the note that both are finished appear in this order."""
    work, name = WorkFolder(job.out), f"{job.name}.tar"
    split, config = job.pieces[0].split, job.config
    partial = work.partial(name)
    tar = ShardFile(partial, split)
    kept: list[ClipInfo] = []
    refused: list[Refusal] = []
    for item in _clips(job, work):
        if isinstance(item, Clip):
            tar.add(item.info.key, encode_members(item, codec=config.codec), config.codec)
            kept.append(item.info)
        else:
            refused.append(item)
        count_one()
    tally = tar.finish(name)
    if kept:
        partial.replace(work.out / name)
        work.write(index_path(work.out / name), index_content(name, config.codec, config.size, tar.records))
    else:
        partial.unlink()
    packed = PackedShard(job.plan, tally, kept, refused)
    work.write(work.packed / f"{job.name}.json", packed.as_dict())
    return packed


def _clips(job: PackJob, work: WorkFolder) -> Iterator[Clip | Refusal]:
    """Every piece with its pictures and speech, or why it is left out after all."""
    model, people = _face_model(work.face_model, job.plan), _people(work.people, job.plan)
    for number, group in itertools.groupby(job.pieces, key=lambda piece: piece.source):
        own, source = list(group), job.sources[number]
        track = load_track(work, job.keys[number])
        assert isinstance(track, Track), source.name
        tracked = len(track.found)
        # One way through a source, however many pieces it has.
        frames = iterate_video(source.path, start=own[0].start, stop=own[-1].stop, origin=source.start)
        position = own[0].start
        for piece in own:
            points, name = piece_points(piece, track), f"{source.name} ({piece.key})"
            found = coefficients(piece, source, tracked, points, model, people[source.identity], job.config, name)
            if isinstance(found, Rejected):
                yield number, piece.number, found
                continue
            identity, motion, residual = found
            for _ in range(piece.start - position):
                next(frames, None)
            position = piece.stop
            yield Clip(
                info=_describe(piece, source, job, residual),
                frames=_pictures(frames, piece, source, job.config.size),
                speech=_speech(piece, source),
                motion=motion,
                identity=identity,
                landmarks=((points[:, MEDIAPIPE_IBUG_68, :2] + 1) / 2 * job.config.size).astype(np.float16),
            )


def coefficients(
    piece: Piece,
    source: Source,
    tracked: int,  # frames of the source
    points: np.ndarray,  # (T, 478, 3) in crop units
    model: FaceModel,
    person: Person,
    config: PrepareConfig,
    name: str,
) -> tuple[np.ndarray, np.ndarray, float] | Rejected:
    """Identity (I,), motion (T, D) and the residual of a clip, fitted or from its file; or why it is left out."""
    if config.coefficients is None:
        motion = fit_motion(model, person, points)
    else:
        try:
            motion = stored_motion(config.coefficients, piece, source, tracked)
        except UserError as error:
            return Rejected(name, str(error), "no_coefficients")
    residual = tracking_residual(model, person.identity, motion, points[:, MEDIAPIPE_IBUG_68, :2])
    return check_residual(residual, config.gates, name) or (person.identity, motion, residual)


def stored_motion(folder: Path, piece: Piece, source: Source, tracked: int) -> np.ndarray:
    """Motion from the source's `.mat`, whose frames are those of the whole video at 25 fps.

    `tracked`: frames of the source; the file of an interval may hold more.
    """
    path = coefficients_file(folder, source)
    left, top, side = piece.crop
    height, width = next(iterate_video(source.path, stop=1)).shape[:2]  # a header tells them before a phone's turn
    _, motion = read_coefficients(path, crop=(left, top, side), picture=(width, height))
    begin = round(source.start * FPS)
    more = len(motion) - begin - tracked
    if more < -1 or (more > 1 and source.stop is None):  # one frame more or less is a matter of rounding
        raise UserError(path, f"{len(motion)} frames, {begin + tracked} at 25 fps are needed")
    first = begin + piece.start
    return motion[np.minimum(np.arange(first, first + piece.frames), len(motion) - 1)]


@functools.lru_cache(maxsize=1)
def _face_model(path: Path, plan: str) -> FaceModel:
    """The model of a plan; kept from shard to shard."""
    return FaceModel.load(path)


@functools.lru_cache(maxsize=1)
def _people(path: Path, plan: str) -> dict[str, Person]:
    """Everybody of a plan; kept from shard to shard."""
    return load_people(path)


def _pictures(frames: Iterator[np.ndarray], piece: Piece, source: Source, size: int) -> np.ndarray:
    """The next frames as crops uint8 (T, S, S, 3)."""
    pictures = np.empty((piece.frames, size, size, 3), np.uint8)
    count = 0
    for frame in itertools.islice(frames, piece.frames):
        pictures[count] = crop_square(frame, piece.crop, size)
        count += 1
    if count < piece.frames:
        raise UserError(source.path, f"{piece.start + count} frames can be decoded, {piece.stop} were", "prepare again")
    return pictures


def _speech(piece: Piece, source: Source) -> np.ndarray:
    """Float32 (T * 640,)"""
    if piece.silent:
        return np.zeros(piece.frames * SAMPLES_PER_FRAME, np.float32)
    return read_source_audio(source, piece.start + piece.av_shift, piece.stop + piece.av_shift)


@functools.lru_cache
def _tools() -> dict[str, str]:
    return {"tracker": TRACKER} | {name: metadata.version(name) for name in ("ai-edge-litert", "av")}


def _describe(piece: Piece, source: Source, job: PackJob, residual: float) -> ClipInfo:
    left, top, side = piece.crop
    return ClipInfo(
        key=piece.key,
        dataset=job.dataset,
        identity=source.identity,
        emotion=source.emotion,
        level=source.level,
        view=source.view,
        sentence=source.sentence,
        split=piece.split,
        frames=piece.frames,
        size=job.config.size,
        source=source.name,
        start=source.start + piece.start / FPS,
        end=source.start + piece.stop / FPS,
        crop=(float(left), float(top), float(side)),
        tracking_residual=round(residual, 5),
        region=piece.region,
        av_offset=piece.av_offset,
        av_confidence=piece.av_confidence,
        av_shift=piece.av_shift,
        silent=piece.silent,
        tools=_tools(),
    )
