"""Media as the field has them: each of these was once read wrongly, or ended in a traceback."""

import os
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from emohead.datamodules.media.container import DAMAGE, reason_of
from emohead.datamodules.media.read import probe, read_video
from emohead.datamodules.media.sound import read_audio
from emohead.datamodules.media.write import write_video
from emohead.datamodules.sample import SAMPLE_RATE
from emohead.models.errors import UserError

from .pictures import picture, tone
from .sounds import CLICKS, clicks, heard


def remux(source: Path, target: Path, change: Callable[[Any, float], Any]) -> None:
    """Copy packets that `change(packet, seconds)` returns, with whatever time stamps it gave them."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.size and (kept := change(packet, float(packet.pts * packet.time_base))) is not None:
                kept.stream = streams[packet.stream]
                new.mux(kept)


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.mp4"
    write_video(path, picture(frames=100), clicks())
    return path


# -- sound -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_gap_in_the_sound_is_silence(tmp_path: Path, talk: Path, suffix: str) -> None:
    def hole(packet: Any, time: float) -> Any:
        return None if packet.stream.type == "audio" and 1.7 <= time < 2.3 else packet

    remux(talk, tmp_path / f"gap.{suffix}", hole)
    sound = read_audio(tmp_path / f"gap.{suffix}", aligned=True)
    assert np.abs(np.array(heard(sound)) - CLICKS).max() < 0.01
    assert abs(len(sound) / SAMPLE_RATE - 4) < 0.1
    part = read_audio(tmp_path / f"gap.{suffix}", aligned=True, start=1.0, stop=3.0)
    assert np.abs(np.array(heard(part)) - (0.5, 1.5)).max() < 0.01


def test_a_recording_that_follows_another_in_one_file_comes_after_it(tmp_path: Path, talk: Path) -> None:
    """Transport streams are put together by appending them; the time stamps of the second then start over."""
    remux(talk, tmp_path / "one.ts", lambda packet, time: packet)
    (tmp_path / "two.ts").write_bytes((tmp_path / "one.ts").read_bytes() * 2)
    assert abs(len(read_video(tmp_path / "two.ts")) - 200) <= 2
    found = heard(read_audio(tmp_path / "two.ts", aligned=True))
    assert np.abs(np.array(found) - [*CLICKS, *(at + 4 for at in CLICKS)]).max() < 0.1


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_time_stamps_that_leap_are_refused(tmp_path: Path, talk: Path, kind: str) -> None:
    def late(packet: Any, time: float) -> Any:
        if packet.stream.type == kind and packet.dts * packet.time_base > 2:
            packet.pts, packet.dts = (stamp + round(3600 / packet.time_base) for stamp in (packet.pts, packet.dts))
        return packet

    remux(talk, tmp_path / "leap.mkv", late)
    read = read_audio if kind == "audio" else read_video
    with pytest.raises(UserError, match=r"leap\.mkv: .* leap by 3600 s"):
        read(tmp_path / "leap.mkv")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    sound = tone(2)
    sound[20_000:20_003] = value
    soundfile.write(tmp_path / "bad.wav", sound, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(UserError, match=r"bad\.wav: its sound holds values that are not finite, at 1\.2"):
        read_audio(tmp_path / "bad.wav")


def test_sound_that_changes_its_format_is_read_on(tmp_path: Path) -> None:
    """A stream that is cut together: MPEG audio tells the format in each of its frames."""
    for name, rate, layout in (("a", 44_100, "stereo"), ("b", 22_050, "mono")):
        with av.open(str(tmp_path / f"{name}.mp2"), "w") as container:
            stream = container.add_stream("mp2", rate=rate, layout=layout)
            samples = np.full((2 if layout == "stereo" else 1, rate // 1152 * 1152), 0.1, np.float32)
            fifo, whole = av.AudioFifo(), av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            whole.sample_rate, whole.pts, whole.time_base = rate, 0, Fraction(1, rate)
            fifo.write(whole)
            while part := fifo.read(1152):
                part = part.__class__.from_ndarray(
                    (part.to_ndarray() * 32767).astype("<i2").T.reshape(1, -1), "s16", layout
                )
                part.sample_rate = rate
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
    (tmp_path / "both.mp2").write_bytes((tmp_path / "a.mp2").read_bytes() + (tmp_path / "b.mp2").read_bytes())
    sound = read_audio(tmp_path / "both.mp2")
    assert 1.7 < len(sound) / SAMPLE_RATE < 2.2
    assert np.abs(np.median(sound[: SAMPLE_RATE // 2]) - 0.1) < 0.02
    assert np.abs(np.median(sound[-SAMPLE_RATE // 2 : -2000]) - 0.1) < 0.02


# -- pictures --------------------------------------------------------------------------------------------------------


def test_the_shape_of_pixels_is_read_from_the_container(tmp_path: Path) -> None:
    """As in a remux that states it: the size at which the track is shown, and nothing in the stream itself."""
    write_video(tmp_path / "narrow.mp4", picture(frames=5))
    data = bytearray((tmp_path / "narrow.mp4").read_bytes())
    if b"pasp" in data:
        data[data.index(b"pasp") : data.index(b"pasp") + 4] = b"free"
    place = data.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8 + 36
    data[place : place + 4] = (128 << 16).to_bytes(4, "big")
    (tmp_path / "narrow.mp4").write_bytes(data)
    assert probe(tmp_path / "narrow.mp4").width == 128
    assert read_video(tmp_path / "narrow.mp4").shape == (5, 64, 128, 3)


def test_a_picture_that_changes_its_shape_is_not_stretched(tmp_path: Path) -> None:
    """A call in which a phone is turned: MJPEG frames of two sizes in one file."""
    shapes = [(96, 64)] * 10 + [(64, 96)] * 10
    with av.open(str(tmp_path / "turned.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for index, (width, height) in enumerate(shapes):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = (
                width,
                height,
                "yuvj420p",
                Fraction(1, 25),
            )
            pixels = np.zeros((height, width, 3), np.uint8)
            pixels[height // 2 - 16 : height // 2 + 16, width // 2 - 16 : width // 2 + 16] = 255  # a square
            frame = av.VideoFrame.from_ndarray(pixels).reformat(format="yuvj420p")
            frame.pts, frame.time_base = 0, Fraction(1, 25)
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), index, index
                container.mux(packet)
    frames = read_video(tmp_path / "turned.mkv")
    assert frames.shape == (20, 64, 96, 3)
    for frame in frames:
        bright = frame.mean(axis=2) > 128
        assert abs(int(bright.any(axis=0).sum()) - int(bright.any(axis=1).sum())) <= 2


MATRICES = {  # by the numbers of an mp4's header: (a, b, c, d), and where the bright corner then is
    "upright": ((1, 0, 0, 1), "top left"),
    "half a turn": ((-1, 0, 0, -1), "bottom right"),
    "quarter": ((0, 1, -1, 0), "top right"),
    "three quarters": ((0, -1, 1, 0), "bottom left"),
    "mirrored": ((-1, 0, 0, 1), "top right"),
    "flipped": ((1, 0, 0, -1), "bottom left"),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_pictures_are_turned_and_mirrored_as_the_file_says(tmp_path: Path, kind: str) -> None:
    frames = np.zeros((5, 32, 64, 3), np.uint8)
    frames[:, :16, :32] = 255
    write_video(tmp_path / "in.mp4", frames)
    data = bytearray((tmp_path / "in.mp4").read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    (a, b, c, d), corner = MATRICES[kind]
    values = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4")
    data[place : place + 36] = values.tobytes()
    (tmp_path / "in.mp4").write_bytes(data)
    frame = read_video(tmp_path / "in.mp4")[0].mean(axis=2)
    assert frame.shape == ((64, 32) if b else (32, 64))
    height, width = frame.shape
    rows = slice(0, height // 2) if "top" in corner else slice(height // 2, height)
    columns = slice(0, width // 2) if "left" in corner else slice(width // 2, width)
    assert frame[rows, columns].mean() > 200
    assert frame.mean() < 80


def test_the_picture_on_a_cover_is_no_video(tmp_path: Path, talk: Path) -> None:
    with av.open(str(talk)) as old, av.open(str(tmp_path / "song.mp4"), "w") as new:
        cover = new.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = new.add_stream_from_template(old.streams.audio[0])
        for packet in cover.encode(av.VideoFrame.from_ndarray(picture(size=32, frames=1)[0])):
            new.mux(packet)
        for packet in old.demux(old.streams.audio[0]):
            if packet.size:
                packet.stream = sound
                new.mux(packet)
    assert not probe(tmp_path / "song.mp4").has_video
    assert len(read_audio(tmp_path / "song.mp4")) > 3 * SAMPLE_RATE
    with pytest.raises(UserError, match=r"song\.mp4: (holds no video|no decoder)"):
        read_video(tmp_path / "song.mp4")


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path, talk: Path) -> None:
    odd = talk.rename(Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.mp4")))
    assert len(read_video(odd)) == 100
    assert len(read_audio(odd)) > 3 * SAMPLE_RATE
    (tmp_path / os.fsdecode(b"\xff.mp4")).write_bytes(b"no media")
    with pytest.raises(UserError) as error:
        read_video(tmp_path / os.fsdecode(b"\xff.mp4"))
    assert "\\xff.mp4: not a readable media file" in str(error.value).encode().decode()


def test_a_last_frame_that_says_it_lasts_a_day_does_not(tmp_path: Path, talk: Path) -> None:
    def long(packet: Any, time: float) -> Any:
        if packet.stream.type == "video" and time > 3.9:
            packet.duration = round(86_400 / packet.time_base)
        return packet

    remux(talk, tmp_path / "long.mkv", long)
    with pytest.raises(UserError, match=r"4\.0 s can be decoded of 8640"):
        read_video(tmp_path / "long.mkv")


@pytest.mark.parametrize(
    "error", [IndexError(7), OverflowError(), ValueError("x"), av.error.InvalidDataError(1, "bad")]
)
def test_damage_is_told_in_words_and_not_by_the_name_of_a_class(error: Exception) -> None:
    assert isinstance(error, DAMAGE)
    assert not re.search(r"Error|^$", reason_of(error))
