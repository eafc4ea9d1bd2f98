"""Media in and out: any rate, codec and sound becomes the sample format."""

import io
import signal
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from emohead.datamodules.media.flac import decode_flac, encode_flac
from emohead.datamodules.media.read import iterate_video, probe, read_video
from emohead.datamodules.media.sound import read_audio
from emohead.datamodules.media.write import encode_clip, packet_ranges, write_video
from emohead.datamodules.sample import FPS, MAX_GOP, SAMPLE_RATE, SAMPLES_PER_FRAME
from emohead.models.errors import UserError
from PIL import Image

from .pictures import picture, tone


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_encoded_clips_are_exact_and_near_the_original(codec: str) -> None:
    frames = picture(frames=40)
    data = encode_clip(frames, codec)
    assert data == encode_clip(frames, codec)
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.frames) == (codec, FPS, 40)
        packets = [p for p in container.demux(stream) if p.size]
        assert [p.pts for p in packets] == [p.dts for p in packets]  # no B-frames
        keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
        assert np.diff([*keys, 40]).max() <= MAX_GOP
        container.seek(0)
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert psnr(decoded, frames) > 30
    assert np.abs((decoded.astype(float) - frames).mean(axis=(0, 1, 2))).max() < 2.5  # no shift of colour or range


def test_motion_jpeg_packets_are_plain_jpeg_files() -> None:
    frames = picture(frames=5)
    data = encode_clip(frames, "mjpeg")
    ranges = packet_ranges(data)
    assert len(ranges) == 5
    for (offset, size), frame in zip(ranges, frames, strict=True):
        assert psnr(np.array(Image.open(io.BytesIO(data[offset : offset + size]))), frame) > 30


def test_written_video_has_exactly_the_frames_and_the_sound(tmp_path: Path) -> None:
    frames, path = picture(frames=50), tmp_path / "deep" / "out.mp4"
    speech = np.zeros(SAMPLE_RATE * 3, np.float32)
    speech[16_000:16_400] = tone(0.025)  # a click at one second
    assert write_video(path, iter(frames), speech, metadata={"comment": "made by a test"}) == 50
    assert [p.name for p in path.parent.iterdir()] == ["out.mp4"]
    info = probe(path)
    assert (info.width, info.height, info.fps, info.has_audio, info.comment) == (64, 64, 25, True, "made by a test")
    assert read_video(path).shape == frames.shape
    sound = read_audio(path, aligned=True)
    assert abs(len(sound) - 50 * SAMPLES_PER_FRAME) <= 1024  # AAC counts in blocks of 1024
    assert abs(int(np.flatnonzero(np.abs(sound) > 0.1)[0]) - 16_000) < 80  # 5 ms


