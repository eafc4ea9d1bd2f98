"""Random access to the clips of one data set: every read goes straight to its bytes in the tar.

T frames of a clip, S pixels a side (as stored, or as asked for), D values of motion, I identity coefficients.
Reading is `os.pread` at offsets of the index, so a reader may be used after a fork and sent to a spawned process.
"""

import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import simplejpeg

from ..models.errors import UserError
from ..models.face_model import FaceModel
from .manifest import FACE_MODEL, REBUILD, Shard, check_version, load_manifest, read_json
from .media import MAX_GOP, decode_flac
from .sample import FPS, SAMPLES_PER_FRAME, ClipInfo
from .shards import index_path, load_npy

DECODERS = ("pyav", "decord")


@dataclass
class ShardIndex:
    """A parsed index and the open tar. `ranges[i]` is uint32 (T, 3): offset, bytes, CRC-32 of each frame, or None."""

    path: Path
    file: int
    samples: list[dict[str, Any]]
    ranges: list[np.ndarray | None]

    def __del__(self) -> None:
        os.close(self.file)


@dataclass
class StoredClip:
    """One clip of an open shard. Each method reads only the bytes it needs and raises UserError where they are bad."""

    shard: ShardIndex
    position: int
    size: int
    decoder: str

    @property
    def key(self) -> str:
        return self.record["key"]

    @property
    def record(self) -> dict[str, Any]:
        """The clip's entry in the index: key, emotion, level, view, identity, frames, members."""
        return self.shard.samples[self.position]

    @property
    def num_frames(self) -> int:
        return self.record["frames"]

    def member(self, name: str) -> bytes:
        """A whole member, its SHA-256 compared with the index."""
        offset, size, digest = self._entry(name)
        data = os.pread(self.shard.file, size, offset)
        if hashlib.sha256(data).hexdigest() != digest:
            raise self.error(name, "its bytes differ from the index (SHA-256); copy or prepare the shard again")
        return data

    def info(self) -> ClipInfo:
        return self.decode("json", lambda data: ClipInfo(**json.loads(data)))

    def frames(self, indices: Sequence[int] | None = None, size: int | None = None) -> np.ndarray:
        """Frames (default: all) as uint8 (n, 3, S, S), at the stored size or resized to `size`."""
        wanted = list(range(self.num_frames) if indices is None else indices)
        assert all(0 <= index < self.num_frames for index in wanted), (
            f"{self.key}: {wanted} of {self.num_frames} frames"
        )
        side = size or self.size
        ranges = self.shard.ranges[self.position]
        if ranges is not None:
            images = [self._jpeg(ranges[index], side) for index in wanted]
        else:
            decode = partial(DECODE[self.decoder], indices=wanted)
            images = [resize(image, side) for image in self.decode("mp4", decode)]
        return np.stack(images).transpose(0, 3, 1, 2)  # (n, 3, S, S)

    def speech(self) -> np.ndarray:
        """float32 (T * 640,) in [-1, 1]: cut or filled with silence to the length of the video."""
        return fit_speech(self.decode("flac", decode_flac), self.num_frames)

    def motion(self) -> np.ndarray:
        """float32 (T, D)"""
        return self.decode("motion.npy", load_npy)

    def identity(self) -> np.ndarray:
        """float32 (I,)"""
        return self.decode("identity.npy", load_npy)

    def landmarks(self) -> np.ndarray:
        """float16 (T, 68, 2), pixels of the stored frame."""
        return self.decode("landmarks.npy", load_npy)

    def error(self, member: str, problem: str) -> UserError:
        return UserError(f"{self.shard.path}: {self.key}.{member}: {problem}")

    def _entry(self, name: str) -> tuple[int, int, str]:
        try:
            return self.record["members"][name]
        except KeyError:
            raise self.error(name, f"missing from the index; {REBUILD}") from None

    def decode(self, name: str, decode: Callable[[bytes], Any]) -> Any:
        """A member as `decode` makes it of its bytes."""
        data = self.member(name)
        try:
            return decode(data)
        except (ValueError, RuntimeError, OSError, EOFError, TypeError, AssertionError, av.error.FFmpegError) as error:
            raise self.error(name, f"cannot be decoded ({error}); prepare the shard again") from None

    def _jpeg(self, span: np.ndarray, side: int) -> np.ndarray:
        start, size, checksum = (int(value) for value in span)
        data = os.pread(self.shard.file, size, self._entry("mp4")[0] + start)
        if zlib.crc32(data) != checksum:
            raise self.error(
                "mp4", f"the frame at byte {start} differs from the index; copy or prepare the shard again"
            )
        try:  # a smaller size is decoded from fewer coefficients, down to the nearest the codec offers
            image = simplejpeg.decode_jpeg(data, "RGB", min_height=side, min_width=side)
        except ValueError as error:
            raise self.error("mp4", f"the frame at byte {start} is no JPEG ({error}); prepare it again") from None
        return resize(image, side)


def fit_speech(speech: np.ndarray, num_frames: int) -> np.ndarray:
    """Cut or fill with silence to num_frames * 640 samples."""
    wanted = num_frames * SAMPLES_PER_FRAME
    return np.pad(speech[:wanted], (0, max(0, wanted - len(speech))))


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """Scale (S, S, 3) to (side, side, 3), averaging where it shrinks."""
    if image.shape[0] == side:
        return image
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if side < image.shape[0] else cv2.INTER_LINEAR)


