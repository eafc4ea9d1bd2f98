"""Where the face is in a picture, and the square that is cut around it."""

import contextlib
import zlib
from pathlib import Path

import numpy as np
import pytest
from emohead.datamodules.media.crop import crop_box, crop_square, to_crop_units
from emohead.datamodules.tracking.gaps import interpolate_gaps
from emohead.models.errors import UserError
from PIL import Image

from .pictures import picture


@pytest.fixture(scope="session")
def portraits(real_data: Path) -> list[Path]:
    pytest.importorskip("ai_edge_litert", reason="needs the extra `prepare`")
    return sorted((real_data / "portraits" / "hdtf_vox").glob("*.jpg"))


def test_gaps_are_interpolated() -> None:
    points = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, 478, 3), np.float32)
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
    face = np.random.default_rng(0).uniform(0, 100, (478, 3))
    walk = face + np.linspace(0, 150, 50)[:, None, None] * (1, 0, 0)
    left, top, side = crop_box(walk)
    u = to_crop_units(walk, (left, top, side))[..., :2]
    assert np.abs(u).max() < 1
    assert np.abs(u[0].min() + u[-1].max()) < 0.3  # about centred


def test_portraits_are_found_and_cropped(tmp_path: Path, portraits: list[Path]) -> None:
    from emohead.datamodules.media.portrait import crop_portrait, find_faces

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
    from emohead.datamodules.media.portrait import crop_portrait

    image = Image.open(portraits[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    difference = crop_portrait(tmp_path / "turned.png", 64).astype(int) - crop_portrait(portraits[0], 64)
    assert np.abs(difference).mean() < 2


MODES = {"png": "RGB RGBA L LA P P-clear I;16", "tiff": "RGBA LA P I;16 CMYK", "webp": "RGB RGBA", "jpg": "RGB L CMYK"}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes.split()])
def test_a_turned_picture_of_any_mode_is_set_upright(tmp_path: Path, kind: str, mode: str) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the extra `prepare`")
    from emohead.datamodules.media.portrait import crop_portrait

    mode, _, clear = mode.partition("-")
    light = np.zeros((48, 48), np.uint8)
    light[:12] = 255  # stored at the top, which belongs to the right
    image = Image.fromarray(light.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(light).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    image.save(tmp_path / f"a.{kind}", exif=exif, **{"transparency": 1} if clear else {})
    upright = crop_portrait(tmp_path / f"a.{kind}", 48, detect=False)
    assert upright[:, -10:].min() > 200
    assert upright[:, :34].max() < 50


def test_images_without_exactly_one_face_are_named(tmp_path: Path, portraits: list[Path]) -> None:
    from emohead.datamodules.media.portrait import crop_portrait

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


def test_large_and_long_pictures_are_read_and_searched_in_bounds(
    tmp_path: Path, portraits: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from emohead.datamodules.media import portrait
    from emohead.datamodules.tracking.tracker import FaceTracker

    shown: list[int] = []
    faces = FaceTracker.faces
    monkeypatch.setattr(FaceTracker, "faces", lambda self, frame: shown.append(max(frame.shape)) or faces(self, frame))
    monkeypatch.setattr(portrait, "MAX_PIXELS", 300_000)
    monkeypatch.setattr(portrait, "TRACKED_SIDE", 400)
    original = Image.open(portraits[0]).convert("RGB").resize((256, 256))
    original.resize((1600, 1600)).save(tmp_path / "large.jpg")
    original.resize((1600, 1600)).save(tmp_path / "large.png")
    page = Image.new("RGB", (300, 5000), "white")
    page.paste(original, (20, 2600))
    page.save(tmp_path / "page.png")
    reference = portrait.crop_portrait(portraits[0], 64).astype(int)
    for name in ("large.jpg", "large.png", "page.png"):
        difference = portrait.crop_portrait(tmp_path / name, 64) - reference
        assert np.abs(difference).mean() < (40 if name == "page.png" else 12), name
    assert max(shown) <= 400


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((12, 12), "too few for a face"),
        ((1, 4000), "too few"),
        ((4000, 40), "a strip"),
        ((30_000, 30_000), "megapixels"),
    ],
)
def test_pictures_that_hold_no_face_by_their_size_are_refused_unread(
    tmp_path: Path, size: tuple[int, int], words: str
) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the extra `prepare`")
    from emohead.datamodules.media.portrait import crop_portrait

    Image.new("RGB", (64, 64)).save(tmp_path / "odd.png")
    data = bytearray((tmp_path / "odd.png").read_bytes())
    data[16:24] = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big")  # the header's word
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "odd.png").write_bytes(data)
    for detect in (True, False):
        with pytest.raises(UserError, match=rf"odd\.png: .*{words}"):
            crop_portrait(tmp_path / "odd.png", 64, detect=detect)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp", "bmp", "tiff", "ppm"])
def test_damaged_pictures_of_any_format_are_named(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the extra `prepare`")
    from emohead.datamodules.media.portrait import crop_portrait

    path, rng = tmp_path / f"a.{kind}", np.random.default_rng(0)
    Image.fromarray(picture(size=64, frames=1)[0]).save(path)
    whole = path.read_bytes()
    for attempt in range(12):
        data = bytearray(whole[: len(whole) // 2] if attempt == 0 else whole)
        for place in rng.integers(0, len(data), 8):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(UserError):  # a few changed bytes may be pixels only
            assert crop_portrait(path, 64, detect=False).shape == (64, 64, 3)


def test_grey_with_16_bits_keeps_its_greys(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the extra `prepare`")
    from emohead.datamodules.media.portrait import crop_portrait

    ramp = np.linspace(0, 65_535, 64 * 64).reshape(64, 64)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "deep.png")
    crop = crop_portrait(tmp_path / "deep.png", 64, detect=False)
    assert np.abs(crop[..., 0] - ramp / 257).max() < 2
