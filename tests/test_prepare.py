"""Media in and out, tracking, quality gates, and the way from a folder of videos to a data set."""

import csv
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from emohead.datamodules import prepare
from emohead.datamodules.media import (
    MAX_GOP,
    decode_flac,
    encode_clip,
    encode_flac,
    iterate_video,
    packet_ranges,
    probe,
    read_audio,
    read_video,
    write_video,
)
from emohead.datamodules.prepare import Source, find_sources, gate, prepare_folder, split_identities
from emohead.datamodules.reader import ClipReader
from emohead.datamodules.sample import EMOTIONS, FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from emohead.datamodules.tracking import FaceTracker, Track, crop_box, crop_square, interpolate_gaps, to_crop_units
from emohead.models.errors import UserError
from emohead.models.face_model_fit import MEDIAPIPE_IBUG_68
from PIL import Image

MAX_RESIDUAL = 0.025


def picture(size: int = 64, frames: int = 30) -> np.ndarray:
    """A smooth colour gradient with a bright bar that moves right by two pixels a frame, uint8 (T, S, S, 3)."""
    y, x = np.mgrid[:size, :size]
    base = np.stack([x, y, (x + y) / 2], axis=-1) * (200 / size)
    video = np.repeat(base[None], frames, axis=0)
    for index in range(frames):
        video[index, :, (2 * index) % size : (2 * index) % size + 4] = 255
    return video.astype(np.uint8)


def tone(seconds: float, rate: int = SAMPLE_RATE, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


@pytest.fixture(scope="session")
def grid(real_data: Path) -> list[Path]:
    pytest.importorskip("mediapipe", reason="needs the extra `prepare`")
    return sorted((real_data / "clips" / "grid").glob("*.mpg"))


@pytest.fixture(scope="session")
def portraits(real_data: Path) -> list[Path]:
    pytest.importorskip("mediapipe", reason="needs the extra `prepare`")
    return sorted((real_data / "portraits" / "hdtf_vox").glob("*.jpg"))


# -- media -----------------------------------------------------------------------------------------------------------


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


# -- tracking and crops ----------------------------------------------------------------------------------------------


def test_gaps_are_interpolated() -> None:
    points = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, 468, 3), np.float32)
    found = np.array([False, True, False, False, True, False])
    broken = np.where(found[:, None, None], points, np.nan)
    np.testing.assert_allclose(interpolate_gaps(broken, found)[:, 0, 0], [1, 1, 2, 3, 4, 4], rtol=1e-6)


def test_crops_reach_beyond_the_picture_by_repeating_its_edge() -> None:
    frame = picture(size=64, frames=1)[0]
    crop = crop_square(frame, (-16, -16, 64), 64)
    np.testing.assert_array_equal(crop[16:, 16:], frame[:48, :48])
    np.testing.assert_array_equal(crop[:16, 16:], np.repeat(frame[:1, :48], 16, axis=0))


def test_crop_units_span_the_crop() -> None:
    points = np.array([[10, 20, 0], [110, 120, 50], [60, 70, -50]], np.float32)
    np.testing.assert_allclose(to_crop_units(points, (10, 20, 100)), [[-1, -1, 0], [1, 1, 1], [0, 0, -1]])


def test_the_crop_holds_a_moving_face_whole() -> None:
    face = np.random.default_rng(0).uniform(0, 100, (468, 3))
    walk = face + np.linspace(0, 150, 50)[:, None, None] * (1, 0, 0)
    left, top, side = crop_box(walk)
    u = to_crop_units(walk, (left, top, side))[..., :2]
    assert np.abs(u).max() < 1
    assert np.abs(u[0].min() + u[-1].max()) < 0.3  # about centred


# -- gates, labels, splits -------------------------------------------------------------------------------------------


def track(frames: int = 50, found: float = 1.0, several: float = 0.0, loudness: float = 0.1) -> Track:
    index = np.arange(frames) / frames
    points = np.zeros((frames, 468, 3), np.float32)
    return Track(points, index < found, index < several, np.full(frames, loudness, np.float32))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (track(), None),
        (track(found=0.95), None),
        (track(found=0.5), "no face in 50% of the frames"),
        (track(found=0), "no face"),
        (track(several=0.3), "several faces in 30% of the frames"),
        (track(loudness=1e-4), "silent sound"),
        (track(frames=20), "too short: 0.80 s of at least 1 s"),
    ],
)
def test_gates(made: Track, reason: str | None) -> None:
    assert gate(made, 0, len(made.found)) == reason


