"""Videos and stored clips out, through the FFmpeg libraries that PyAV carries: no ffmpeg program is needed.

Frames are uint8 RGB (H, W, 3), speech is float32 mono in [-1, 1] at 16 kHz.
"""

import io
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import simplejpeg

from ...models.errors import UserError, printable
from ...models.files import written_aside
from ..sample import FPS, MAX_GOP, SAMPLE_RATE

DEFAULT_QUALITY = {"h264": 18, "mjpeg": 90}  # x264's rate factor (lower is better), JPEG quality (higher is better)
BT601 = 6  # FFmpeg's number of SMPTE 170M, the matrix that players assume for pictures of this size


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
    path.parent.mkdir(parents=True, exist_ok=True)
    per_frame = SAMPLE_RATE // fps
    count = 0
    with (
        written_aside(path) as aside,
        av.open(str(aside), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        container.metadata.update({name: printable(text) for name, text in (metadata or {}).items()})
        video: Any = None
        audio: Any = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if speech is not None else None
        for count, frame in enumerate(frames, start=1):
            if video is None:
                video = _add_h264(container, frame.shape, fps, crf, gop=fps * 2, exact=False)
            container.mux(video.encode(_video_frame(frame, count - 1)))
            if speech is not None:
                container.mux(audio.encode(_audio_frame(speech, (count - 1) * per_frame, per_frame)))
        if video is None:
            raise UserError(path, "no frames to write")
        for stream in (video, audio):
            if stream is not None:
                container.mux(stream.encode(None))
    return count


def encode_clip(frames: np.ndarray, codec: str = "h264", quality: int | None = None) -> bytes:
    """Frames uint8 (T, S, S, 3), S even, as the bytes of an mp4 without sound: the same frames give the same bytes.

    h264: yuv420p, closed GOPs of at most 8 frames, no B-frames; `quality` is x264's rate factor. GOPs of 12 would save
    7 % of the bytes, and cost a sixth of the speed at which random frames are read.
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
    frame = frame.reformat(format="yuv420p", dst_colorspace=BT601, dst_color_range=1, threads=1)
    frame.pts = index
    return frame


def _audio_frame(speech: np.ndarray, start: int, count: int) -> Any:
    samples = speech[start : start + count].astype(np.float32)
    samples = np.pad(samples, (0, count - len(samples)))[None]  # (1, count)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
    return frame
