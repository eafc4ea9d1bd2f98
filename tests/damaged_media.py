"""Damaged and odd copies of media files. Every one is a function of its number."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from .sounds import CLICKS


def changed(source: Path, target: Path, change: Callable[[Any, int], Any]) -> None:
    """The packets of a file that `change(packet, number)` returns, as it returns them."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        for number, packet in enumerate(old.demux()):
            if packet.size and (kept := change(packet, number)) is not None:
                kept.stream = streams[packet.stream]
                new.mux(kept)


# -- damage: nothing says what such a file ought to become -----------------------------------------------------------


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