def test_long_videos_are_cut_into_equal_pieces() -> None:
    made = track(frames=26 * FPS)
    made.points[:] = np.random.default_rng(0).uniform(100, 200, (468, 3))
    made.found[9 * FPS : 15 * FPS] = False
    pieces, rejected = prepare.cut_pieces([Source(Path("a b.mp4"), "a b.mp4", "a")], [made])
    assert [(p.start, len(p.points)) for p in pieces] == [(0, 217), (433, 217)]
    assert [p.key for p in pieces] == ["000000_a-b_000", "000000_a-b_002"]
    assert [r.source for r in rejected] == ["a b.mp4 [8.68-17.32 s]"]


@pytest.mark.parametrize(("people", "counts"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (40, (32, 4, 4))])
def test_splits_are_by_identity(people: int, counts: tuple[int, ...]) -> None:
    names = [f"person {i}" for i in range(people)]
    splits = split_identities(set(names))
    assert tuple(list(splits.values()).count(s) for s in ("train", "val", "test")) == counts
    if people == 40:  # fixed by the names alone: not by the process's hash seed, not by the order of files
        assert [name for name in names if splits[name] == "test"] == ["person 7", "person 21", "person 23", "person 28"]


def labels(folder: Path, *rows: tuple[str, ...], header: tuple[str, ...] = prepare.LABEL_COLUMNS) -> None:
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_labels_are_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.mp4", "a.MP4", "sub/c.webm", "notes.txt"):
        (tmp_path / name).touch()
    labels(tmp_path, ("a.MP4", "ann", "happy", "3", "Good morning."), ("sub/c.webm", "", "neutral", "", ""), ("b.mp4",))
    a, b, c = find_sources(tmp_path)
    assert (a.name, a.identity, a.emotion, a.level, a.sentence) == ("a.MP4", "ann", "happy", 3, "Good morning.")
    assert (b.identity, b.emotion, b.level, b.sentence) == ("b", None, None, None)
    assert (c.name, c.identity, c.emotion, c.level) == ("sub/c.webm", "c", "neutral", 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x.mp4", "", "", "", ""), "line 2: no video 'x.mp4'"),
        (("a.mp4", "", "cheerful", "", ""), "emotion 'cheerful' is not one of " + EMOTIONS[0]),
        (("a.mp4", "", "happy", "4", ""), "level '4'"),
    ],
)
def test_wrong_labels_are_named(tmp_path: Path, row: tuple[str, ...], message: str) -> None:
    (tmp_path / "a.mp4").touch()
    labels(tmp_path, row)
    with pytest.raises(UserError, match=message):
        find_sources(tmp_path)
    labels(tmp_path, row, header=("name",))
    with pytest.raises(UserError, match="columns must be file"):
        find_sources(tmp_path)