def decode_pyav(video: bytes, indices: Sequence[int]) -> list[np.ndarray]:
    """Frames of an mp4 in memory, each (S, S, 3), reached through the nearest key frame before them."""
    found: dict[int, np.ndarray] = {}
    container: Any  # its type depends on the mode, and the time base on the stream
    with av.open(io.BytesIO(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames, position = container.decode(stream), -1
        for index in sorted(set(indices)):
            if index - position > MAX_GOP:
                container.seek(round(index / FPS / stream.time_base), stream=stream)
                frames = container.decode(stream)
            for frame in frames:
                position = round(frame.pts * stream.time_base * FPS)
                if position >= index:
                    break
            if position != index:
                raise ValueError(f"frame {index} is missing")
            found[index] = frame.to_ndarray(format="rgb24")
    return [found[index] for index in indices]


def decode_decord(video: bytes, indices: Sequence[int]) -> list[np.ndarray]:
    """The same with decord, which crashes on damaged bytes: give it only those whose checksum was compared."""
    import decord  # optional, x86-64 only, and slow to import

    return list(decord.VideoReader(io.BytesIO(video), num_threads=1).get_batch(list(indices)).asnumpy())


DECODE: dict[str, Callable[..., list[np.ndarray]]] = {"pyav": decode_pyav, "decord": decode_decord}


class ClipReader:
    """The clips of one prepared folder, by key or by (shard, position).

    Raises UserError where the folder is no data set, of another version, or where bytes are damaged.
    """

    def __init__(self, folder: Path | str, decoder: str = "pyav", max_open_shards: int = 64) -> None:
        self.folder = Path(folder)
        if decoder not in DECODERS:
            raise UserError(f"decoder {decoder!r}: choose one of {', '.join(DECODERS)}")
        self.decoder, self.max_open_shards = decoder, max_open_shards
        self.manifest = load_manifest(folder)
        self._open: dict[int, ShardIndex] = {}
        self._places: dict[str, tuple[int, int]] = {}  # key -> shard, position; filled when a key is first asked for

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    @property
    def face_model(self) -> FaceModel:
        """The face model of the folder, its checksum compared with the manifest."""
        path = self.folder / FACE_MODEL
        model = FaceModel.load(path)
        if model.checksum() != self.manifest.face_model["checksum"]:
            raise UserError(f"{path}: another face model than the one in the manifest; restore the one written with it")
        return model

    def provenance(self) -> dict[str, Any]:
        """Folder name, clips, seconds, face model, and one checksum over those of the shards."""
        splits = self.manifest.splits.values()
        digests = "".join(shard.sha256 for shard in self.manifest.shards)
        return {
            "folder": self.folder.resolve().name,
            "clips": sum(split.clips for split in splits),
            "seconds": round(sum(split.seconds for split in splits), 2),
            "face_model": self.manifest.face_model["checksum"],
            "sha256": hashlib.sha256(digests.encode()).hexdigest(),
        }

    def keys(self, split: str | None = None) -> list[str]:
        """Keys of a split (default: of all) in the order they are stored."""
        numbers = [i for i, shard in enumerate(self.manifest.shards) if split in (None, shard.split)]
        return [sample["key"] for number in numbers for sample in self.shard(number).samples]

    def clip(self, key: str) -> StoredClip:
        """The clip of a key; raises UserError where there is none."""
        if not self._places:
            for number in range(len(self.manifest.shards)):
                self._places |= {s["key"]: (number, i) for i, s in enumerate(self.shard(number).samples)}
        if key not in self._places:
            raise UserError(f"{self.folder}: no clip {key!r}; `emohead shards info` lists what it holds")
        return self.clip_at(*self._places[key])

    def clip_at(self, shard: int, position: int) -> StoredClip:
        """The clip at a position of a shard, both counted from 0 in the manifest's order."""
        return StoredClip(self.shard(shard), position, self.manifest.size, self.decoder)

    def shard(self, number: int) -> ShardIndex:
        """Open a shard, or take it from those still open."""
        if number not in self._open:
            while len(self._open) >= self.max_open_shards:
                self._open.pop(next(iter(self._open)))  # the longest open one; closes when its last clip is let go
            self._open[number] = open_shard(self.folder, self.manifest.shards[number])
        return self._open[number]

    def info(self, key: str) -> ClipInfo:
        return self.clip(key).info()

    def frames(self, key: str, indices: Sequence[int] | None = None, size: int | None = None) -> np.ndarray:
        """uint8 (n, 3, S, S), RGB"""
        return self.clip(key).frames(indices, size)

    def speech(self, key: str) -> np.ndarray:
        """float32 (T * 640,)"""
        return self.clip(key).speech()

    def motion(self, key: str) -> np.ndarray:
        """float32 (T, D)"""
        return self.clip(key).motion()

    def identity(self, key: str) -> np.ndarray:
        """float32 (I,)"""
        return self.clip(key).identity()

    def landmarks(self, key: str) -> np.ndarray:
        """float16 (T, 68, 2), pixels of the stored frame"""
        return self.clip(key).landmarks()


def open_shard(folder: Path, shard: Shard) -> ShardIndex:
    """Read the index of a tar and open the tar; raises UserError where either is missing or they do not belong."""
    path = folder / shard.name
    content = read_json(index_path(path), missing=REBUILD)
    check_version(content, index_path(path))
    samples = content.get("samples", [])
    if len(samples) != shard.clips:
        raise UserError(f"{index_path(path)}: {len(samples)} clips, the manifest says {shard.clips}; {REBUILD}")
    ranges = [np.array(sample.pop("ranges"), np.uint32) if "ranges" in sample else None for sample in samples]
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); copy or prepare the shard again") from None
    return ShardIndex(path, file, samples, ranges)
