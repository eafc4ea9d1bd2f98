"""Sound in: any audio or video file as float32 mono in [-1, 1] at a constant rate."""

from pathlib import Path
from typing import Any

import av
import numpy as np

from ...models.errors import UserError
from ..sample import SAMPLE_RATE
from .container import DAMAGE, LEAP, MAX_GAP, RESTART, RUN_UP, first_decodable, is_indexed, open_media, reason_of

TOLERANCE = 0.01  # seconds that time stamps may stray from the samples counted: containers round them


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
    interval ends with the sound at the latest. Gaps in the time stamps, as calls and recorders leave them, are silence,
    so that sound stays in step with the picture. Raises UserError if the file is missing, unreadable or without sound,
    if its sound track or the interval is empty, or if it holds values that are not finite.
    """
    with open_media(path) as container:
        stream = first_decodable(container.streams.audio)
        if stream is None:
            raise UserError(path, "no decoder for its sound" if container.streams.audio else "holds no sound")
        video = first_decodable(container.streams.video)
        zero = float((video.start_time or 0) * video.time_base) if video and aligned else 0.0
        try:
            if start > LEAP and is_indexed(container):
                container.seek(int((zero + start - RUN_UP) * av.time_base))
            samples, first = _decode(path, container, stream, sample_rate, None if stop is None else zero + stop)
        except UserError:
            raise
        except DAMAGE as error:
            raise UserError(path, f"damaged sound ({reason_of(error)})") from None
    if aligned or start or stop is not None:
        ahead = round((first - zero - start) * sample_rate)  # samples that the sound begins too late
        samples = np.pad(samples, (ahead, 0)) if ahead > 0 and samples.size else samples[max(0, -ahead) :]
    if stop is not None:
        samples = samples[: round((stop - start) * sample_rate)]
    if not samples.size:
        raise UserError(path, "its sound is empty")
    return np.clip(samples, -1, 1)


def _decode(
    path: Path | str, container: Any, stream: Any, sample_rate: int, stop: float | None
) -> tuple[np.ndarray, float]:
    """Mono samples (N,) up to the time `stop` of the file, and the time of the first one in seconds."""
    pieces: list[_Piece] = []
    for frame in container.decode(stream):
        if stop is not None and frame.time is not None and frame.time > stop + RUN_UP:
            break
        if not pieces or not pieces[-1].continued_by(frame):
            # Stamps that start over belong to a recording that follows: it is played after the one before.
            restarts = bool(pieces) and frame.time is not None and frame.time < pieces[-1].end - RESTART
            pieces.append(_Piece(frame, sample_rate, pieces[-1].end if restarts or frame.time is None else frame.time))
            if len(pieces) > 1 and pieces[-1].begin > pieces[-2].end + MAX_GAP:
                gap = pieces[-1].begin - pieces[-2].end
                raise UserError(path, f"the time stamps of its sound leap by {gap:.0f} s", "cut the file there")
        pieces[-1].add(frame)
    if not pieces:
        return np.zeros(0, np.float32), 0.0
    first, parts = pieces[0].begin, [piece.samples() for piece in pieces]
    places = [round((piece.begin - first) * sample_rate) for piece in pieces]
    whole = np.zeros(max(place + len(part) for place, part in zip(places, parts, strict=True)), np.float32)
    for place, part in zip(places, parts, strict=True):
        whole[max(place, 0) : place + len(part)] = part[max(-place, 0) :]
    bad = np.flatnonzero(~np.isfinite(whole))
    if bad.size:
        seconds = first + bad[0] / sample_rate
        raise UserError(path, f"its sound holds values that are not finite, at {seconds:.2f} s", "export it anew")
    return whole, first


class _Piece:
    """A run of decoded frames of one format whose time stamps follow each other."""

    def __init__(self, frame: Any, sample_rate: int, begin: float) -> None:
        # The mean of the channels is taken here: FFmpeg's own mix of two equal channels is 3 dB louder and may clip.
        self.resampler = av.AudioResampler(format="fltp", rate=sample_rate)
        self.format = _format(frame)
        self.begin = self.end = begin  # seconds
        self.shift = 0.0 if frame.time is None else begin - frame.time  # of the time stamps
        self.chunks: list[np.ndarray] = []

    def continued_by(self, frame: Any) -> bool:
        in_step = frame.time is None or abs(frame.time + self.shift - self.end) <= TOLERANCE
        return in_step and _format(frame) == self.format

    def add(self, frame: Any) -> None:
        self.end += frame.samples / frame.sample_rate
        self._take(frame)

    def samples(self) -> np.ndarray:
        """All of it; nothing can be added then."""
        self._take(None)
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.float32)

    def _take(self, frame: Any) -> None:
        self.chunks += [part.to_ndarray().mean(axis=0) for part in self.resampler.resample(frame)]


def _format(frame: Any) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate
