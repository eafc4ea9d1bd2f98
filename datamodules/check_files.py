"""What the files of a data set say of each other: manifest, indexes and tars, without opening a clip."""

from collections import Counter
from typing import Any

from .manifest import REBUILD, SplitSummary, Tally, group_name, read_json
from .reader import ClipReader
from .shards import index_path

Records = dict[int, list[dict[str, Any]]]  # shard -> its entries in the index


def compare_folder(reader: ClipReader) -> list[str]:
    """Tars and indexes that lie in the folder but are no part of the data set."""
    known = {name for shard in reader.manifest.shards for name in (shard.name, index_path(reader.folder / shard.name).name)}
    extra = [path for pattern in ("*.tar", "*.index.json") for path in reader.folder.glob(pattern) if path.name not in known]
    return [f"{path}: not in the manifest; delete it, or take it in: {REBUILD}" for path in sorted(extra)]


def compare_index(reader: ClipReader, number: int) -> list[str]:
    """Where the index of a shard and the manifest disagree."""
    manifest, shard = reader.manifest, reader.manifest.shards[number]
    path = index_path(reader.folder / shard.name)
    content = read_json(path, missing=REBUILD)
    samples = content["samples"]
    groups = Counter(group_name(s["emotion"], s["level"], s["view"]) for s in samples)
    pairs = {
        "shard": (content.get("shard"), shard.name),
        "codec": (content.get("codec"), manifest.codec),
        "size": (content.get("size"), manifest.size),
        "frames": (sum(s["frames"] for s in samples), shard.frames),
        "groups": (dict(groups), shard.groups),
    }
    problems = [
        f"{path}: {name} is {found!r}, in the manifest {wanted!r}; {REBUILD}"
        for name, (found, wanted) in pairs.items()
        if found != wanted
    ]
    lacking = [s["key"] for s in samples if ("ranges" in s) != (manifest.codec == "mjpeg")]
    return problems + [f"{path}: {key}: frame ranges do not go with {manifest.codec}; {REBUILD}" for key in lacking]


def compare_manifest(reader: ClipReader, records: Records) -> list[str]:
    """Where the sums over all indexes and the manifest disagree, and keys that are used twice."""
    path, tally = reader.files.address("manifest.json"), Tally()
    keys = Counter(record["key"] for number in records for record in records[number])
    problems = [f"{path}: {key}: {count} clips have this key" for key, count in sorted(keys.items()) if count > 1]
    for number, shard in enumerate(reader.manifest.shards):
        for record in records[number]:
            tally.count_clip(shard.split, record)
    for name in sorted(tally.splits.keys() | reader.manifest.splits.keys()):
        found, wanted = (splits.get(name, SplitSummary()) for splits in (tally.splits, reader.manifest.splits))
        if found != wanted:
            problems.append(f"{path}: split {name!r} does not sum up to what the indexes hold; {REBUILD}")
    return problems
