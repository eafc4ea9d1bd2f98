"""The options of a preparation, and the folder in which its passes leave their work to each other.

    OUT/.work/tracks/<key>.npz or .json   pass track: the track of a source, or why it has none
    OUT/.work/facemodel.npz, people.npz, plan.json    pass fit
    OUT/.work/packed/<shard>.json         pass pack: a shard is finished, its tar and index lie in OUT; what it holds
    OUT/.work/partial/                    what is being written

Every file is written aside and renamed, so that what is there is whole, whenever a run was killed.
"""

import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from ...models.errors import UserError, printable
from ...models.face_model import FaceModel
from ...models.files import write_json
from ..dataset.manifest import FACE_MODEL, MANIFEST
from ..dataset.writer import check_codec, check_size
from .gates import GateConfig
from .listing import Source, SourceList
from .track import VERSION

WORK = ".work"
KEY_DIGITS = 32  # hexadecimal, of a track's name
LANDMARK, ICT, BFM09 = "landmark", "ict", "bfm09"
SILENT_CHOICES = ("keep", "reject")
ICT_FOLDER = "EMOHEAD_ICT"  # environment variable
SHARD_FILES = re.compile(r"(train|val|test)-\d{6}(\.tar|\.index\.json)")


@dataclass
class PrepareConfig:
    """How the clips of a data set are to be."""

    size: int = 256  # pixels a side of the face crop
    codec: str = "mjpeg"
    clips_per_shard: int = 64
    face_model: str = LANDMARK  # built from the tracks; or a facemodel.npz, a folder of ICT-FaceKit, "ict"
    silent: str = "keep"  # clips without sound, which the face stage can learn from; or reject
    coefficients: Path | None = None  # folder of Deep3DFaceRecon's .mat files, which are taken instead of a fit
    holdout_emotions: list[str] = field(default_factory=list)  # which the face model that is built does not see
    gates: GateConfig = field(default_factory=GateConfig)

    def check(self) -> None:
        """Raise UserError for what would fail after hours of tracking."""
        check_size(self.size)
        check_codec(self.codec)
        if self.silent not in SILENT_CHOICES:
            raise UserError(f"--silent {self.silent}", "is neither keep nor reject")
        model = load_face_model(self.face_model)
        if self.coefficients is not None:
            if not self.coefficients.is_dir():
                raise UserError(self.coefficients, "no such folder of coefficients")
            if model is None or model.kind != BFM09:
                raise UserError("--coefficients", "these are of the bfm09 face model", "give it as --face-model FILE")


@functools.lru_cache(maxsize=1)
def load_face_model(choice: str) -> FaceModel | None:
    """The face model of a config, None for the one that is built; raises UserError if it cannot be read."""
    if choice == LANDMARK:
        return None
    folder = os.environ.get(ICT_FOLDER) if choice == ICT else choice
    if not folder:
        raise UserError("--face-model ict", f"set {ICT_FOLDER} to the folder of ICT-FaceKit, or give the folder itself")
    if Path(folder).is_dir():
        from ...models.ict import load_ict

        return load_ict(Path(folder))
    return FaceModel.load(folder)


# -- what decides the result -----------------------------------------------------------------------------------------


def describe(listing: SourceList, config: PrepareConfig) -> dict[str, Any]:
    """All that decides the result, except the media files: for the manifest, and to recognise the same command."""
    model = load_face_model(config.face_model)
    sources = [
        asdict(source) | {"path": printable(source.path.name), "audio": source.audio and printable(source.audio.name)}
        for source in listing.sources
    ]
    return {
        "dataset": listing.dataset,
        "split_rule": listing.split_rule,
        "size": config.size,
        "codec": config.codec,
        "clips_per_shard": config.clips_per_shard,
        "face_model": LANDMARK if model is None else model.checksum(),
        "coefficients": "fit" if config.coefficients is None else "file",
        "silent": config.silent,
        "holdout_emotions": sorted(config.holdout_emotions),
        "gates": asdict(config.gates),
        "sources": len(sources),
        "sources_sha256": digest([sources, [asdict(clip) for clip in listing.rejected]]),
    }


def track_key(source: Source) -> str:
    """Names the track of a source: another for other media (size and time of change), interval or annotated crop."""
    files = [_state(path) for path in (source.path, source.audio) if path is not None]
    return digest([VERSION, source.name, files, source.start, source.stop, source.crop])[:KEY_DIGITS]


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _state(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


# -- the folder ------------------------------------------------------------------------------------------------------


class WorkFolder:
    """The folders of a preparation. `OUT` is made on first use, `close` removes the work."""

    def __init__(self, out: Path | str) -> None:
        self.out = Path(out)
        self.root = self.out / WORK
        self.tracks, self.packed = self.root / "tracks", self.root / "packed"
        self.plan, self.face_model = self.root / "plan.json", self.root / FACE_MODEL
        self.people = self.root / "people.npz"

    def open(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise UserError(self.out, "is a file", "give a folder for the data set")
        if not self.root.is_dir() and self.out.is_dir():
            strange = sorted(path.name for path in self.out.iterdir() if SHARD_FILES.fullmatch(path.name))
            if strange:
                raise UserError(self.out, f"holds {strange[0]} of something else", "choose another folder")
        for folder in (self.tracks, self.packed, self.root / "partial"):
            folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def drop_partials(self) -> None:
        """Remove what a killed run was writing; only if no other part can be at work."""
        for path in (self.root / "partial").glob("*"):
            path.unlink(missing_ok=True)

    def drop_shards(self) -> None:
        """Forget the plan and what was packed by it."""
        self.plan.unlink(missing_ok=True)
        for path in [*self.packed.iterdir(), *self.out.iterdir()]:
            if path.parent == self.packed or SHARD_FILES.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def partial(self, name: str) -> Path:
        """A new path to write aside; its own for each writer, as several may write the same file at once."""
        return self.root / "partial" / f"{name}.{uuid4().hex}"

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        write_json(path, content, indent=None, partial=self.partial(path.name))

    def untracked(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys whose source has no track yet."""
        there = {path.stem for path in self.tracks.glob("*") if path.suffix in (".npz", ".json")}
        return [key for key in keys if key not in there]

    @property
    def finished(self) -> bool:
        return (self.out / MANIFEST).is_file()
