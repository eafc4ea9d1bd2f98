"""The checks of one clip and of one tar, as `emohead shards verify` makes them in its processes."""

import hashlib
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...models.errors import UserError
from ..media.flac import decode_flac
from ..sample import EMOTIONS, LEVELS, SAMPLES_PER_FRAME
from .layout import MEMBERS
from .reader import ClipReader, StoredClip

ALIKE = ("key", "frames", "emotion", "level", "view", "identity")  # what the index repeats of a clip's json


@dataclass(frozen=True)
class Job:
    """A clip to check, or if `row` is None a tar as a whole."""

    shard: int
    row: int | None
    bytes: int  # to be read


@dataclass
class Checker:
    """Job -> its problems, one line each. Goes to the processes that check, and opens the data set there."""

    folder: Path
    decoder: str

    @cached_property
    def reader(self) -> ClipReader:
        return ClipReader(self.folder, self.decoder)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "decoder": self.decoder}

    def __call__(self, job: Job) -> list[str]:
        try:
            if job.row is None:
                return check_tar(self.reader, job.shard)
            split = self.reader.manifest.shards[job.shard].split
            return check_clip(self.reader.clip_at(job.shard, job.row), split)
        except UserError as error:
            return [str(error)]


def check_tar(reader: ClipReader, number: int) -> list[str]:
    """Problems of a tar as a whole: its bytes against the manifest, its headers against the index."""
    shard = reader.manifest.shards[number]
    path = reader.folder / shard.name
    problems = []
    try:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                problems.append(f"{path}: its bytes differ from the manifest (SHA-256); copy it again")
        held = tar_members(path)
    except (tarfile.TarError, OSError) as error:
        return [*problems, f"{path}: not a readable tar ({error}); copy it again"]
    try:
        samples = reader.shard(number).records
    except UserError:  # reported once for the shard
        return problems
    listed = {f"{s['key']}.{name}": tuple(span[:2]) for s in samples for name, span in s["members"].items()}
    for name in sorted(held.keys() | listed.keys()):
        if name not in listed:
            problems.append(f"{path}: {name}: not in the index; run `emohead shards index`")
        elif name not in held:
            problems.append(f"{path}: {name}: in the index, but not in the tar; copy the tar again")
        elif held[name] != listed[name]:
            problems.append(f"{path}: {name}: lies elsewhere than the index says; run `emohead shards index`")
    return problems


def tar_members(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each file in a tar, as its headers say; raises tarfile.TarError, OSError."""
    with tarfile.open(path, "r:") as tar:
        return {entry.name.removeprefix("./"): (entry.offset_data, entry.size) for entry in tar if entry.isfile()}


def check_clip(clip: StoredClip, split: str) -> list[str]:
    """Problems of one clip: members that are damaged, cannot be decoded or do not fit together."""
    checks: dict[str, Callable[[StoredClip], str | None]] = {
        "motion.npy": lambda clip: _nothing(clip.motion()),
        "identity.npy": lambda clip: _nothing(clip.identity()),
        "landmarks.npy": lambda clip: _nothing(clip.landmarks()),
        "mp4": _check_video,
        "flac": _check_speech,
        "json": lambda clip: _check_info(clip, split),
    }
    assert checks.keys() == set(MEMBERS)
    problems = []
    for name, check in checks.items():
        try:
            problem = check(clip)
        except UserError as error:
            problems.append(str(error))
            continue
        except Exception as error:  # whatever damage made of it, the clip is named and the next one looked at
            problem = f"cannot be read ({type(error).__name__}: {error})"
        if problem:
            problems.append(str(clip.error(name, problem)))
    return problems


def _nothing(value: Any) -> None:
    """No check: the member is right if reading it did not fail."""


def _check_video(clip: StoredClip) -> str | None:
    clip.member("mp4")  # the frames alone do not cover the container around them
    frames: np.ndarray = clip.frames()
    wanted = (clip.num_frames, 3, clip.size, clip.size)
    return None if frames.shape == wanted else f"frames {frames.shape} instead of {wanted}"


def _check_speech(clip: StoredClip) -> str | None:
    samples = len(clip.decode("flac", decode_flac))
    if abs(samples - clip.num_frames * SAMPLES_PER_FRAME) > SAMPLES_PER_FRAME:
        return f"{samples} samples for {clip.num_frames} frames"
    return None


def _check_info(clip: StoredClip, split: str) -> str | None:
    info = clip.info()
    for name in ALIKE:
        if getattr(info, name) != clip.record[name]:
            return f"{name} is {getattr(info, name)!r}, in the index {clip.record[name]!r}; run `emohead shards index`"
    if info.silent != clip.record.get("silent", False):
        return f"silent is {info.silent}, unlike in the index; run `emohead shards index`"
    for name, wanted in {"size": clip.size, "split": split}.items():
        if getattr(info, name) != wanted:
            return f"{name} is {getattr(info, name)!r}, in the manifest {wanted!r}; run `emohead shards index`"
    if info.emotion not in (*EMOTIONS, None) or info.level not in (*LEVELS, None):
        return f"emotion {info.emotion!r} at level {info.level!r} is none of this format; pack it again"
    return None
