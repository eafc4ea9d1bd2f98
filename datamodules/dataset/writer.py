"""The packed data set: plain tars, one index beside each, and one manifest for all.

    train-000000.tar          members <key>.mp4 .flac .motion.npy .identity.npy .landmarks.npy .json, clip after clip
    train-000000.index.json   where each member lies, its SHA-256, and for Motion-JPEG where each frame lies
    manifest.json             shards, splits, counts, statistics, rejected clips; a folder without it is no data set
    facemodel.npz             the face model that every motion.npy is written in

The same clips give the same bytes: times and owners in the tars are fixed. `tar tf` and webdataset read the tars.
"""

import base64
import hashlib
import io
import json
import re
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...models.errors import UserError
from ...models.face_model import FaceModel
from ...models.files import PARTIAL, write_json
from ..media.flac import encode_flac
from ..media.write import encode_clip, packet_ranges
from ..sample import FORMAT_VERSION, NUM_LANDMARKS, SPLITS, Clip, Rejected
from .layout import CODECS, MEMBERS, index_path, load_npy
from .manifest import MANIFEST, Manifest, publish
from .tally import Tally

MIN_SIZE = 32  # pixels a side
TAR_BLOCK = 512


def check_codec(codec: str) -> None:
    """Raise UserError if no data set can be in this codec."""
    if codec not in CODECS:
        raise UserError(f"codec {codec!r}", f"choose one of {', '.join(CODECS)}")


def check_size(size: int) -> None:
    """Raise UserError if frames cannot be so many pixels a side: the codecs halve the resolution of colours."""
    if size < MIN_SIZE or size % 2:
        raise UserError(f"size {size}", f"must be even and at least {MIN_SIZE}")


# ---------------------------------------------------------------------------------------------- members and index


def encode_members(clip: Clip, *, codec: str, quality: int | None = None) -> dict[str, bytes]:
    """The members of a clip by name. Pure: call it in worker processes and hand the result to `write_members`."""
    size = clip.info.size
    assert clip.frames.shape == (clip.info.frames, size, size, 3), f"{clip.info.key}: frames {clip.frames.shape}"
    assert len(clip.motion) == len(clip.landmarks) == clip.info.frames, f"{clip.info.key}: lengths differ"
    return {
        "mp4": encode_clip(clip.frames, codec, quality),
        "flac": encode_flac(clip.speech),
        "motion.npy": npy_bytes(clip.motion.astype(np.float32)),
        "identity.npy": npy_bytes(clip.identity.astype(np.float32)),
        "landmarks.npy": npy_bytes(clip.landmarks.astype(np.float16)),
        "json": json.dumps(clip.info.as_dict(), sort_keys=True, ensure_ascii=False).encode(),
    }


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def sample_record(key: str, members: Mapping[str, bytes], offsets: Mapping[str, int], codec: str) -> dict[str, Any]:
    """One entry of an index: what selects the clip, [offset, bytes, SHA-256] of each member, byte ranges of frames."""
    info = json.loads(members["json"])
    record = {"key": key, **{name: info[name] for name in ("emotion", "level", "view", "identity", "frames")}}
    if info.get("silent"):
        record["silent"] = True
    record["members"] = {
        name: [offsets[name], len(data), hashlib.sha256(data).hexdigest()] for name, data in members.items()
    }
    record |= row_checksums(members["landmarks.npy"], info["frames"])
    if codec == "mjpeg":
        record["ranges"] = pack_ranges(members["mp4"])
    return record


def row_checksums(landmarks: bytes, num_frames: int) -> dict[str, str]:
    """CRC-32 of the landmarks of each frame, so that those of one frame are read without the rest of the clip.

    As one text of 8 hexadecimal digits a frame, see `pack_ranges`. Empty if the array is not as it should be.
    """
    try:
        array = load_npy(landmarks)
    except ValueError:
        return {}
    if array.dtype != np.dtype("<f2") or array.shape != (num_frames, NUM_LANDMARKS, 2) or not array.flags.c_contiguous:
        return {}
    return {"landmark_rows": "".join(f"{zlib.crc32(row.tobytes()):08x}" for row in array)}


def pack_ranges(video: bytes) -> str:
    """(offset in the member, bytes, CRC-32) of every frame of a Motion-JPEG video: uint32 (T, 3) in base64.

    One text: as lists of numbers they would be most of the index, and parsing them took as long as reading the clips
    when many workers each read a few clips of every shard.
    """
    spans = [(start, size, zlib.crc32(video[start : start + size])) for start, size in packet_ranges(video)]
    return base64.b64encode(np.array(spans, "<u4").reshape(-1, 3).tobytes()).decode()


# ---------------------------------------------------------------------------------------------- writer


