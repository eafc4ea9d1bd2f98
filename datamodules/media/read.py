"""Video in: any file as frames at a constant rate, uint8 RGB (H, W, 3) with square pixels, upright.

Time zero is the first video frame: `read_audio(..., aligned=True)` of sound.py cuts or pads the sound to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from ...models.errors import UserError
from ..sample import FPS
from .container import DAMAGE, LEAP, MAX_GAP, RESTART, RUN_UP, first_decodable, is_indexed, open_media, reason_of

MAX_ASPECT = 8  # width of a pixel over its height; beyond it the header is not believed
VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".m2ts",
    ".wmv",
    ".flv",
    ".3gp",
)


@dataclass
class MediaInfo:
    """The header of a media file. Sizes are those of the picture with square pixels, as stored (not turned)."""

    duration: float  # seconds; 0 if the file does not say
    has_audio: bool
    has_video: bool
    width: int = 0
    height: int = 0
    aspect: Fraction | None = None  # width of a stored pixel over its height, if the file says
    fps: float = 0.0
    comment: str = ""


def probe(path: Path | str) -> MediaInfo:
    """Read the header of a media file; raises UserError if it is missing or no media."""
    with open_media(path) as container:
        stream = first_decodable(container.streams.video)
        info = MediaInfo(
            duration=_duration(container),
            has_audio=first_decodable(container.streams.audio) is not None,
            has_video=stream is not None,
            comment=container.metadata.get("comment", ""),
        )
        if stream is not None:
            info.aspect = stream.sample_aspect_ratio  # the container's word before the codec's, as in players
            info.width, info.height = _square_pixels(stream.width, stream.height, info.aspect)
            info.fps = float(stream.average_rate or stream.guessed_rate or 0)
            info.duration = float((stream.duration or 0) * stream.time_base) or info.duration
        return info


def _duration(container: Any) -> float:
    """Seconds that the header states. Matroska counts from zero, also if the first frame comes later."""
    begins = max(0, container.start_time or 0) if "matroska" in container.format.name else 0
    return max(0.0, float(((container.duration or 0) - begins) / av.time_base))


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
        yield _as_rgb(frame, info)
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
    with open_media(path) as container:
        stream = first_decodable(container.streams.video)
        if stream is None:
            raise UserError(path, "no decoder for its video" if container.streams.video else "holds no video")
        stream.thread_type = "AUTO"
        step = float(1 / (stream.average_rate or stream.guessed_rate or FPS))
        first, time = None, -step
        try:
            if begin > LEAP and is_indexed(container):
                first = _leap(container, stream, begin)
            for frame in container.decode(stream):
                stamp = frame.time if frame.time is not None else (first or 0.0) + time + step
                if first is None:
                    first = stamp
                if stamp < first + time - RESTART:  # another recording, shown after the one before
                    first = stamp - time - step
                before, time = time, max(stamp - first, time + 1e-6)  # damaged time stamps may run backwards
                if time > max(before, begin) + MAX_GAP:
                    raise UserError(path, f"the time stamps of its video leap by {time - before:.0f} s", "cut it there")
                duration = float(frame.duration * frame.time_base) if frame.duration else step
                yield frame, time, duration if duration < MAX_GAP else step
        except UserError:
            raise
        except DAMAGE as error:
            raise UserError(path, f"damaged video ({reason_of(error)})") from None
        if first is None:
            raise UserError(path, "holds no frame that can be decoded")


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


def _as_rgb(frame: Any, info: MediaInfo) -> np.ndarray:
    """A decoded frame as uint8 (H, W, 3), upright.

    A frame of another shape than the header's, as a phone sends that is turned in a call, is fitted between black bars.
    """
    canvas = info.width, info.height
    width, height = _square_pixels(frame.width, frame.height, info.aspect)
    scale = min(canvas[0] / width, canvas[1] / height)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = frame.reformat(width, height, "rgb24", threads=1).to_ndarray()  # (H, W, 3)
    if (width, height) != canvas:
        left, top = (canvas[0] - width) // 2, (canvas[1] - height) // 2
        around = (top, canvas[1] - height - top, left, canvas[0] - width - left)
        pixels = cv2.copyMakeBorder(pixels, *around, cv2.BORDER_CONSTANT)
    return np.ascontiguousarray(_turned(pixels, frame))


def _square_pixels(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Width and height of a picture when its pixels, `aspect` times as wide as high, are made square."""
    if aspect is not None and 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
        width = max(1, round(width * aspect))
    return width, height


def _turned(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """Pixels (H, W, 3) turned and mirrored as the display matrix says that phones write."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # A point (x, y) is shown at (a x + c y, b x + d y); only quarter turns and mirrors are known to come.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    if abs(int(b)) > abs(int(a)):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
