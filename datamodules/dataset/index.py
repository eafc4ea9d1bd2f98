"""Opening a shard: its index, checked and parsed, and the tar that ranges are read of."""

import gc
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models.errors import UserError
from ..sample import FORMAT_VERSION
from ..storage.folder import Folder, OpenFile
from .layout import index_path, packed_length
from .manifest import MANIFEST, REBUILD, Shard, check_version, group_name, parse_json


@dataclass
class ShardIndex:
    """A parsed index and the open tar."""

    address: str
    file: OpenFile
    records: list[dict[str, Any]]  # one a clip, in the order of the tar


def person(record: dict[str, Any]) -> tuple[str, str]:
    """Identity and view of an entry of an index: what clips share that may lend each other a portrait."""
    return record["identity"], record["view"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause garbage collection: many small objects are made, and none of them in cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class NamedBytes(io.BytesIO):
    """A file in memory that messages call by its address."""

    def __init__(self, data: bytes, address: str) -> None:
        super().__init__(data)
        self.address = address

    def __str__(self) -> str:
        return self.address


def read_file(folder: Folder, name: str, *, missing: str, content: str | None = None) -> bytes:
    """A whole file of a data set; raises UserError, with `missing` as the explanation if it does not exist."""
    try:
        return folder.read(name, content)
    except FileNotFoundError:
        raise UserError(f"{folder.address(name)}", f"no such file: {missing}") from None
    except OSError as error:
        raise UserError(f"{folder.address(name)}", f"cannot be read ({error.strerror})", "copy it again") from None


def open_shard(folder: Folder, shard: Shard) -> ShardIndex:
    """Read the index of a tar and open the tar; raises UserError if either is missing or they do not match."""
    if Path(shard.name).name != shard.name:
        raise UserError(f"{folder.address(MANIFEST)}", f"shard {shard.name!r} is no plain file name", REBUILD)
    address = folder.address(index_path(Path(shard.name)).name)
    data = read_index(folder, shard)
    try:
        samples = parse_index(data, address, shard)
    except UserError:  # the cache may be at fault
        folder.forget(cached_name(shard))
        samples = parse_index(read_index(folder, shard), address, shard)
    try:
        file = folder.open(shard.name, shard.content, shard.bytes)
    except OSError as error:
        problem = f"cannot be opened ({error.strerror}); copy or prepare the shard again"
        raise UserError(f"{folder.address(shard.name)}", problem) from None
    return ShardIndex(folder.address(shard.name), file, samples)


def read_index(folder: Folder, shard: Shard) -> bytes:
    """The index of a tar, from the cache if there is one."""
    name = index_path(Path(shard.name)).name
    return read_file(folder, name, missing=REBUILD, content=cached_name(shard))


def cached_name(shard: Shard) -> str:
    """What the index is called in a cache: that of a tar with the same bytes is the same."""
    return f"index {FORMAT_VERSION} {shard.content}"


def parse_index(data: bytes, address: str, shard: Shard) -> list[dict[str, Any]]:
    """Records of the clips, checked as far as needed for a damaged index to be found here.

    What only one clip needs, the ranges of its frames, is left as it is stored: many workers open every shard, and each
    reads a few of its clips.
    """
    with collector_paused():  # which would go through all objects of the process again and again
        content = parse_json(data, address)
    check_version(content, address)
    samples = content.get("samples", [])
    if len(samples) != shard.clips:
        raise UserError(address, f"{len(samples)} clips, the manifest says {shard.clips}", REBUILD)
    try:
        packed = [packed_length(sample["frames"]) for sample in samples]
        assert all(len(s.get("ranges", "_" * n)) == n for s, n in zip(samples, packed, strict=True)), "ranges"
        spans = [span for sample in samples for span in sample["members"].values()]
        assert all(0 <= offset <= offset + size <= shard.bytes for offset, size, _ in spans), "members"
        assert all(group_name(sample) in shard.groups for sample in samples)
        assert all(isinstance(sample["identity"], str) for sample in samples), "identity"
    except (AssertionError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(address, f"not an index of this tar ({type(error).__name__} {error})", REBUILD) from None
    return samples