class ShardFile:
    """A tar that is being written, the records of its index, and its tally."""

    def __init__(self, path: Path, split: str) -> None:
        self.path, self.split = path, split
        self.records: list[dict[str, Any]] = []
        self.tally = Tally()
        self.tar = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 (closed by its user)

    def add(self, key: str, members: Mapping[str, bytes], codec: str) -> None:
        """Append the members of a clip."""
        offsets = {}
        for name in MEMBERS:
            entry = tarfile.TarInfo(f"{key}.{name}")  # its defaults are fixed: time 0, owner 0, mode 644
            entry.size = len(members[name])
            self.tar.addfile(entry, io.BytesIO(members[name]))
            offsets[name] = self.tar.offset - -(-entry.size // TAR_BLOCK) * TAR_BLOCK
        record = sample_record(key, members, offsets, codec)
        self.records.append(record)
        self.tally.add_clip(self.split, record, load_npy(members["motion.npy"]))

    def finish(self, name: str) -> Tally:
        """Close the tar, which is to have that name, and say what it holds; nothing, if no clip was added."""
        self.tar.close()
        if self.records:
            self.tally.add_shard(self.path, name, self.split, self.records)
        return self.tally


class ShardWriter:
    """Packs clips into a new data set folder. Nothing is visible in it before `close`, and nothing after `abort`.

    with ShardWriter(out, size=256, codec="mjpeg") as writer:
        for clip in clips:
            writer.write(clip)
        writer.close(face_model, rejected)
    """

    def __init__(
        self,
        out: Path | str,
        *,
        size: int,
        codec: str = "mjpeg",
        quality: int | None = None,  # as encode_clip takes it; None: its default
        clips_per_shard: int = 64,
    ) -> None:
        self.out, self.size, self.codec, self.quality = Path(out), size, codec, quality
        self.clips_per_shard = clips_per_shard
        check_size(size)
        check_codec(codec)
        if (self.out / MANIFEST).exists():
            raise UserError(self.out, "already holds a data set", "choose another folder or delete it")
        self.partial = self.out / PARTIAL
        shutil.rmtree(self.partial, ignore_errors=True)  # of a run that was killed
        self.partial.mkdir(parents=True)
        self.tally = Tally()
        self.keys: set[str] = set()
        self.open: dict[str, ShardFile] = {}
        self.num_shards = Counter[str]()
        self.done = False

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        if not self.done:
            self.abort()

    def write(self, clip: Clip) -> None:
        """Encode one clip and append it to the open shard of its split."""
        self.write_members(clip.info.key, encode_members(clip, codec=self.codec, quality=self.quality))

    def write_members(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append what `encode_members` made of a clip. Raises UserError for a key that is unfit or used twice."""
        if not re.fullmatch(r"[^./\s]+", key):
            raise UserError(f"key {key!r}", "must not be empty and hold no dot, slash or space")
        if key in self.keys:
            raise UserError(key, "this key was written before", "keys must be unique")
        info = json.loads(members["json"])
        assert info["size"] == self.size, f"{key}: size {info['size']}"
        assert info["split"] in SPLITS, f"{key}: split {info['split']}"
        shard = self._shard(info["split"])
        shard.add(key, members, self.codec)
        self.keys.add(key)
        if len(shard.records) >= self.clips_per_shard:
            self._finish(shard)

    def close(self, face_model: FaceModel, rejected: Sequence[Rejected] = ()) -> Manifest:
        """Finish the shards and make the data set visible, the manifest last."""
        for shard in list(self.open.values()):
            self._finish(shard)
        if not self.keys:
            raise UserError(self.out, f"no clip to write ({len(rejected)} rejected)", "see the reasons in the report")
        manifest = self.tally.manifest(codec=self.codec, size=self.size, face_model=face_model, rejected=rejected)
        for path in sorted(self.partial.iterdir()):
            path.replace(self.out / path.name)
        self.partial.rmdir()
        publish(self.out, manifest, face_model)
        self.done = True
        return manifest

    def abort(self) -> None:
        """Drop what was written; a folder that holds nothing else goes too."""
        for shard in self.open.values():
            shard.tar.close()
        shutil.rmtree(self.partial, ignore_errors=True)
        if self.out.is_dir() and not any(self.out.iterdir()):
            self.out.rmdir()
        self.done = True

    def _shard(self, split: str) -> ShardFile:
        if split not in self.open:
            name = f"{split}-{self.num_shards[split]:06d}.tar"
            self.num_shards[split] += 1
            self.open[split] = ShardFile(self.partial / name, split)
        return self.open[split]

    def _finish(self, shard: ShardFile) -> None:
        self.tally.merge(shard.finish(shard.path.name))
        write_index(shard.path, self.codec, self.size, shard.records)
        del self.open[shard.split]


def write_index(shard: Path, codec: str, size: int, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the index of a tar beside it."""
    write_json(index_path(shard), index_content(shard.name, codec, size, records), indent=None)


def index_content(shard: str, codec: str, size: int, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The index of the tar with that name."""
    return {"version": FORMAT_VERSION, "shard": shard, "codec": codec, "size": size, "samples": list(records)}
