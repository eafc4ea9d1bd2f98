"""`manifest.json`: what a data set holds, its checksums and its statistics. It makes a folder a data set."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...models.errors import UserError
from ...models.face_model import FaceModel
from ...models.files import write_json
from ..sample import FORMAT_VERSION, FPS, SAMPLE_RATE, Rejected

MANIFEST = "manifest.json"
FACE_MODEL = "facemodel.npz"
SILENT_GROUP = "|silent"  # ends the names of groups of clips without sound
NO_MANIFEST = "`emohead prepare` writes one, `emohead shards index` makes one for tars"
REBUILD = "run `emohead shards index` to rebuild it"


@dataclass
class Shard:
    """One tar. `groups` counts clips by "emotion/level/view", so that a selection is counted without the index.

    Clips without sound are counted apart, as "emotion/level/view|silent".
    """

    name: str
    split: str
    clips: int
    frames: int
    bytes: int
    sha256: str
    groups: dict[str, int]

    @property
    def content(self) -> str:
        """What its bytes are called in a cache."""
        return f"{self.sha256} {self.bytes}"


@dataclass
class SplitSummary:
    """The content of a split: clips, seconds, clips of each identity, clips of each emotion and level."""

    clips: int = 0
    seconds: float = 0.0
    identities: dict[str, int] = field(default_factory=dict)
    emotions: dict[str, dict[str, int]] = field(default_factory=dict)  # "none" if a clip has no label
    silent: int = 0  # clips without sound


@dataclass
class MotionStatistics:
    """Mean and standard deviation of each motion value (D) over `count` frames of the train split."""

    count: int = 0
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


@dataclass
class Manifest:
    """`manifest.json`: everything about a data set that can be said without opening a tar."""

    codec: str
    size: int
    face_model: dict[str, Any]  # checksum, kind, num_identity, num_expression
    shards: list[Shard]
    splits: dict[str, SplitSummary]
    motion: dict[str, MotionStatistics]  # by emotion, "none" without a label: so that some can be held out
    rejected: list[Rejected] = field(default_factory=list)
    rejected_counts: dict[str, int] = field(default_factory=dict)  # by code
    preparation: dict[str, Any] = field(default_factory=dict)  # options and inputs of `emohead prepare`, split rule
    fps: int = FPS
    sample_rate: int = SAMPLE_RATE
    version: int = FORMAT_VERSION


def publish(
    folder: Path,
    manifest: Manifest,
    face_model: FaceModel | None = None,  # None: it lies there
    *,
    partial: Callable[[str], Path] | None = None,
) -> None:
    """Make the tars and indexes in `folder` a data set. The manifest comes last: a folder without it is none.

    `partial` names the files to write aside, for several processes that may publish one data set at once.
    """
    model_aside, manifest_aside = (partial and partial(name) for name in (FACE_MODEL, MANIFEST))
    if face_model is not None:
        face_model.save(folder / FACE_MODEL, model_aside)
    write_json(folder / MANIFEST, asdict(manifest), partial=manifest_aside)


def load_manifest(folder: Path | str) -> Manifest:
    """Read `manifest.json`; raises UserError if there is none, or one of another format version."""
    path = Path(folder) / MANIFEST
    return parse_manifest(read_json(path, missing=NO_MANIFEST), path)


def parse_manifest(content: Mapping[str, Any], path: Path | str) -> Manifest:
    """The manifest that was read from `path`."""
    check_version(content, path)
    try:
        return Manifest(
            **dict(content)
            | {
                "shards": [Shard(**shard) for shard in content["shards"]],
                "splits": {name: SplitSummary(**split) for name, split in content["splits"].items()},
                "motion": {name: MotionStatistics(**moments) for name, moments in content["motion"].items()},
                "rejected": [Rejected(**clip) for clip in content["rejected"]],
            }
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(path, f"not a manifest of this format ({error})", REBUILD) from None


def read_json(path: Path, missing: str) -> dict[str, Any]:
    """A JSON object; raises UserError, with `missing` as the explanation if the file does not exist."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(path, f"no such file: {missing}") from None
    except OSError as error:
        raise UserError(path, f"cannot be read as JSON ({error})", REBUILD) from None
    return parse_json(data, path)


def parse_json(data: bytes, path: Path | str) -> dict[str, Any]:
    """The JSON object that was read from `path`."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(path, f"cannot be read as JSON ({error})", REBUILD) from None
    if not isinstance(content, dict):
        raise UserError(path, "holds no JSON object", REBUILD)
    return content


def check_version(content: Mapping[str, Any], path: Path | str) -> None:
    """Raise UserError for another format version."""
    version = content.get("version")
    if version != FORMAT_VERSION:
        raise UserError(
            path,
            f"format version {version}, this emohead reads {FORMAT_VERSION}",
            "prepare the data again",
        )


def describe_shard(path: Path, name: str, split: str, records: Sequence[Mapping[str, Any]]) -> Shard:
    """The manifest's entry for a finished tar, which lies at `path` now."""
    groups = Counter(map(group_name, records))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    frames = sum(record["frames"] for record in records)
    return Shard(name, split, len(records), frames, path.stat().st_size, digest, dict(sorted(groups.items())))


def group_name(record: Mapping[str, Any]) -> str:
    """The name under which a shard counts clips of one label and view, by an entry of an index."""
    name = f"{record['emotion'] or 'none'}/{record['level'] or 'none'}/{record['view']}"
    return name + SILENT_GROUP if record.get("silent") else name
