"""Decoding what a clip stores: frames out of a video, speech out of FLAC.

S pixels a side. Decoders raise whatever their libraries raise on damaged bytes. FFmpeg's libraries and OpenCV
are imported where they are needed: clips of JPEGs at their own size need neither.
"""

import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..media.flac import open_flac
from ..sample import FPS, MAX_GOP, SAMPLE_RATE, SAMPLES_PER_FRAME


def decode_npy(data: bytes) -> np.ndarray:
    """The array in the bytes of a .npy file."""
    length = int.from_bytes(data[8:10], "little")  # of the header: format 1.0, which np.save writes
    dtype, shape = _npy_header(data[: 10 + length])
    return np.frombuffer(data, dtype, offset=10 + length).reshape(shape).copy()


@lru_cache(maxsize=4096)  # numpy parses it as Python code, which takes longer than all else; few of them differ
def _npy_header(head: bytes) -> tuple[np.dtype, tuple[int, ...]]:
    file = io.BytesIO(head)
    if (version := np.lib.format.read_magic(file)) != (1, 0):
        raise ValueError(f"npy format {version} instead of (1, 0)")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran or dtype.hasobject:
        raise ValueError(f"npy array of {dtype}, Fortran order {fortran}: wanted are plain numbers in C order")
    return dtype, shape


def all_finite(array: np.ndarray) -> bool:
    if array.dtype == np.float16:  # which numpy converts one by one; bit patterns from here on are inf and NaN
        return bool(np.max(array.view(np.uint16) & 0x7FFF, initial=0) < 0x7C00)
    return bool(np.isfinite(array).all())


def decode_speech(data: bytes, start: int, num_frames: int) -> np.ndarray:
    """Speech of `num_frames` video frames from frame `start`: float32 (num_frames * 640,), silence after its end."""
    with open_flac(data) as file:
        if (file.samplerate, file.channels) != (SAMPLE_RATE, 1):
            raise ValueError(f"{file.channels} channels at {file.samplerate} Hz")
        file.seek(min(start * SAMPLES_PER_FRAME, file.frames))
        speech = file.read(num_frames * SAMPLES_PER_FRAME, dtype="float32")
    return np.pad(speech, (0, num_frames * SAMPLES_PER_FRAME - len(speech)))


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """Scale (S, S, 3) to (side, side, 3), averaging if it shrinks."""
    if image.shape[:2] == (side, side):
        return image
    import cv2

    cv2.setNumThreads(1)  # workers share the cores
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if side < image.shape[0] else cv2.INTER_LINEAR)


def decode_pyav(video: bytes, indices: Sequence[int]) -> list[np.ndarray]:
    """Frames of an mp4 in memory, each (S, S, 3), reached through the nearest key frame before them."""
    import av

    found: dict[int, np.ndarray] = {}
    container: Any  # its type depends on the mode, and the time base on the stream
    with av.open(io.BytesIO(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames, position = container.decode(stream), -1
        for index in sorted(set(indices)):
            if index - position > MAX_GOP:
                container.seek(round(index / FPS / stream.time_base), stream=stream)
                frames = container.decode(stream)
            for frame in frames:
                position = round(frame.pts * stream.time_base * FPS)
                if position >= index:
                    break
            if position != index:
                raise ValueError(f"frame {index} is missing")
            found[index] = frame.reformat(format="rgb24", threads=1).to_ndarray()  # starting more costs more
    return [found[index] for index in indices]


def decode_decord(video: bytes, indices: Sequence[int]) -> list[np.ndarray]:
    """The same with decord, which crashes on damaged bytes: give it only those whose checksum was compared."""
    import decord  # optional, x86-64 only, and slow to import

    return list(decord.VideoReader(io.BytesIO(video), num_threads=1).get_batch(list(indices)).asnumpy())


DECODE: dict[str, Callable[..., list[np.ndarray]]] = {"pyav": decode_pyav, "decord": decode_decord}
DECODERS = tuple(DECODE)
