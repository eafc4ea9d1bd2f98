"""Checks that the files of a data set agree: manifest, indexes and tars, without opening a clip."""

from collections import Counter
from typing import Any

from .layout import index_path
from .manifest import MANIFEST, REBUILD, group_name, read_json
from .reader import ClipReader
from .tally import Tally

Records = dict[int, list[dict[str, Any]]]  # shard -> its entries in the index


def compare_folder(reader: ClipReader) -> list[str]:
    """Tars and indexes that lie in the folder but are no part of the data set."""
    tars = [reader.folder / shard.name for shard in reader.manifest.shards]
    held = {*reader.folder.glob("*.tar"), *reader.folder.glob("*.index.json")}
    extra = held - {*tars, *map(index_path, tars)}
    return [f"{path}: not in the manifest; delete it, or take it in: {REBUILD}" for path in sorted(extra)]


def compare_index(reader: ClipReader, number: int) -> list[str]:
    """Differences between the index of a shard and the manifest."""
    manifest, shard = reader.manifest, reader.manifest.shards[number]
    path = index_path(reader.folder / shard.name)
    content = read_json(path, missing=REBUILD)
    samples = content["samples"]
    groups = Counter(map(group_name, samples))
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
    """Differences between the manifest and the sum over all indexes, and keys that are used twice."""
    path = reader.files.address(MANIFEST)
    keys = Counter(record["key"] for samples in records.values() for record in samples)
    problems = [f"{path}: {key}: {count} clips have this key" for key, count in sorted(keys.items()) if count > 1]
    if len(records) < len(reader.manifest.shards):  # the index that cannot be read is a problem already
        return problems
    tally = Tally()
    for number, shard in enumerate(reader.manifest.shards):
        for record in records[number]:
            tally.add_clip(shard.split, record, None)  # motion is not in the indexes
    for name in sorted(tally.splits.keys() | reader.manifest.splits.keys()):
        if tally.splits.get(name) != reader.manifest.splits.get(name):
            problems.append(f"{path}: split {name!r} is not the sum of what the indexes hold; {REBUILD}")
    return problems
