"""One data set as another codec and frame size, without tracking again: `emohead shards transcode`.

Every shard is packed into a folder of its own below OUT/.work; one that is finished is not packed again by the next
run of the same command. The tars move to their places when all are there, the manifest comes last.
S pixels a side, T frames of a clip.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...models.errors import UserError
from ...models.files import write_json
from ..jobs import Lost, Progress, no_progress, run_jobs
from ..media.write import encode_clip
from ..sample import FORMAT_VERSION
from .layout import MEMBERS, index_path
from .manifest import MANIFEST, Manifest, Shard, load_manifest, publish, read_json
from .reader import ClipReader, StoredClip
from .writer import ShardWriter, check_codec, check_size, npy_bytes, write_index

WORK = ".work"
PLAN = "transcode.json"
AS_THEY_ARE = ("flac", "motion.npy", "identity.npy")  # members that pictures have no part in


def transcode(
    source: Path | str,
    out: Path | str,
    *,
    codec: str,
    size: int | None = None,  # S; None: that of the source
    workers: int = 0,  # processes; 0: this one
    progress: Progress = no_progress,
) -> Manifest:
    """Write the clips of `source` into the folder `out` as another codec or size; the same command again goes on.

    Keys, splits, shards, speech, motion, labels and rejected clips stay; frames are encoded anew and landmarks scaled.
    Raises UserError for a clip that is damaged and for what cannot be meant: see `_check_wish`.
    """
    reader, out = ClipReader(source), Path(out)
    size = size or reader.manifest.size
    _check_wish(reader, codec, size)
    if (out / MANIFEST).exists():
        return _already_there(reader, out, codec, size)
    _keep_plan(reader, out, codec, size)
    shards = reader.manifest.shards
    missing = [number for number, shard in enumerate(shards) if not (_part(out, shard) / MANIFEST).exists()]
    progress(len(shards) - len(missing), len(shards), "transcode")
    packer = Packer(reader, out, codec, size)
    packing = run_jobs(packer, missing, workers=workers)
    for done, (number, result) in enumerate(packing, len(shards) - len(missing) + 1):
        if isinstance(result, Lost):
            name = reader.files.address(shards[number].name)
            raise UserError(name, f"packing it anew was {result.reason}", "check it with `emohead shards verify`")
        progress(done, len(shards), "transcode")
    packed = [_move(out, shard) for shard in shards]
    manifest = replace(reader.manifest, codec=codec, size=size, shards=packed)
    publish(out, manifest, reader.face_model)
    shutil.rmtree(out / WORK)
    return manifest


def _check_wish(reader: ClipReader, codec: str, size: int) -> None:
    held = reader.manifest
    check_codec(codec)
    check_size(size)
    if size > held.size:
        raise UserError(
            reader.folder,
            f"its frames have {held.size} px, {size} would add no detail",
            "prepare the videos again at that size",
        )
    if (codec, size) == (held.codec, held.size):
        raise UserError(reader.folder, f"is {codec} at {size} px already", "nothing to do")


# ---------------------------------------------------------------------------------------------- going on


def _plan(reader: ClipReader, codec: str, size: int) -> dict[str, Any]:
    shards = [[shard.name, shard.sha256] for shard in reader.manifest.shards]
    return {"version": FORMAT_VERSION, "codec": codec, "size": size, "shards": shards}


def _keep_plan(reader: ClipReader, out: Path, codec: str, size: int) -> None:
    """Write down what is being made, or check that what was begun here is the same."""
    plan, path = _plan(reader, codec, size), out / WORK / PLAN
    if path.exists():
        if read_json(path, missing="") != plan:
            raise UserError(out, "something else was begun here", "choose another folder or delete it")
        return
    if out.exists() and any(out.iterdir()):
        raise UserError(out, "holds other files", "choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plan, indent=None)


def _already_there(reader: ClipReader, out: Path, codec: str, size: int) -> Manifest:
    """The manifest of a run that was stopped just before it swept its work away; any other data set is refused."""
    path = out / WORK / PLAN
    if not path.exists() or read_json(path, missing="") != _plan(reader, codec, size):
        raise UserError(out, "already holds a data set", "choose another folder or delete it")
    shutil.rmtree(out / WORK)
    return load_manifest(out)


def _part(out: Path, shard: Shard) -> Path:
    return out / WORK / Path(shard.name).stem


def _move(out: Path, shard: Shard) -> Shard:
    """Move the tar of a finished part to its place, under the name of its source. May be stopped and done again."""
    part = _part(out, shard)
    made = load_manifest(part).shards[0]
    if (part / made.name).exists():
        (part / made.name).replace(out / shard.name)
    index = read_json(index_path(part / made.name), missing="delete the folder and start again")
    write_index(out / shard.name, index["codec"], index["size"], index["samples"])
    return replace(made, name=shard.name)


# ---------------------------------------------------------------------------------------------- packing


@dataclass(frozen=True)
class Packer:
    """Packs one shard after the other, each as a data set of its own; goes to the processes that pack."""

    reader: ClipReader
    out: Path
    codec: str
    size: int

    def __call__(self, number: int) -> None:
        """Pack a shard; raises UserError if it cannot be packed."""
        cv2.setNumThreads(1)
        reader, part = self.reader, _part(self.out, self.reader.manifest.shards[number])
        clips = [reader.clip_at(number, row) for row in range(len(reader.shard(number).records))]
        with ShardWriter(part, size=self.size, codec=self.codec, clips_per_shard=len(clips)) as writer:
            for clip in clips:
                writer.write_members(clip.key, transcode_clip(clip, reader.manifest.codec, self.codec, self.size))
            writer.close(reader.face_model)


def transcode_clip(clip: StoredClip, held: str, codec: str, size: int) -> dict[str, bytes]:
    """The members of a clip, its frames as `codec` at `size`; `held` is the codec they are in."""
    if strange := sorted(set(clip.record["members"]) - set(MEMBERS)):
        raise clip.error(strange[0], "is no member of this format and would be lost; pack the tar again without it")
    frames = clip.frames(size=size).transpose(0, 2, 3, 1)  # (T, S, S, 3)
    info = json.loads(clip.member("json"))
    info["size"] = size
    info["tools"] = info.get("tools", {}) | {"transcoded_from": f"{held} {clip.size} px"}
    landmarks = clip.landmarks().astype(np.float32) * (size / clip.size)  # (T, 68, 2)
    return {
        "mp4": encode_clip(frames, codec),
        **{name: clip.member(name) for name in AS_THEY_ARE},
        "landmarks.npy": npy_bytes(landmarks.astype(np.float16)),
        "json": json.dumps(info, sort_keys=True, ensure_ascii=False).encode(),
    }
