"""Video and audio in and out, through the FFmpeg libraries that PyAV carries: no ffmpeg program is needed.

Frames are uint8 RGB (H, W, 3) with square pixels, upright, at a constant rate. Sound is float32 mono in [-1, 1].
Time zero is the first video frame: `read_audio(..., aligned=True)` cuts or pads the sound to it.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import simplejpeg
import soundfile

from ..models.errors import UserError
from .sample import FPS, SAMPLE_RATE

VIDEO_SUFFIXES = (".mp4", ".mpg", ".mpeg", ".mov", ".mkv", ".avi", ".webm")
MAX_GOP = 12  # frames to decode at most to reach any frame of a stored clip
DEFAULT_QUALITY = {"h264": 18, "mjpeg": 90}  # x264's rate factor (lower is better), JPEG quality (higher is better)
BT601 = 6  # FFmpeg's number of SMPTE 170M, the matrix that players assume for pictures of this size


@dataclass
class MediaInfo:
    """What a media file says of itself. Sizes are those of the picture with square pixels, as stored (not turned)."""

    duration: float  # seconds; 0 where the file does not say
    has_audio: bool
    has_video: bool
    width: int = 0
    height: int = 0
    fps: float = 0.0
    comment: str = ""


# -- reading ---------------------------------------------------------------------------------------------------------


def probe(path: Path | str) -> MediaInfo:
    """Read the header of a media file; raises UserError where it is missing or no media."""
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
            info.duration = _stream_seconds(stream) or info.duration
        return info


def iterate_video(
    path: Path | str,
    fps: float = FPS,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[np.ndarray]:
    """Frames start..stop of the video at a constant rate, each uint8 (H, W, 3): the source frame nearest in time.

    Raises UserError where the file is unreadable, damaged, without video or cut short (a tenth of its stated length
    or more is missing).
    """
    info = probe(path)
    count = 0
    for frame in _nearest(path, fps):
        if stop is not None and count >= stop:
            return
        if count >= start:
            yield _as_rgb(frame, info.width, info.height)
        count += 1
    if stop is None and count / fps < 0.9 * info.duration - 1 / fps:
        raise UserError(f"{path}: cut short: {count / fps:.1f} s can be decoded of {info.duration:.1f} s stated")


def read_video(path: Path | str, fps: float = FPS, max_seconds: float | None = None) -> np.ndarray:
    """The whole video at a constant rate, uint8 (T, H, W, 3); errors as `iterate_video`."""
    stop = None if max_seconds is None else max(1, round(max_seconds * fps))
    return np.stack(list(iterate_video(path, fps, stop=stop)))


def read_audio(path: Path | str, sample_rate: int = SAMPLE_RATE, aligned: bool = False) -> np.ndarray:
    """The first sound track of any audio or video file as float32 (N,), mono, at `sample_rate`.

    With `aligned`, sample 0 is the time of the first video frame. Raises UserError where the file is missing,
    unreadable, without sound, or where its sound track is empty.
    """
    with _open(path) as container:
        if not container.streams.audio:
            raise UserError(f"{path}: holds no sound")
        stream = container.streams.audio[0]
        video_start = _start_seconds(container.streams.video[0]) if container.streams.video else 0.0
        try:
            chunks, first = _decode_audio(container, stream, sample_rate)
        except av.error.FFmpegError as error:
            raise UserError(f"{path}: damaged sound ({_reason(error)})") from None
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)  # (N,)
    if not samples.size:
        raise UserError(f"{path}: its sound is empty")
    if aligned:
        ahead = round((first - video_start) * sample_rate)  # samples that the sound begins after the picture
        samples = np.pad(samples, (ahead, 0)) if ahead > 0 else samples[-ahead:]
    return np.clip(samples, -1, 1)


def _open(path: Path | str) -> Any:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    try:
        return av.open(str(path), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise UserError(f"{path}: not a readable media file ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _stream_seconds(stream: Any) -> float:
    return float(stream.duration * stream.time_base) if stream.duration else 0.0


def _start_seconds(stream: Any) -> float:
    return float((stream.start_time or 0) * stream.time_base)


def _nearest(path: Path | str, fps: float) -> Iterator[Any]:
    """Decoded frames, repeated or left out so that frame k is the one nearest to k / fps."""
    previous, previous_time, end, index = None, 0.0, 0.0, 0
    for frame, time, duration in _timed_frames(path):
        while previous is not None and index / fps < (previous_time + time) / 2:
            yield previous
            index += 1
        previous, previous_time, end = frame, time, time + duration
    while previous is not None and index < max(1, round(end * fps)):
        yield previous
        index += 1


def _timed_frames(path: Path | str) -> Iterator[tuple[Any, float, float]]:
    """Decoded frames, each with its time since the first and its duration in seconds."""
    with _open(path) as container:
        if not container.streams.video:
            raise UserError(f"{path}: holds no video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        step = float(1 / (stream.average_rate or stream.guessed_rate or FPS))
        first, time = None, -step
        try:
            for frame in container.decode(stream):
                stamp = frame.time if frame.time is not None else (first or 0.0) + time + step
                first = stamp if first is None else first
                time = max(stamp - first, time + 1e-6)  # damaged time stamps may run backwards
                yield frame, time, step
        except av.error.FFmpegError as error:
            raise UserError(f"{path}: damaged video ({_reason(error)})") from None
        if first is None:
            raise UserError(f"{path}: holds no frame that can be decoded")


def _as_rgb(frame: Any, width: int, height: int) -> np.ndarray:
    """A decoded frame as uint8 (H, W, 3), upright; width and height are those of square pixels before it is turned."""
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)  # (H, W, 3)
    turns = round((frame.rotation or 0) / 90) % 4  # counter-clockwise, from the display matrix that phones write
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _decode_audio(container: Any, stream: Any, sample_rate: int) -> tuple[list[np.ndarray], float]:
    """Chunks of mono samples, and the time of the first one in seconds."""
    # The mean of the channels is taken here: FFmpeg's own mix of two equal channels is 3 dB louder and may clip.
    resampler = av.AudioResampler(format="fltp", rate=sample_rate)
    chunks, first = [], None
    for frame in container.decode(stream):
        first = frame.time if first is None else first
        chunks += [part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)]
    if chunks:
        chunks += [part.to_ndarray().mean(axis=0) for part in resampler.resample(None)]
    return chunks, first or 0.0


# -- writing ---------------------------------------------------------------------------------------------------------


def write_video(
    path: Path | str,
    frames: Iterable[np.ndarray],
    speech: np.ndarray | None = None,
    fps: int = FPS,
    crf: int = 18,
    metadata: dict[str, str] | None = None,
) -> int:
    """Write frames, each uint8 (H, W, 3) with even sides, and speech (N,) at 16 kHz as an mp4 (H.264, AAC).

    The file is as long as the frames: speech is cut or padded with silence. `metadata` holds the fields that mp4
    knows (title, artist, comment, ...); put provenance into `comment`. Written aside, then renamed. Returns the number
    of frames.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    per_frame = SAMPLE_RATE // fps
    count = 0
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata.update(metadata or {})
            video: Any = None
            audio: Any = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if speech is not None else None
            for count, frame in enumerate(frames, start=1):
                if video is None:
                    video = _add_h264(container, frame.shape, fps, crf, gop=fps * 2, exact=False)
                container.mux(video.encode(_video_frame(frame, count - 1)))
                if speech is not None:
                    container.mux(audio.encode(_audio_frame(speech, (count - 1) * per_frame, per_frame)))
            if video is None:
                raise UserError(f"{path}: no frames to write")
            for stream in (video, audio):
                if stream is not None:
                    container.mux(stream.encode(None))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def encode_clip(frames: np.ndarray, codec: str = "h264", quality: int | None = None) -> bytes:
    """Frames uint8 (T, S, S, 3), S even, as the bytes of an mp4 without sound: the same frames give the same bytes.

    h264: yuv420p, closed GOPs of at most 12 frames, no B-frames; `quality` is x264's rate factor.
    mjpeg: every packet is a plain 4:2:0 JPEG file; `quality` is the JPEG quality.
    """
    assert codec in DEFAULT_QUALITY, codec
    assert frames.dtype == np.uint8, frames.dtype
    quality = DEFAULT_QUALITY[codec] if quality is None else quality
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        if codec == "h264":
            stream = _add_h264(container, frames.shape[1:], FPS, quality, gop=MAX_GOP, exact=True)
            for index, frame in enumerate(frames):
                container.mux(stream.encode(_video_frame(frame, index)))
            container.mux(stream.encode(None))
        else:
            stream = _add_mjpeg(container, frames.shape[1:])
            for index, frame in enumerate(frames):
                container.mux(_jpeg_packet(stream, frame, index, quality))
    return buffer.getvalue()


