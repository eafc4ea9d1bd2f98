"""The files that the contestants of benchmarks/loader.py read: the same frames for all of them.

Real clips are prepared once, at the largest size, and transcoded to the others. Each set holds its clips several times
under new keys; a stream lists the set several times over, so that an epoch has thousands of samples while the files
stay in the page cache. Everything is kept in the work folder and made only once.
"""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import lmdb
import numpy as np
from emohead.datamodules.dataset.clip import StoredClip
from emohead.datamodules.dataset.layout import MEMBERS
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.dataset.transcode import transcode
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.datamodules.synthetic.corpus import SyntheticConfig, prepare_synthetic

NUM_CLIPS = 64  # of a packed set
NUM_SAMPLES = 2048  # of an epoch
CODECS = ("mjpeg", "h264")


@dataclass
class Files:
    """Where the files of one size lie."""

    packed: dict[str, Path]  # by codec: our format
    gop250: Path | None = None  # a plain tar with ffmpeg's default group of pictures
    jpegs: Path | None = None  # LMDB: a JPEG each frame


def real_files(clips: Path, work: Path, sizes: tuple[int, ...], workers: int) -> dict[int, Files]:
    """Size -> files made of a folder of videos; `sizes` from the largest down."""
    first = work / f"prepared-{sizes[0]}"
    if not (first / "manifest.json").exists():
        command = ["prepare", "folder", clips, first, "--size", sizes[0], "--codec", "mjpeg", "--workers", workers]
        run = subprocess.run([sys.executable, "-m", "emohead.apps.cli", *map(str, command)], capture_output=True)
        if run.returncode:
            sys.exit(run.stderr.decode())
    made = {}
    for size in sizes:
        packed = {codec: packed_set(first, work, codec, size, workers) for codec in CODECS}
        plain = work / f"prepared-{size}" if size == sizes[0] else work / f"transcoded-mjpeg-{size}"
        made[size] = Files(packed, gop250_tar(plain, work / f"gop250-{size}.tar"), jpeg_lmdb(packed["mjpeg"]))
    return made


def packed_set(first: Path, work: Path, codec: str, size: int, workers: int) -> Path:
    """The prepared clips in a codec and size, again and again under new keys."""
    out = work / f"packed-{codec}-{size}"
    if (out / "manifest.json").exists():
        return out
    reader, folder = ClipReader(first), work / f"transcoded-{codec}-{size}"
    if (codec, size) == (reader.manifest.codec, reader.manifest.size):
        folder = first
    elif not (folder / "manifest.json").exists():
        transcode(first, folder, codec=codec, size=size, workers=workers)
    reader = ClipReader(folder)
    clips = [reader.clip(key) for key in reader.keys()]  # noqa: SIM118 (no mapping)
    with ShardWriter(out, size=size, codec=codec, clips_per_shard=16) as writer:
        for number in range(NUM_CLIPS):
            clip = clips[number % len(clips)]
            members = {name: clip.member(name) for name in MEMBERS}
            info = json.loads(members["json"])
            info["key"], info["split"] = f"{number:04d}_{clip.key}", "train"
            writer.write_members(info["key"], members | {"json": json.dumps(info).encode()})
        writer.close(reader.face_model)
    return out


def synthetic_files(work: Path, size: int) -> Files:
    """The made-up corpus: drawn faces, emotions, speech."""
    out = work / f"synthetic-{size}"
    if not (out / "manifest.json").exists():
        prepare_synthetic(out, SyntheticConfig(identities=5, clips=NUM_CLIPS, size=size, workers=2))
    return Files({"mjpeg": out})


def gop250_tar(folder: Path, out: Path) -> Path:
    """A plain tar for webdataset: H.264 as ffmpeg writes it when not told otherwise, and the motion."""
    if out.exists():
        return out
    reader = ClipReader(folder)
    clips = [reader.clip(key) for key in reader.keys()]  # noqa: SIM118 (no mapping)
    members = [{"mp4": encode_default(clip), "motion.npy": clip.member("motion.npy")} for clip in clips]
    partial = out.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for number in range(NUM_CLIPS):
            for name, data in members[number % len(clips)].items():
                entry = tarfile.TarInfo(f"{number:04d}.{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return partial.replace(out)


def encode_default(clip: StoredClip) -> bytes:
    """libx264 with its defaults: groups of 250 frames, B-frames, preset medium; the rate factor is that of our own."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18"})
        stream.width = stream.height = clip.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 250
        for index, pixels in enumerate(clip.frames().transpose(0, 2, 3, 1)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def jpeg_lmdb(packed: Path) -> Path:
    """The very JPEGs of our Motion-JPEG set under a key each, and the coefficients of each clip."""
    out = packed.with_name(packed.name + ".lmdb")
    if out.exists():
        return out
    partial = out.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    reader = ClipReader(packed)
    with lmdb.open(str(partial), map_size=1 << 35) as environment:
        for key in reader.keys():  # noqa: SIM118 (no mapping)
            clip = reader.clip(key)
            with environment.begin(write=True) as transaction:
                for index, jpeg in enumerate(jpegs_of(clip)):
                    transaction.put(f"{key}-{index:07d}".encode(), jpeg)
                transaction.put(f"{key}-coeff_3dmm".encode(), clip.motion().tobytes())
    return partial.replace(out)


def jpegs_of(clip: StoredClip) -> list[bytes]:
    """The frames of a Motion-JPEG clip as they are stored."""
    video, ranges = clip.member("mp4"), clip.ranges()
    assert ranges is not None
    return [video[start : start + size] for start, size, _ in ranges.tolist()]
