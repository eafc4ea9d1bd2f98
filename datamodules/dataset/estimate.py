"""Estimates of the size and reading speed of a data set in each codec, from a few of its clips."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ..sample import SAMPLES_PER_FRAME, Clip
from .layout import CODECS
from .manifest import Manifest
from .reader import ClipReader, StoredClip
from .writer import ShardWriter

NUM_CLIPS, NUM_FRAMES = 3, 48  # of excerpts: four groups of pictures each
TIMED_SECONDS = 0.4


@dataclass
class CodecEstimate:
    """A data set in one codec."""

    codec: str
    bytes_per_frame: float
    gigabytes: float  # all tars
    frames_per_second: float  # at random places, checked and decoded by one core of this machine
    held: bool  # whether the data set is in this codec; its size is then exact


def estimate_codecs(folder: Path | str) -> list[CodecEstimate]:
    """Encode excerpts of some clips in each codec, and read frames at random from them; takes a few seconds.

    Raises UserError if one of these clips is damaged.
    """
    reader = ClipReader(folder)
    manifest, clips = reader.manifest, list(_some_clips(reader))
    excerpts = [_excerpt(clip) for clip in clips]
    measured = {codec: _measure(reader, excerpts, codec) for codec in CODECS}
    held = _bytes_per_frame(clips)
    scale = held / measured[manifest.codec][0]  # an excerpt has a larger share of headers and was encoded twice
    estimates = []
    for codec, (size, speed) in measured.items():
        grown = _num_frames(manifest) * (scale * size - held)
        total = sum(shard.bytes for shard in manifest.shards) + grown
        estimates.append(CodecEstimate(codec, scale * size, total / 1e9, speed, held=codec == manifest.codec))
    return estimates


def _bytes_per_frame(clips: Sequence[StoredClip]) -> float:
    return sum(clip.record["members"]["mp4"][1] for clip in clips) / sum(clip.num_frames for clip in clips)


def _num_frames(manifest: Manifest) -> int:
    return sum(shard.frames for shard in manifest.shards)


def _some_clips(reader: ClipReader) -> Iterator[StoredClip]:
    """Clips from all over the data set: the first of shards at equal distances, more of each if shards are few."""
    num = len(reader.manifest.shards)
    each = -(-NUM_CLIPS // num)
    places = [
        (number, row)
        for number in np.unique(np.linspace(0, num - 1, min(num, NUM_CLIPS)).round().astype(int)).tolist()
        for row in range(min(each, reader.manifest.shards[number].clips))
    ]
    yield from (reader.clip_at(*place) for place in islice(places, NUM_CLIPS))


def _excerpt(clip: StoredClip) -> Clip:
    count = min(NUM_FRAMES, clip.num_frames)
    return Clip(
        info=replace(clip.info(), frames=count, split="train"),
        frames=clip.frames(range(count)).transpose(0, 2, 3, 1),
        speech=np.zeros(count * SAMPLES_PER_FRAME, np.float32),
        motion=clip.motion()[:count],
        identity=clip.identity(),
        landmarks=clip.landmarks()[:count],
    )


def _measure(reader: ClipReader, excerpts: list[Clip], codec: str) -> tuple[float, float]:
    """Bytes a frame, and random frames a second through the reader."""
    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(folder, size=reader.manifest.size, codec=codec) as writer:
            for excerpt in excerpts:
                writer.write(excerpt)
            writer.close(reader.face_model)
        packed = ClipReader(folder)
        clips = [packed.clip(excerpt.info.key) for excerpt in excerpts]
        size = _bytes_per_frame(clips)
        rng, count, start = np.random.default_rng(0), 0, time.process_time()
        while (elapsed := time.process_time() - start) < TIMED_SECONDS:
            clip = clips[count % len(clips)]
            clip.frames([int(rng.integers(clip.num_frames))])
            count += 1
        return size, count / elapsed