def packet_ranges(mp4: bytes) -> list[tuple[int, int]]:
    """(offset, size) of every frame's packet in the bytes of an mp4; for mjpeg each is a whole JPEG file."""
    with av.open(io.BytesIO(mp4), "r") as container:
        return [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]


def encode_flac(speech: np.ndarray) -> bytes:
    """Speech float32 (N,) in [-1, 1] at 16 kHz as FLAC bytes, 16 bit."""
    buffer = io.BytesIO()
    pcm = np.clip(np.round(speech * 32768.0), -32768, 32767).astype(np.int16)
    soundfile.write(buffer, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(data: bytes) -> np.ndarray:
    """What `encode_flac` wrote, float32 (N,); raises soundfile.LibsndfileError on damaged bytes."""
    speech, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == SAMPLE_RATE
    return speech


def _add_h264(container: Any, shape: tuple[int, ...], fps: int, crf: int, gop: int, exact: bool) -> Any:
    assert not any(side % 2 for side in shape[:2]), f"H.264 4:2:0 needs even sides, not {shape[1]}x{shape[0]}"
    # Threads change x264's rate control, and with it the bytes: a stored clip is encoded by one.
    bitexact = f":keyint={gop}:min-keyint=1:bframes=0:open-gop=0:threads=1:lookahead-threads=1" if exact else ""
    options = {"crf": str(crf), "preset": "medium", "x264-params": f"colormatrix=smpte170m:range=tv{bitexact}"}
    stream = container.add_stream("h264", rate=fps, options=options)
    stream.height, stream.width, stream.pix_fmt = shape[0], shape[1], "yuv420p"
    stream.codec_context.gop_size = gop
    if exact:
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
    stream.codec_context.colorspace = BT601
    stream.codec_context.color_range = 1
    return stream


def _add_mjpeg(container: Any, shape: tuple[int, ...]) -> Any:
    stream = container.add_stream("mjpeg", rate=FPS)
    stream.height, stream.width, stream.pix_fmt = shape[0], shape[1], "yuvj420p"
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    return stream


def _jpeg_packet(stream: Any, frame: np.ndarray, index: int, quality: int) -> Any:
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=quality, colorsubsampling="420")
    packet = av.Packet(jpeg)
    packet.stream, packet.time_base = stream, Fraction(1, FPS)
    packet.pts = packet.dts = index
    packet.duration, packet.is_keyframe = 1, True
    return packet


def _video_frame(pixels: np.ndarray, index: int) -> Any:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace=BT601, dst_color_range=1)
    frame.pts = index
    return frame


def _audio_frame(speech: np.ndarray, start: int, count: int) -> Any:
    samples = speech[start : start + count].astype(np.float32)
    samples = np.pad(samples, (0, count - len(samples)))[None]  # (1, count)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
    return frame