def test_folders_without_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        prepare_folder(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(UserError, match="holds no video"):
        prepare_folder(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- the whole way ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_inputs(tmp_path_factory: pytest.TempPathFactory, grid: list[Path]) -> Path:
    """A folder with one fault in each file."""
    folder = tmp_path_factory.mktemp("bad")
    person, sound = read_video(grid[0], max_seconds=1.2), read_audio(grid[0])
    write_video(folder / "faceless.mp4", picture(frames=30), tone(1.2))
    write_video(folder / "mute.mp4", person)
    write_video(folder / "short.mp4", person[:20], sound)
    write_video(folder / "silent.mp4", person, np.zeros_like(sound))
    write_video(folder / "two.mp4", np.concatenate([person, person[:, :, ::-1]], axis=2), sound)
    data = (folder / "silent.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(data[: len(data) // 2])
    (folder / "zero.mp4").write_bytes(b"")
    return folder


REASONS = {
    "faceless": "no face",
    "mute": "no sound",
    "short": "too short",
    "silent": "silent sound",
    "truncated": "",  # whatever FFmpeg says of it
    "two": "several faces",
    "zero": "not a readable media file",
}


def test_real_clips_become_a_data_set_and_faults_are_reported(
    tmp_path: Path, grid: list[Path], bad_inputs: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for path in (*grid[:2], *bad_inputs.iterdir()):
        (source / path.name).symlink_to(path)
    labels(source, (grid[0].name, "ann", "neutral", "1", "bin blue at f two now"))
    seen: list[tuple[int, int, str]] = []
    report = prepare_folder(source, out, size=128, codec="mjpeg", progress=lambda *step: seen.append(step))

    assert {r.source.removesuffix(".mp4") for r in report.rejected} == set(REASONS)
    for rejected in report.rejected:
        assert rejected.reason.startswith(REASONS[rejected.source.removesuffix(".mp4")]), rejected
    assert (9, 9, "track, 3 rejected") in seen  # the files that cannot be tracked at all
    assert {label.split(",")[0] for _, _, label in seen} == {"track", "fit", "pack"}
    assert [(info.identity, info.emotion, info.level) for info in report.kept] == [
        ("ann", "neutral", 1),
        (grid[1].stem, None, None),
    ]
    for info in report.kept:
        assert (info.frames, info.size, info.dataset) == (75, 128, "in")
        assert 0 < info.tracking_residual <= MAX_RESIDUAL
    check_clip(ClipReader(out), report.kept[0].key)


def check_clip(reader: ClipReader, key: str) -> None:
    """Pictures, speech, landmarks and motion of a packed clip belong together."""
    frames, motion, identity = reader.frames(key, range(75)), reader.motion(key), reader.identity(key)
    assert (frames.shape, motion.shape, identity.shape) == ((75, 3, 128, 128), (75, 38), (16,))
    assert abs(len(reader.speech(key)) - 75 * SAMPLES_PER_FRAME) <= SAMPLES_PER_FRAME
    tracked = reader.landmarks(key).astype(np.float32)
    assert tracked.min() > 0
    assert tracked.max() < 128
    brows, chin, left_eye, right_eye = tracked[:, 19, 1], tracked[:, 8, 1], tracked[:, 36, 0], tracked[:, 45, 0]
    assert np.all(brows < chin)
    assert np.all(left_eye < right_eye)
    with FaceTracker(video=False) as tracker:  # what is seen in the stored picture is what the landmarks say of it
        (face,) = tracker.faces(frames[40].transpose(1, 2, 0))
    assert np.abs(face[MEDIAPIPE_IBUG_68, :2] - tracked[40]).mean() < 0.01 * 128
    fitted = reader.face_model.landmarks(torch.from_numpy(identity), torch.from_numpy(motion)).numpy()
    assert np.abs((fitted + 1) / 2 * 128 - tracked).mean() < 0.01 * 128


def test_workers_change_nothing(tmp_path: Path, grid: list[Path]) -> None:
    sources = [Source(path, path.name, path.stem) for path in grid[:2]]
    alone = prepare.track_sources(sources, 0, lambda *step: None)
    pooled = prepare.track_sources(sources, 2, lambda *step: None)
    for a, b in zip(alone, pooled, strict=True):
        assert isinstance(a, Track)
        assert isinstance(b, Track)
        np.testing.assert_array_equal(a.points, b.points)


def test_all_rejected_lists_the_reasons_and_leaves_nothing(tmp_path: Path, bad_inputs: Path) -> None:
    with pytest.raises(UserError, match=r"no clip is fit for use \(7 rejected\).*faceless\.mp4: no face; mute"):
        prepare_folder(bad_inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_mediapipe_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mediapipe", None)
    write_video(tmp_path / "a.mp4", picture(), tone(1.2))
    with pytest.raises(UserError, match=r"pip install 'emohead\[prepare\]'"):
        prepare_folder(tmp_path, tmp_path / "out")


# -- portraits -------------------------------------------------------------------------------------------------------


def test_portraits_are_found_and_cropped(tmp_path: Path, portraits: list[Path]) -> None:
    from emohead.datamodules.portrait import crop_portrait, find_faces

    for path in portraits:
        crop = crop_portrait(path, 128)
        assert (crop.shape, crop.dtype) == ((128, 128, 3), np.uint8)
        (face,) = find_faces(crop)
        assert 0.5 < np.ptp(face[:, 1]) / 128 < 0.7  # the face takes as much of the crop as in clips
    original = Image.open(portraits[0]).convert("RGB")
    original.resize((64, 64)).save(tmp_path / "tiny.png")
    original.crop((50, 50, 210, 210)).save(tmp_path / "tight.png")
    original.convert("RGBA").save(tmp_path / "clear.webp")
    for name in ("tiny.png", "tight.png", "clear.webp"):
        assert crop_portrait(tmp_path / name, 96).shape == (96, 96, 3)


def test_a_turned_photo_is_set_upright(tmp_path: Path, portraits: list[Path]) -> None:
    from emohead.datamodules.portrait import crop_portrait

    image = Image.open(portraits[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    difference = crop_portrait(tmp_path / "turned.png", 64).astype(int) - crop_portrait(portraits[0], 64)
    assert np.abs(difference).mean() < 2


def test_images_without_exactly_one_face_are_named(tmp_path: Path, portraits: list[Path]) -> None:
    from emohead.datamodules.portrait import crop_portrait

    Image.fromarray(picture(size=200, frames=1)[0]).save(tmp_path / "faceless.png")
    pair = [np.array(Image.open(path).convert("RGB")) for path in portraits[:2]]
    Image.fromarray(np.concatenate(pair, axis=1)).save(tmp_path / "pair.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, reason in {
        "faceless.png": "no face",
        "pair.png": "2 faces",
        "text.png": "not a readable image",
        "missing.png": "no such file",
    }.items():
        with pytest.raises(UserError, match=rf"{name}: {reason}"):
            crop_portrait(tmp_path / name, 64)
    assert crop_portrait(tmp_path / "faceless.png", 64, detect=False).shape == (64, 64, 3)
