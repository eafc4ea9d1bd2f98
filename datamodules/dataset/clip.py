"""One clip of a data set: every read goes straight to its bytes in the tar.

T frames of a clip, S pixels a side (as stored, or as asked for), D values of motion, I identity coefficients.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import simplejpeg

from ...models.errors import UserError
from ..sample import NUM_LANDMARKS, ClipInfo
from .decode import DECODE, all_finite, decode_npy, decode_speech, resize
from .index import ShardIndex
from .layout import unpack_ranges
from .manifest import REBUILD

LANDMARK_BYTES = NUM_LANDMARKS * 2 * 2  # of a frame: x and y in float16
CHECKSUM_DIGITS = 8  # hexadecimal, of a CRC-32
LONGEST_PROBLEM = 300  # characters of a message that are shown
NOT_FINITE = "holds values that are not finite; prepare the shard again"


class DamagedClip(UserError):
    """One clip cannot be used: its bytes are damaged, cannot be decoded or do not fit together."""

    def __init__(self, *, shard: str, key: str, member: str, problem: str) -> None:
        super().__init__(shard, f"{key}.{member}: {' '.join(problem.split())[:LONGEST_PROBLEM]}")
        self.shard, self.key, self.member = shard, key, member

    @property
    def fault(self) -> str:
        """The problem without the member's name."""
        return self.problem.removeprefix(f"{self.key}.{self.member}: ")

    def __reduce__(self) -> tuple[Any, ...]:
        words = {"shard": self.shard, "key": self.key, "member": self.member, "problem": self.fault}
        return partial(DamagedClip, **words), ()


