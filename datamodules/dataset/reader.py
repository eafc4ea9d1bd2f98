"""Random access to the clips of one data set.

T frames of a clip, S pixels a side (as stored, or as asked for), D values of motion, I identity coefficients.
Reading is by offsets of the index, so a reader may be used after a fork and sent to a spawned process. The data set
may lie in a local folder or at a URL: see storage/folder.py.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...models.errors import UserError
from ...models.face_model import POSE_DIM, FaceModel
from ..sample import ClipInfo
from ..storage.folder import Folder, is_url, open_folder
from .clip import StoredClip
from .decode import DECODERS
from .index import NamedBytes, ShardIndex, open_shard, read_file
from .manifest import FACE_MODEL, MANIFEST, NO_MANIFEST, parse_json, parse_manifest


class ClipReader:
    """The clips of one prepared folder, by key or by (shard, row).

    Raises UserError if the folder is no data set, or one of another version, or if bytes are damaged.
    """

    def __init__(
        self,
        folder: Path | str,
        decoder: str = "pyav",
        max_open_shards: int = 64,
        files: Folder | None = None,  # where they lie, for a URL that is to be cached
    ) -> None:
        if decoder not in DECODERS:
            raise UserError(f"decoder {decoder!r}", f"choose one of {', '.join(DECODERS)}")
        self.folder: Any = folder if is_url(folder) else Path(folder)  # the path or URL, as messages call it
        self.files = files or open_folder(folder)
        self.decoder, self.max_open_shards = decoder, max_open_shards
        address = self.files.address(MANIFEST)
        self.manifest = parse_manifest(parse_json(self._file(MANIFEST, NO_MANIFEST), address), address)
        size = self.manifest.face_model
        self.dims = (size["num_expression"] + POSE_DIM, size["num_identity"])  # D, I
        self._open: dict[int, ShardIndex] = {}  # the longest unused first
        self._places: dict[str, tuple[int, int]] = {}  # key -> shard, row; filled when a key is first asked for

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    @property
    def face_model(self) -> FaceModel:
        """The face model of the folder, its checksum compared with the manifest."""
        address = self.files.address(FACE_MODEL)
        data = NamedBytes(self._file(FACE_MODEL, "`emohead prepare` writes it beside the tars"), address)
        model = FaceModel.load(data)  # type: ignore[arg-type]  # numpy reads an open file as well
        if model.checksum() != self.manifest.face_model["checksum"]:
            raise UserError(
                address,
                "another face model than the one in the manifest",
                "restore the one written with it",
            )
        return model

    def provenance(self) -> dict[str, Any]:
        """Folder name, clips, seconds, face model, and one checksum over those of the shards."""
        splits = self.manifest.splits.values()
        digests = "".join(shard.sha256 for shard in self.manifest.shards)
        return {
            "folder": self.files.name,
            "clips": sum(split.clips for split in splits),
            "seconds": round(sum(split.seconds for split in splits), 2),
            "face_model": self.manifest.face_model["checksum"],
            "sha256": hashlib.sha256(digests.encode()).hexdigest(),
        }

    def keys(self, split: str | None = None, *, heard: bool = False) -> list[str]:
        """Keys of a split (default: of all) in the order they are stored; heard: of clips with sound only."""
        numbers = [i for i, shard in enumerate(self.manifest.shards) if split in (None, shard.split)]
        records = (record for number in numbers for record in self.shard(number).records)
        return [record["key"] for record in records if not (heard and record.get("silent"))]

    def clip(self, key: str) -> StoredClip:
        """The clip of a key; raises UserError if there is none."""
        if not self._places:
            for number in range(len(self.manifest.shards)):
                self._places |= {s["key"]: (number, i) for i, s in enumerate(self.shard(number).records)}
        if key not in self._places:
            raise UserError(self.folder, f"no clip {key!r}", "`emohead shards info` lists what it holds")
        return self.clip_at(*self._places[key])

    def clip_at(self, shard: int, row: int) -> StoredClip:
        """The clip at a row of a shard, both counted from 0 in the manifest's order."""
        return StoredClip(self.shard(shard), row, self.manifest.size, self.dims, self.decoder)

    def shard(self, number: int) -> ShardIndex:
        """Open a shard, or take it from those still open."""
        shard = self._open.pop(number, None)
        if shard is None:
            while len(self._open) >= self.max_open_shards:
                self._open.pop(next(iter(self._open)))  # it closes when its last clip is let go
            shard = open_shard(self.files, self.manifest.shards[number])
        self._open[number] = shard
        return shard

    def _file(self, name: str, missing: str) -> bytes:
        return read_file(self.files, name, missing=missing)

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
