"""Video and audio in, through the FFmpeg libraries that PyAV carries: no ffmpeg program is needed.

Frames are uint8 RGB (H, W, 3) with square pixels, upright, at a constant rate. Sound is float32 mono in [-1, 1].
Time zero is the first video frame: `read_audio(..., aligned=True)` cuts or pads the sound to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ...models.errors import UserError
from ..sample import FPS, SAMPLE_RATE
from .write import MAX_GOP, decode_flac, encode_clip, encode_flac, packet_ranges, write_video

__all__ = ["MAX_GOP", "decode_flac", "encode_clip", "encode_flac", "packet_ranges", "write_video"]

VIDEO_SUFFIXES = (".mp4", ".mpg", ".mpeg", ".mov", ".mkv", ".avi", ".webm")
INDEXED_FORMATS = ("mp4", "matroska", "avi")  # containers that lead to a key frame; in others a leap may miss it
LEAP = 2.0  # seconds that are decoded rather than leapt over
RUN_UP = 1.0  # seconds that are decoded before the first frame or sample wanted: open GOPs, overlapping audio blocks


@dataclass
class MediaInfo:
    """The header of a media file. Sizes are those of the picture with square pixels, as stored (not turned)."""

    duration: float  # seconds; 0 if the file does not say
    has_audio: bool
    has_video: bool
    width: int = 0
    height: int = 0
    fps: float = 0.0
    comment: str = ""


def probe(path: Path | str) -> MediaInfo:
    """Read the header of a media file; raises UserError if it is missing or no media."""
    with _open(path) as container:
        info = MediaInfo(
            duration=float((container.duration or 0) / av.time_base),
            has_audio=bool(container.streams.audio),
            has_video=bool(container.streams.video),
            comment=container.metadata.get("comment", ""),
        )
        if info.has_video:
            stream = container.streams.video[0]
            aspect = stream.codec_context.sample_aspect_ratio or Fraction(1)
            info.width, info.height = round(stream.width * aspect), stream.height
            info.fps = float(stream.average_rate or stream.guessed_rate or 0)
            info.duration = float((stream.duration or 0) * stream.time_base) or info.duration
        return info


# -- video -----------------------------------------------------------------------------------------------------------


def iterate_video(
    path: Path | str,
    fps: float = FPS,
    start: int = 0,
    stop: int | None = None,
    origin: float = 0.0,
) -> Iterator[np.ndarray]:
    """Frames start..stop of the video at a constant rate, each uint8 (H, W, 3): the source frame nearest in time.

    Frame k shows the time origin + k / fps. Only what is needed is decoded if the container has an index.
    Raises UserError if the file is unreadable, damaged, without video or (without `stop`) cut short: a tenth of
    its stated length or more is missing.
    """
    info = probe(path)
    count = start
    for frame in _nearest(path, fps, start, origin):
        if stop is not None and count >= stop:
            return
        yield _as_rgb(frame, info.width, info.height)
        count += 1
    end = origin + count / fps
    if stop is None and end < 0.9 * info.duration - 1 / fps:
        raise UserError(path, f"cut short: {end:.1f} s can be decoded of {info.duration:.1f} s stated")


def read_video(path: Path | str, fps: float = FPS, max_seconds: float | None = None) -> np.ndarray:
    """The whole video at a constant rate, uint8 (T, H, W, 3); errors as `iterate_video`."""
    stop = None if max_seconds is None else max(1, round(max_seconds * fps))
    return np.stack(list(iterate_video(path, fps, stop=stop)))


def _nearest(path: Path | str, fps: float, index: int, origin: float) -> Iterator[Any]:
    """Decoded frames, repeated or left out so that the one for frame `index` and so on is the nearest in time."""
    previous, previous_time, end = None, 0.0, 0.0
    for frame, time, duration in _timed_frames(path, origin + index / fps):
        while previous is not None and origin + index / fps < (previous_time + time) / 2:
            yield previous
            index += 1
        previous, previous_time, end = frame, time, time + duration
    while previous is not None and index < max(1, round((end - origin) * fps)):
        yield previous
        index += 1


def _timed_frames(path: Path | str, begin: float) -> Iterator[tuple[Any, float, float]]:
    """Decoded frames from `begin` or earlier, each with its time since the video's first and its duration (seconds)."""
    with _open(path) as container:
        if not container.streams.video:
            raise UserError(path, "holds no video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        step = float(1 / (stream.average_rate or stream.guessed_rate or FPS))
        first, time = None, -step
        try:
            if begin > LEAP and _indexed(container):
                first = _leap(container, stream, begin)
            for frame in container.decode(stream):
                stamp = frame.time if frame.time is not None else (first or 0.0) + time + step
                first = stamp if first is None else first
                time = max(stamp - first, time + 1e-6)  # damaged time stamps may run backwards
                yield frame, time, float(frame.duration * frame.time_base) if frame.duration else step
        except av.error.FFmpegError as error:
            raise UserError(path, f"damaged video ({_reason(error)})") from None
        if first is None:
            raise UserError(path, "holds no frame that can be decoded")


def _indexed(container: Any) -> bool:
    return any(name in container.format.name for name in INDEXED_FORMATS)


def _leap(container: Any, stream: Any, begin: float) -> float | None:
    """Go to a key frame before `begin`; returns the time stamp of the video's first frame, None if it has none.

    If the leap does not land at or before `begin`, decoding starts over at the beginning.
    """
    first = next((frame.time for frame in container.decode(stream)), None)
    if first is not None:
        container.seek(int((first + begin - RUN_UP) / stream.time_base), stream=stream)
        landed = next((frame.time for frame in container.decode(stream)), None)
        if landed is not None and landed <= first + begin:
            container.seek(int((first + begin - RUN_UP) / stream.time_base), stream=stream)
            return first
    container.seek(0)
    return None


def _as_rgb(frame: Any, width: int, height: int) -> np.ndarray:
    """A decoded frame as uint8 (H, W, 3), upright; width and height are those of square pixels before it is turned."""
    pixels = frame.reformat(width, height, "rgb24", threads=1).to_ndarray()  # (H, W, 3)
    turns = round((frame.rotation or 0) / 90) % 4  # counter-clockwise, from the display matrix that phones write
    return np.ascontiguousarray(np.rot90(pixels, turns))


# -- sound -----------------------------------------------------------------------------------------------------------


def read_audio(
    path: Path | str,
    sample_rate: int = SAMPLE_RATE,
    aligned: bool = False,
    start: float = 0.0,
    stop: float | None = None,
) -> np.ndarray:
    """The first sound track of any audio or video file as float32 (N,), mono, at `sample_rate`.

    With `aligned`, time zero is that of the first video frame; else the first sample, or the file's own zero if `start`
    and `stop` (seconds) choose an interval. If the sound begins later than the interval, silence comes first; the
    interval ends with the sound at the latest. Raises UserError if the file is missing, unreadable or without sound, or
    if its sound track or the interval is empty.
    """
    with _open(path) as container:
        if not container.streams.audio:
            raise UserError(path, "holds no sound")
        stream = container.streams.audio[0]
        video = container.streams.video[0] if container.streams.video else None
        zero = float((video.start_time or 0) * video.time_base) if video and aligned else 0.0
        try:
            if start > LEAP and _indexed(container):
                container.seek(int((zero + start - RUN_UP) * av.time_base))
            chunks, first = _decode_audio(container, stream, sample_rate, None if stop is None else zero + stop)
        except av.error.FFmpegError as error:
            raise UserError(path, f"damaged sound ({_reason(error)})") from None
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)  # (N,)
    if aligned or start or stop is not None:
        ahead = round((first - zero - start) * sample_rate)  # samples that the sound begins too late
        samples = np.pad(samples, (ahead, 0)) if ahead > 0 and samples.size else samples[max(0, -ahead) :]
    if stop is not None:
        samples = samples[: round((stop - start) * sample_rate)]
    if not samples.size:
        raise UserError(path, "its sound is empty")
    return np.clip(samples, -1, 1)


def _decode_audio(container: Any, stream: Any, sample_rate: int, stop: float | None) -> tuple[list[np.ndarray], float]:
    """Chunks of mono samples up to the time `stop` of the file, and the time of the first one in seconds."""
    # The mean of the channels is taken here: FFmpeg's own mix of two equal channels is 3 dB louder and may clip.
    resampler = av.AudioResampler(format="fltp", rate=sample_rate)
    chunks, first = [], None
    for frame in container.decode(stream):
        if stop is not None and frame.time is not None and frame.time > stop + RUN_UP:
            break
        first = frame.time if first is None else first
        chunks += [part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)]
    if chunks:
        chunks += [part.to_ndarray().mean(axis=0) for part in resampler.resample(None)]
    return chunks, first or 0.0


def _open(path: Path | str) -> Any:
    if not Path(path).is_file():
        raise UserError(path, "no such file")
    try:
        return av.open(str(path), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise UserError(path, f"not a readable media file ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