@dataclass
class StoredClip:
    """One clip of an open shard. A method reads only the bytes it needs and raises DamagedClip if they are bad."""

    shard: ShardIndex
    row: int  # of the index
    size: int
    dims: tuple[int, int]  # D, I
    decoder: str
    relatives: Sequence[int] = ()  # rows of clips that may lend it a portrait (see ClipSource)

    @property
    def key(self) -> str:
        return self.record["key"]

    @property
    def record(self) -> dict[str, Any]:
        """The clip's entry in the index: key, emotion, level, view, identity, frames, members."""
        return self.shard.records[self.row]

    @property
    def num_frames(self) -> int:
        """T"""
        return self.record["frames"]

    def member(self, name: str) -> bytes:
        """A whole member, its SHA-256 compared with the index."""
        offset, size, digest = self._entry(name)
        data = self._read(name, offset, size, lambda data: hashlib.sha256(data).hexdigest() == digest)
        if data is None:
            raise self.error(name, "its bytes differ from the index (SHA-256); copy or prepare the shard again")
        return data

    def info(self) -> ClipInfo:
        return self.decode("json", lambda data: ClipInfo(**json.loads(data)))

    def frames(self, indices: Sequence[int] | None = None, size: int | None = None) -> np.ndarray:
        """Frames (default: all) as uint8 (n, 3, S, S), at the stored size or resized to `size`."""
        wanted = range(self.num_frames) if indices is None else indices
        side = size or self.size
        images = np.empty((len(wanted), side, side, 3), np.uint8)
        self.decode_frames(wanted, images)
        return images.transpose(0, 3, 1, 2)  # (n, 3, S, S)

    def ranges(self) -> np.ndarray | None:
        """The place of each frame's JPEG in the mp4: uint32 (T, 3) of offset, bytes, CRC-32. None in H.264."""
        if "ranges" not in self.record:
            return None
        try:
            return unpack_ranges(self.record["ranges"])
        except ValueError:
            raise self.error("mp4", f"the ranges of its frames in the index are damaged; {REBUILD}") from None

    def decode_frames(self, indices: Sequence[int], out: Sequence[np.ndarray] | np.ndarray) -> None:
        """Decode frames into arrays of the caller, each uint8 (S, S, 3); frames are resized to that S."""
        assert all(0 <= index < self.num_frames for index in indices), f"{self.key}: {indices} of {self.num_frames}"
        if (ranges := self.ranges()) is not None:
            for index, image in zip(indices, out, strict=True):
                self._jpeg(ranges[index], image)
            return
        frames = self.decode("mp4", partial(DECODE[self.decoder], indices=indices))
        for frame, image in zip(frames, out, strict=True):
            if frame.shape != (self.size, self.size, 3):
                raise self.error("mp4", f"a frame has shape {frame.shape}; prepare the shard again")
            image[:] = resize(frame, len(image))

    def speech(self, start: int = 0, num_frames: int | None = None) -> np.ndarray:
        """float32 (n * 640,) in [-1, 1] of n frames from `start` (default: all), silence after its end."""
        count = self.num_frames - start if num_frames is None else num_frames
        return self.decode("flac", partial(decode_speech, start=start, num_frames=count))

    def motion(self) -> np.ndarray:
        """float32 (T, D)"""
        return self._array("motion.npy", (self.num_frames, self.dims[0]))

    def identity(self) -> np.ndarray:
        """float32 (I,)"""
        return self._array("identity.npy", (self.dims[1],))

    def landmarks(self) -> np.ndarray:
        """float16 (T, 68, 2), pixels of the stored frame."""
        return self._array("landmarks.npy", (self.num_frames, NUM_LANDMARKS, 2))

    def landmarks_at(self, frame: int) -> np.ndarray:
        """float16 (68, 2), those of one frame: only their bytes are read if the index has a checksum of them."""
        sums = self.record.get("landmark_rows", "")[CHECKSUM_DIGITS * frame :][:CHECKSUM_DIGITS]
        if not sums:
            return self.landmarks()[frame]
        offset, size, _ = self._entry("landmarks.npy")
        start = offset + size - (self.num_frames - frame) * LANDMARK_BYTES
        data = self._read("landmarks.npy", start, LANDMARK_BYTES, lambda data: f"{zlib.crc32(data):08x}" == sums)
        if data is None:
            raise self.error("landmarks.npy", f"those of frame {frame} differ from the index; copy the shard again")
        landmarks = np.frombuffer(data, "<f2").reshape(NUM_LANDMARKS, 2)
        if not all_finite(landmarks):
            raise self.error("landmarks.npy", NOT_FINITE)
        return landmarks

    def error(self, member: str, problem: str) -> DamagedClip:
        return DamagedClip(shard=self.shard.address, key=self.key, member=member, problem=problem)

    def decode(self, name: str, decode: Callable[[bytes], Any]) -> Any:
        """The result of `decode` for the bytes of a member."""
        data = self.member(name)
        try:
            return decode(data)
        except Exception as error:  # decoders raise all kinds of things on damaged bytes
            raise self.error(name, f"cannot be decoded ({error}); prepare the shard again") from None

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        array = self.decode(name, decode_npy)
        if array.shape != shape:
            raise self.error(name, f"shape {array.shape} instead of {shape}; prepare the shard again")
        if not all_finite(array):
            raise self.error(name, NOT_FINITE)
        return array

    def _entry(self, name: str) -> tuple[int, int, str]:
        try:
            return self.record["members"][name]
        except KeyError:
            raise self.error(name, f"missing from the index; {REBUILD}") from None

    def _read(self, name: str, offset: int, size: int, right: Callable[[bytes], bool]) -> bytes | None:
        """Bytes of the tar, None if they are wrong. Wrong ones are read twice: the cache may be at fault."""
        for fresh in (False, True):
            try:
                data = self.shard.file.read(offset, size, fresh=fresh)
            except OSError as error:
                raise self.error(name, f"cannot be read ({error.strerror}); copy the shard again") from None
            if right(data):
                return data
        return None

    def _jpeg(self, span: np.ndarray, out: np.ndarray) -> None:
        """Decode the frame in a range into `out` (S, S, 3)."""
        start, size, checksum = span.tolist()
        data = self._read("mp4", self._entry("mp4")[0] + start, size, lambda data: zlib.crc32(data) == checksum)
        if data is None:
            raise self.error(
                "mp4", f"the frame at byte {start} differs from the index; copy or prepare the shard again"
            )
        side, place = len(out), out if len(out) == self.size else None  # in place if it need not be resized
        # A smaller size is decoded from fewer coefficients, down to the nearest the codec offers.
        least = {} if place is not None else {"min_height": side, "min_width": side}
        try:
            image = simplejpeg.decode_jpeg(data, "RGB", buffer=place, **least)
        except ValueError as error:
            raise self.error("mp4", f"the frame at byte {start} is no JPEG ({error}); prepare it again") from None
        if place is None:
            out[:] = resize(image, side)
        elif image.shape != out.shape:
            raise self.error("mp4", f"the frame at byte {start} has shape {image.shape}; prepare it again")
