"""Damaged and odd media files: each is read, in step, or refused in one line; none crashes, hangs or grows without end.

With EMOHEAD_SOAK=1 540 of them, else a few of each kind. Every one is a function of its number.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from emohead.datamodules.media.read import iterate_video, probe
from emohead.datamodules.media.sound import read_audio
from emohead.datamodules.media.write import write_video
from emohead.datamodules.sample import FPS, SAMPLE_RATE
from emohead.models.errors import UserError

from .sounds import CLICKS, clicks, heard

SOAK = bool(os.environ.get("EMOHEAD_SOAK"))
EACH = 60 if SOAK else 4  # files of each kind
SECONDS = 4
LONGEST = 90.0  # seconds that may come out of any of them: the gaps that are filled are bounded


def flashes() -> np.ndarray:
    """Frames (T, 64, 64, 3), white for a fifth of a second from each click on."""
    frames = np.full((SECONDS * FPS, 64, 64, 3), 40, np.uint8)
    for at in CLICKS:
        frames[round(at * FPS) :][:5] = 220
    return frames


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The undamaged clip in three containers."""
    folder = tmp_path_factory.mktemp("whole")
    write_video(folder / "a.mp4", flashes(), clicks(SECONDS))
    for suffix in ("mkv", "ts"):
        changed(folder / "a.mp4", folder / f"a.{suffix}", lambda packet, n: packet)
    return {path.suffix[1:]: path for path in folder.iterdir()}


def changed(source: Path, target: Path, change: Callable[[Any, int], Any]) -> None:
    """The packets of a file that `change(packet, number)` returns, as it returns them."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        for number, packet in enumerate(old.demux()):
            if packet.size and (kept := change(packet, number)) is not None:
                kept.stream = streams[packet.stream]
                new.mux(kept)


# -- damage: a file comes out that is read or refused ----------------------------------------------------------------


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for place in rng.integers(0, len(data), 1 + int(rng.integers(30))):
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def header(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits of the first kilobytes: sizes, rates, time scales, tables of time stamps."""
    end = min(len(data), 4096)
    return flipped(data[:end], rng) + data[end:]


def tables(data: bytes, rng: np.random.Generator) -> bytes:
    """A number in a table of an mp4: durations of frames, their sizes, edit lists, the matrix."""
    damaged = bytearray(data)
    names = [name for name in (b"stts", b"ctts", b"stsz", b"elst", b"tkhd", b"mdhd", b"stsc", b"mvhd") if name in data]
    if names:
        place = data.index(names[int(rng.integers(len(names)))]) + 4 + int(rng.integers(24))
        damaged[place : place + 4] = int(rng.integers(2**32)).to_bytes(4, "big")
    return bytes(damaged)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data)))]


def hole(data: bytes, rng: np.random.Generator) -> bytes:
    first = int(rng.integers(len(data)))
    return data[:first] + bytes(int(rng.integers(2000))) + data[first + int(rng.integers(4000)) :]


DAMAGE = {function.__name__: function for function in (flipped, header, tables, cut, hole)}


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_read_or_refused(kind: str, whole: dict[str, Path], tmp_path: Path) -> None:
    kept = 0
    for number in range(EACH):
        rng = np.random.default_rng([number, len(kind)])
        suffix = ("mp4", "mkv", "ts")[number % 3]
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(DAMAGE[kind](whole[suffix].read_bytes(), rng))
        started = time.monotonic()
        for read in (probe, length_of_video, length_of_sound):
            with contextlib.suppress(UserError):
                seconds = read(path)
                assert read is probe or seconds < LONGEST, f"{path.name}: {seconds} s"
                kept += 1
        assert time.monotonic() - started < 60, path.name
    assert kept, "some have to be readable, or nothing was tried"


def length_of_video(path: Path) -> float:
    return sum(1 for _ in iterate_video(path)) / FPS


def length_of_sound(path: Path) -> float:
    sound = read_audio(path, aligned=True)
    assert np.isfinite(sound).all()
    return len(sound) / SAMPLE_RATE


# -- oddities: what the file says is known, and sound and picture keep step ------------------------------------------


def lost_sound(packet: Any, number: int, rng: np.random.Generator) -> Any:
    time = float(packet.pts * packet.time_base)
    quiet = all(abs(time - at) > 0.2 for at in CLICKS)  # half a click would be heard elsewhere
    return None if packet.stream.type == "audio" and quiet and rng.random() < 0.3 else packet


def late_sound(packet: Any, number: int, rng: np.random.Generator) -> Any:
    """Both streams begin 10 s late, as in a part of a broadcast."""
    packet.pts, packet.dts = (stamp + round(10 / packet.time_base) for stamp in (packet.pts, packet.dts))
    return packet


def jitter(packet: Any, number: int, rng: np.random.Generator) -> Any:
    """Time stamps of sound that stray by some milliseconds, as those of capture cards."""
    if packet.stream.type == "audio":
        packet.pts = packet.dts = packet.pts + round(rng.uniform(0, 0.006) / packet.time_base)
    return packet


def lost_frames(packet: Any, number: int, rng: np.random.Generator) -> Any:
    """Frames at the end of a group are lost, as in a call."""
    gone = packet.stream.type == "video" and not packet.is_keyframe and packet.pts * packet.time_base > 3.8
    return None if gone else packet


ODD = {function.__name__: function for function in (lost_sound, late_sound, jitter, lost_frames)}


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", ODD)
def test_odd_files_keep_sound_and_picture_in_step(kind: str, whole: dict[str, Path], tmp_path: Path) -> None:
    for number in range(EACH):
        rng = np.random.default_rng([number, len(kind)])
        path = tmp_path / f"{number}.mkv"
        changed(whole["mp4"], path, lambda packet, n, rng=rng: ODD[kind](packet, n, rng))
        light = np.array([frame.mean() > 130 for frame in iterate_video(path)])
        seen = (np.flatnonzero(np.diff(light.astype(int)) == 1) + 1) / FPS
        for click in heard(read_audio(path, aligned=True)):
            assert np.abs(seen - click).min() <= 1 / FPS, f"{path.name}: {click} among {seen}"
        assert len(seen) == 4
