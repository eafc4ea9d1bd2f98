"""Checks a data set byte by byte, and makes a data set of tars that were packed elsewhere."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..models.errors import UserError
from ..models.face_model import FaceModel
from .manifest import FACE_MODEL, MANIFEST, Manifest, Tally, load_manifest
from .media import decode_flac
from .reader import ClipReader, StoredClip
from .sample import EMOTIONS, LEVELS, SAMPLES_PER_FRAME, SPLITS, ClipInfo
from .shards import CODECS, MEMBERS, load_npy, sample_record, write_index

Progress = Callable[[int, int, str], None]  # done, total, label


def no_progress(done: int, total: int, label: str) -> None:
    """Report to nobody."""


# ---------------------------------------------------------------------------------------------- verify


def verify_shards(folder: Path | str, *, workers: int = 1, progress: Progress = no_progress) -> list[str]:
    """Compare every checksum, decode every member, and return the problems found, one line each.

    Raises UserError where the folder is no data set or its face model is not the one of its manifest.
    """
    reader = ClipReader(folder)
    face_model = reader.face_model
    dims = (face_model.motion_dim, face_model.num_identity)
    total = len(reader.manifest.shards)
    found: dict[int, list[str]] = {}
    for number, problems in _each_shard(Path(folder), total, dims, workers):
        found[number] = problems
        progress(len(found), total, "verify")
    return [problem for number in sorted(found) for problem in found[number]]


def verify_shard(folder: Path, number: int, dims: tuple[int, int]) -> list[str]:
    """Problems of one shard; `dims` is D of the motion and I of the identity."""
    reader = ClipReader(folder)
    shard = reader.manifest.shards[number]
    path = folder / shard.name
    try:
        index = reader.shard(number)
    except UserError as error:
        return [str(error)]
    problems = []
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            problems.append(f"{path}: its bytes differ from the manifest (SHA-256)")
    for position in range(len(index.samples)):
        problems += check_clip(reader.clip_at(number, position), dims)
    return problems


def check_clip(clip: StoredClip, dims: tuple[int, int]) -> list[str]:
    """Problems of one clip: members that are damaged, cannot be decoded or do not fit together."""
    frames, (motion_dim, identity_dim) = clip.num_frames, dims
    shapes: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
        "motion.npy": (clip.motion, (frames, motion_dim)),
        "identity.npy": (clip.identity, (identity_dim,)),
        "landmarks.npy": (clip.landmarks, (frames, 68, 2)),
        "mp4": (lambda: _decode_all(clip), (frames, 3, clip.size, clip.size)),
    }
    problems = []
    for name, (read, shape) in shapes.items():
        try:
            value = read()
        except UserError as error:
            problems.append(str(error))
            continue
        if value.shape != shape:
            problems.append(str(clip.error(name, f"shape {value.shape} instead of {shape}")))
        elif not np.isfinite(value).all():
            problems.append(str(clip.error(name, "holds values that are not finite")))
    return problems + _check_speech_and_info(clip)


def _decode_all(clip: StoredClip) -> np.ndarray:
    clip.member("mp4")  # the frames alone do not cover the container around them
    return clip.frames()


def _check_speech_and_info(clip: StoredClip) -> list[str]:
    problems = []
    try:
        samples = len(clip.decode("flac", decode_flac))
        if abs(samples - clip.num_frames * SAMPLES_PER_FRAME) > SAMPLES_PER_FRAME:
            problems.append(str(clip.error("flac", f"{samples} samples for {clip.num_frames} frames")))
    except UserError as error:
        problems.append(str(error))
    try:
        info = clip.info()
        if (info.key, info.frames, info.emotion) != (clip.key, clip.num_frames, clip.record["emotion"]):
            problems.append(str(clip.error("json", "says something else than the index")))
    except UserError as error:
        problems.append(str(error))
    return problems


def _each_shard(folder: Path, total: int, dims: tuple[int, int], workers: int) -> Iterator[tuple[int, list[str]]]:
    if workers <= 1 or total <= 1:
        yield from ((number, verify_shard(folder, number, dims)) for number in range(total))
        return
    with ProcessPoolExecutor(min(workers, total), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(verify_shard, folder, number, dims): number for number in range(total)}
        for future in as_completed(futures):
            yield futures[future], future.result()


# ---------------------------------------------------------------------------------------------- index


def index_shards(folder: Path | str, *, progress: Progress = no_progress) -> Manifest:
    """Write the index of every tar in a folder, and the manifest, from the tars and `facemodel.npz` alone.

    The tars are left as they are. What an existing manifest says of rejected clips is kept. Raises UserError where
    there is no tar or no face model, or where a tar does not hold clips of this format.
    """
    folder = Path(folder)
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise UserError(f"{folder}: no tar to index; give the folder that holds them")
    face_model = FaceModel.load(folder / FACE_MODEL)
    rejected = load_manifest(folder).rejected if (folder / MANIFEST).exists() else []
    tally, kinds = Tally(), set()
    for done, path in enumerate(tars, start=1):
        kinds.add(_index_tar(path, tally, face_model))
        progress(done, len(tars), "index")
    if len(kinds) > 1:
        listing = " and ".join(f"{codec} at {size}" for codec, size in sorted(kinds))
        raise UserError(f"{folder}: its tars hold frames as {listing}; keep each kind in a folder of its own")
    codec, size = kinds.pop()
    manifest = tally.manifest(codec=codec, size=size, face_model=face_model, rejected=rejected)
    manifest.save(folder)
    return manifest


def _index_tar(path: Path, tally: Tally, face_model: FaceModel) -> tuple[str, int]:
    """Index one tar; returns its codec and frame size."""
    records: list[dict[str, Any]] = []
    kinds, splits, keys = set(), set(), set()
    for key, members, offsets in _samples(path):
        info = _check_members(path, key, members, face_model)
        codec = _codec(path, key, members["mp4"])
        record = sample_record(key, members, offsets, codec)
        if "ranges" in record and len(record["ranges"]) != info.frames:
            found = f"{len(record['ranges'])} frames, {info.frames} in its json"
            raise UserError(f"{path}: {key}.mp4: {found}; pack it again")
        tally.add_clip(info.split, record, load_npy(members["motion.npy"]))
        records.append(record)
        kinds.add((codec, info.size))
        splits.add(info.split)
        keys.add(key)
    if len(kinds) != 1 or len(splits) != 1 or len(keys) != len(records):
        raise UserError(
            f"{path}: wanted are clips of different keys, of one codec, frame size and split; pack it again"
        )
    codec, size = kinds.pop()
    write_index(path, codec, size, records)
    tally.add_shard(path, path.name, splits.pop(), records)
    return codec, size


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes], dict[str, int]]]:
    """Key, members and their offsets of each run of members that share a key."""
    key = ""
    members: dict[str, bytes] = {}
    offsets: dict[str, int] = {}
    try:
        with tarfile.open(path) as tar:
            for entry in tar:
                if not entry.isfile():
                    continue
                found, _, name = entry.name.removeprefix("./").partition(".")
                if found != key and members:
                    yield key, members, offsets
                    members, offsets = {}, {}
                key = found
                members[name], offsets[name] = tar.extractfile(entry).read(), entry.offset_data  # type: ignore[union-attr]
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path}: not a readable tar ({error}); copy it again") from None
    if members:
        yield key, members, offsets


def _check_members(path: Path, key: str, members: Mapping[str, bytes], face_model: FaceModel) -> ClipInfo:
    missing = [name for name in MEMBERS if name not in members]
    if missing:
        raise UserError(f"{path}: {key}: lacks {', '.join(missing)}; pack it again with all of {', '.join(MEMBERS)}")
    try:
        info = ClipInfo(**json.loads(members["json"]))
        motion, identity = load_npy(members["motion.npy"]), load_npy(members["identity.npy"])
    except Exception as error:  # numpy raises all kinds of things on a damaged header
        raise UserError(f"{path}: {key}: json, motion.npy or identity.npy is not of this format ({error})") from None
    _check_choice(path, key, "split", info.split, SPLITS)
    _check_choice(path, key, "emotion", info.emotion, (*EMOTIONS, None))
    _check_choice(path, key, "level", info.level, (*LEVELS, None))
    found, wanted = (motion.shape, identity.shape), ((info.frames, face_model.motion_dim), (face_model.num_identity,))
    if info.key != key or found != wanted:
        raise UserError(f"{path}: {key}: key or shapes {found} do not fit its json and {FACE_MODEL} ({wanted})")
    return info


def _check_choice(path: Path, key: str, name: str, value: Any, valid: Sequence[Any]) -> None:
    if value not in valid:
        raise UserError(f"{path}: {key}.json: {name} is {value!r}; wanted is one of {', '.join(map(str, valid))}")


def _codec(path: Path, key: str, video: bytes) -> str:
    try:
        with av.open(io.BytesIO(video)) as container:
            codec = container.streams.video[0].codec_context.name
    except (av.error.FFmpegError, IndexError) as error:
        raise UserError(f"{path}: {key}.mp4: not a video ({type(error).__name__}); pack it again") from None
    if codec not in CODECS:
        raise UserError(f"{path}: {key}.mp4: its codec is {codec}; wanted is one of {', '.join(CODECS)}")
    return codec