def test_a_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield picture()[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_video(tmp_path / "out.mp4", broken())
    with pytest.raises(UserError, match="no frames"):
        write_video(tmp_path / "out.mp4", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rate", "frames"), [(50, 60), (30, 36), (12, 24), (25, 30)])
def test_any_rate_becomes_25_frames_a_second_by_nearest_time(tmp_path: Path, rate: int, frames: int) -> None:
    source = np.stack([np.full((32, 32, 3), 4 * i, np.uint8) for i in range(frames)])
    write_video(tmp_path / "in.mp4", source, fps=rate)
    video = read_video(tmp_path / "in.mp4")
    assert len(video) == round(frames / rate * FPS)
    seen = video.mean(axis=(1, 2, 3)) / 4  # which source frame each is
    expected = np.arange(len(video)) / FPS * rate
    assert np.abs(seen - expected).max() <= 1
    assert read_video(tmp_path / "in.mp4", max_seconds=0.4).shape[0] == 10


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for pixels in picture(frames=5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    assert read_video(tmp_path / "wide.mp4").shape == (5, 64, 128, 3)
    assert probe(tmp_path / "wide.mp4").width == 128


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_common_sound_files_are_read_as_16_khz_mono(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"in.{suffix}"
    stereo = np.stack([tone(1, 44_100), tone(1, 44_100)], axis=1)
    soundfile.write(path, stereo, 44_100)
    sound = read_audio(path)
    assert (sound.dtype, sound.ndim) == (np.float32, 1)
    assert abs(len(sound) - SAMPLE_RATE) < 1700  # mp3 pads
    middle = sound[4000:12_000]
    assert np.abs(middle).max() == pytest.approx(0.3, abs=0.03)
    assert np.abs(np.fft.rfft(middle)).argmax() * SAMPLE_RATE / 8000 == pytest.approx(220, abs=3)


def test_flac_keeps_16_bits() -> None:
    speech = np.random.default_rng(0).uniform(-1, 1, 3200).astype(np.float32)
    assert np.abs(decode_flac(encode_flac(speech)) - speech).max() < 1 / 32_768
    assert encode_flac(speech) == encode_flac(speech)


def decode_until(data: bytes, seconds: float) -> None:
    """Decode again and again until an alarm rings; for a second at most."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        decode_flac(data)


def test_an_interrupt_while_speech_is_decoded_is_no_damage() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    data = encode_flac(np.random.default_rng(0).uniform(-1, 1, 64_000).astype(np.float32))
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(100):
            with pytest.raises(KeyboardInterrupt):
                decode_until(data, 1e-4 * (1 + number % 20))
    finally:
        signal.signal(signal.SIGALRM, before)


def test_unreadable_media_are_named(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0, np.float32), SAMPLE_RATE)
    write_video(tmp_path / "mute.mp4", picture(frames=5))
    write_video(tmp_path / "whole.mp4", picture(frames=60), tone(3))
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    for name in ("missing.wav", "noise.mp4", "empty.wav", "nothing.wav", "mute.mp4"):
        with pytest.raises(UserError, match=name):
            read_audio(tmp_path / name)
    for name in ("missing.mp4", "noise.mp4", "nothing.wav", "cut.mp4"):
        with pytest.raises(UserError, match=name):
            list(iterate_video(tmp_path / name))


# -- what is found in the wild ---------------------------------------------------------------------------------------


def encode(
    path: Path,
    codec: str,
    times: list[Fraction],
    *,
    sound: tuple[str, int, str] = ("aac", 48_000, "stereo"),  # codec, rate, layout
    rate: Fraction = Fraction(25),
    gop: int = 12,
    b_frames: int = 0,
) -> None:
    """A video whose brightness grows by 4 levels in 1/25 s, from 16 to 232 and again, with a click at one second."""
    name, hertz, layout = sound
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream(codec, rate=rate), container.add_stream(name, rate=hertz, layout=layout)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        video.bit_rate = 2_000_000
        video.codec_context.gop_size, video.codec_context.max_b_frames = gop, b_frames
        fixed = codec in ("mpeg1video", "mpeg4")  # which know no other rates
        video.codec_context.time_base = base = 1 / rate if fixed else Fraction(1, 90_000)
        for time in times:
            level = round(16 + 4 * float(time) * FPS % 216)
            frame = av.VideoFrame.from_ndarray(np.full((96, 96), level, np.uint8), format="yuv420p")
            frame.planes[1].update(bytes([128]) * frame.planes[1].buffer_size)
            frame.planes[2].update(bytes([128]) * frame.planes[2].buffer_size)
            frame.time_base, frame.pts = base, round(time / base)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = np.zeros((2 if layout == "stereo" else 1, round(float(times[-1] + 1 / rate) * hertz)), np.float32)
        samples[:, hertz : hertz + hertz // 50] = 0.5
        fifo = av.AudioFifo()
        whole = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        whole.sample_rate, whole.pts, whole.time_base = hertz, 0, Fraction(1, hertz)
        fifo.write(whole)
        while part := fifo.read(audio.codec_context.frame_size or 1024, partial=True):
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))


def steady(rate: Fraction, seconds: float = 2.0) -> list[Fraction]:
    return [index / rate for index in range(round(seconds * rate))]


NTSC = Fraction(30_000, 1001)
UNEVEN = [Fraction(index, 25) for index in range(50) if index % 5 not in (1, 2)]  # as phones record in the dark
WILD = {
    "mpeg1": ("a.mpg", "mpeg1video", steady(Fraction(25)), {"sound": ("mp2", 44_100, "stereo")}),
    "mpeg4": ("a.mp4", "mpeg4", steady(Fraction(30)), {"rate": Fraction(30), "sound": ("aac", 44_100, "mono")}),
    "h264, NTSC": ("a.mp4", "libx264", steady(NTSC), {"rate": NTSC, "b_frames": 2}),
    "h264 in Matroska, 30": ("a.mkv", "libx264", steady(Fraction(30)), {"rate": Fraction(30)}),
    "hevc": ("a.mp4", "libx265", steady(Fraction(25)), {"b_frames": 2}),
    "variable rate": ("a.mp4", "libx264", UNEVEN, {}),
}


@pytest.mark.parametrize("kind", WILD)
def test_any_video_becomes_the_sample_format(tmp_path: Path, kind: str) -> None:
    name, codec, times, options = WILD[kind]
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    encode(tmp_path / name, codec, times, **options)
    frames = read_video(tmp_path / name)
    assert len(frames) == 50
    shown = (frames.mean(axis=(1, 2, 3)) * 219 / 255) / 4  # the frame at 25 fps that each picture was made at
    ends = np.array([float(time) * FPS for time in times])
    nearest = ends[np.abs(ends[None] - np.arange(50)[:, None]).argmin(axis=1)]
    assert np.abs(shown - nearest).max() < 0.75
    sound = read_audio(tmp_path / name, aligned=True)
    assert abs(len(sound) - 50 * SAMPLES_PER_FRAME) <= 2 * SAMPLES_PER_FRAME  # codecs count in blocks
    loud = np.flatnonzero(np.abs(sound) > 0.2)
    assert abs(int(loud[0]) - SAMPLE_RATE) < 200  # a third of a frame
    assert abs(len(loud) - SAMPLE_RATE // 50) < 200


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.mpg"])
def test_an_interval_is_what_the_whole_holds_there(tmp_path: Path, name: str) -> None:
    codec = "mpeg1video" if name.endswith("mpg") else "libx264"
    encode(
        tmp_path / name,
        codec,
        steady(Fraction(25), 7),
        gop=100 if codec == "libx264" else 12,
        b_frames=2,
        sound=("mp2", 44_100, "stereo"),
    )
    whole, speech = read_video(tmp_path / name), read_audio(tmp_path / name, aligned=True)
    assert len(whole) == 175
    part = np.stack(list(iterate_video(tmp_path / name, start=5, stop=60, origin=4.0)))
    np.testing.assert_array_equal(part, whole[105:160])
    rest = np.stack(list(iterate_video(tmp_path / name, origin=6.0)))
    np.testing.assert_array_equal(rest, whole[150:])
    for start, stop in ((0.5, 1.5), (4.2, 6.2)):
        span = read_audio(tmp_path / name, aligned=True, start=start, stop=stop)
        wanted = speech[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]
        assert len(span) == len(wanted)
        assert np.abs(span - wanted).max() < 0.01


def test_only_the_interval_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emohead.datamodules.media import read as media

    encode(tmp_path / "long.mp4", "libx264", steady(Fraction(25), 30), gop=25)
    seen = []
    timed = media._timed_frames
    monkeypatch.setattr(media, "_timed_frames", lambda *a: (seen.append(f[1]) or f for f in timed(*a)))
    assert len(list(iterate_video(tmp_path / "long.mp4", start=0, stop=25, origin=20.0))) == 25
    assert 18 <= seen[0] <= 20
    assert len(seen) < 90
