"""Makes a data set of tars that were packed elsewhere, or whose indexes were lost."""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av

from ...models.errors import UserError
from ...models.face_model import FaceModel
from ..jobs import Progress, no_progress
from ..sample import EMOTIONS, LEVELS, SPLITS, ClipInfo
from .layout import CODECS, MEMBERS, load_npy, unpack_ranges
from .manifest import FACE_MODEL, MANIFEST, Manifest, load_manifest, publish
from .tally import Tally
from .writer import sample_record, write_index


def index_shards(folder: Path | str, *, progress: Progress = no_progress) -> Manifest:
    """Write the index of every tar in a folder, and the manifest, from the tars and `facemodel.npz` alone.

    The tars are left as they are. What an existing manifest says of rejected clips and of the preparation is kept.
    Raises UserError if there is no tar or no face model, or if a tar does not hold clips of this format.
    """
    folder = Path(folder)
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise UserError(folder, "no tar to index", "give the folder that holds them")
    face_model = FaceModel.load(folder / FACE_MODEL)
    known = load_manifest(folder) if (folder / MANIFEST).exists() else None
    tally, kinds = Tally(), set()
    for done, path in enumerate(tars, start=1):
        kinds.add(_index_tar(path, tally, face_model))
        progress(done, len(tars), "index")
    if len(kinds) > 1:
        listing = " and ".join(f"{codec} at {size}" for codec, size in sorted(kinds))
        raise UserError(folder, f"its tars hold frames as {listing}", "keep each kind in a folder of its own")
    codec, size = kinds.pop()
    manifest = tally.manifest(
        codec=codec,
        size=size,
        face_model=face_model,
        rejected=known.rejected if known else [],
        preparation=known.preparation if known else {},
    )
    publish(folder, manifest)
    return manifest


def _index_tar(path: Path, tally: Tally, face_model: FaceModel) -> tuple[str, int]:
    """Index one tar; returns its codec and frame size."""
    records: list[dict[str, Any]] = []
    kinds, splits, keys = set(), set(), set()
    for key, members, offsets in _samples(path):
        info = _check_members(path, key, members, face_model)
        codec = _codec(path, key, members["mp4"])
        record = sample_record(key, members, offsets, codec)
        if "ranges" in record and (held := len(unpack_ranges(record["ranges"]))) != info.frames:
            raise UserError(path, f"{key}.mp4: {held} frames, {info.frames} in its json", "pack it again")
        tally.add_clip(info.split, record, load_npy(members["motion.npy"]))
        records.append(record)
        kinds.add((codec, info.size))
        splits.add(info.split)
        keys.add(key)
    if len(kinds) != 1 or len(splits) != 1 or len(keys) != len(records):
        raise UserError(path, "wanted are clips of different keys, of one codec, frame size and split", "pack it again")
    codec, size = kinds.pop()
    write_index(path, codec, size, records)
    tally.add_shard(path, path.name, splits.pop(), records)
    return codec, size


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes], dict[str, int]]]:
    """Key, members and their offsets of each run of members that share a key."""
    key = ""
    members: dict[str, bytes] = {}
    offsets: dict[str, int] = {}
    try:
        with tarfile.open(path) as tar:
            for entry in tar:
                if not entry.isfile():
                    continue
                found, _, name = entry.name.removeprefix("./").partition(".")
                if found != key and members:
                    yield key, members, offsets
                    members, offsets = {}, {}
                key = found
                members[name], offsets[name] = tar.extractfile(entry).read(), entry.offset_data  # type: ignore[union-attr]
    except (tarfile.TarError, OSError) as error:
        raise UserError(path, f"not a readable tar ({error})", "copy it again") from None
    if members:
        yield key, members, offsets


def _check_members(path: Path, key: str, members: Mapping[str, bytes], face_model: FaceModel) -> ClipInfo:
    missing = [name for name in MEMBERS if name not in members]
    if missing:
        raise UserError(path, f"{key}: lacks {', '.join(missing)}", f"pack it again with all of {', '.join(MEMBERS)}")
    try:
        info = ClipInfo(**json.loads(members["json"]))
        motion, identity = load_npy(members["motion.npy"]), load_npy(members["identity.npy"])
    except Exception as error:  # numpy raises all kinds of things on a damaged header
        raise UserError(path, f"{key}: json, motion.npy or identity.npy is not of this format ({error})") from None
    _check_choice(path, key, "split", info.split, SPLITS)
    _check_choice(path, key, "emotion", info.emotion, (*EMOTIONS, None))
    _check_choice(path, key, "level", info.level, (*LEVELS, None))
    found, wanted = (motion.shape, identity.shape), ((info.frames, face_model.motion_dim), (face_model.num_identity,))
    if info.key != key or found != wanted:
        raise UserError(path, f"{key}: key or shapes {found} do not fit its json and {FACE_MODEL} ({wanted})")
    return info


def _check_choice(path: Path, key: str, name: str, value: Any, valid: Sequence[Any]) -> None:
    if value not in valid:
        raise UserError(path, f"{key}.json: {name} is {value!r}", f"wanted is one of {', '.join(map(str, valid))}")


def _codec(path: Path, key: str, video: bytes) -> str:
    try:
        with av.open(io.BytesIO(video)) as container:
            codec = container.streams.video[0].codec_context.name
    except (av.error.FFmpegError, IndexError) as error:
        raise UserError(path, f"{key}.mp4: not a video ({type(error).__name__})", "pack it again") from None
    if codec not in CODECS:
        raise UserError(path, f"{key}.mp4: its codec is {codec}", f"wanted is one of {', '.join(CODECS)}")
    return codec
