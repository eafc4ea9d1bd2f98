"""Figures by networks of others: each network is a tiny one, made here, whose answer is known."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.models.errors import UserError
from emohead.trainers.evaluation.judges import ARCFACE_POINTS, Csim, Fid, Lpips, SyncNet, align, load_onnx
from emohead.trainers.evaluation.mfcc import mfcc
from onnx import TensorProto, helper

from .onnx_networks import BRIGHTNESS, mean, pair, save, save_colours, save_pixels, save_squared, save_sync

CENTRES = torch.tensor(ARCFACE_POINTS) + 0.5  # the same points if pixel i covers [i, i + 1)
# The first, second and last row of mfcc() of python_speech_features 0.6 for the chirp of the test below.
REFERENCE = (
    (17.8487, 9.606, -31.5499, -38.6245, -8.6086, 18.7921, 16.66, -2.1013, -8.464, -0.0518, 6.8281, 1.7628, -5.8395),
    (
        19.3549,
        4.7729,
        -43.2892,
        -27.6586,
        19.7548,
        26.0249,
        -1.6767,
        -10.4189,
        2.8617,
        2.7578,
        -8.7741,
        -7.9362,
        3.6052,
    ),
    (
        21.8877,
        -7.8597,
        -41.0514,
        36.5143,
        11.9173,
        -36.6855,
        7.4616,
        22.2203,
        -14.6711,
        -5.4705,
        7.2088,
        -2.243,
        0.8914,
    ),
)


@pytest.fixture
def squared(tmp_path: Path) -> Path:
    return save_squared(tmp_path / "lpips.onnx")


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Mean colour of a picture."""
    return save_colours(tmp_path / "fid.onnx")


@pytest.fixture
def pixels(tmp_path: Path) -> Path:
    """All values of a face."""
    return save_pixels(tmp_path / "csim.onnx")


def talk(frames: int = 41) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise that gets louder and softer, and pictures (T, 3, 8, 8) whose blue follows it."""
    rng = np.random.default_rng(0)
    level = np.repeat(10 ** rng.uniform(-3, -1, frames), 640)
    speech = (rng.normal(0, 1, frames * 640) * level).clip(-1, 1).astype(np.float32)
    energy = np.append(mfcc(speech)[:, 0], 0).reshape(frames, 4).mean(axis=1)
    pictures = torch.rand(frames, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pictures[:, 2] = torch.from_numpy(energy).float()[:, None, None] * BRIGHTNESS / 127.5 - 1
    return pictures, torch.from_numpy(speech)


def faces(count: int, size: int = 112) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def landmarks(points: torch.Tensor) -> torch.Tensor:
    """68 landmarks (B, 68, 2) whose eyes, nose tip and mouth corners are the points (B, 5, 2)."""
    found = torch.full((len(points), 68, 2), -1000.0)  # the others do not count
    around = torch.tensor([[-6.0, 0], [-3, -3], [3, -3], [6, 0], [3, 3], [-3, 3]])
    found[:, 36:42], found[:, 42:48] = points[:, :1] + around, points[:, 1:2] + around
    found[:, [30, 48, 54]] = points[:, 2:]
    return found


def test_lpips_is_of_each_picture(squared: Path):
    truth = torch.zeros(2, 3, 8, 8)
    frames = torch.stack([truth[0] + 0.5, truth[1] + 3])  # beyond the range, clipped to 1
    torch.testing.assert_close(Lpips(squared)(frames, truth), torch.tensor([0.25, 1.0]))


def test_a_map_of_distances_is_averaged(tmp_path: Path):
    path = save(tmp_path / "map.onnx", [helper.make_node("Sub", ["a", "b"], ["out"])], pair())
    frames = faces(2, 8)
    torch.testing.assert_close(Lpips(path)(frames, torch.zeros(2, 3, 8, 8)), frames.mean(dim=(1, 2, 3)))


def test_fid_of_equal_and_of_shifted_pictures(colours: Path):
    colour = torch.randint(40, 200, (12, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([5.0, -10.0, 20.0])[:, None, None]
    before = torch.get_rng_state()
    found = []
    for moved in (0 * shift, shift):
        fid = Fid(colours)
        collection = fid.collect()
        with torch.inference_mode():
            for part in range(0, 12, 5):
                truth = colour[part : part + 5].expand(-1, -1, 8, 8)
                collection.update(fid.features(truth / 127.5 - 1), fid.features((truth + moved) / 127.5 - 1))
        found.append(collection.compute())
    assert found[0] == pytest.approx(0, abs=1e-5)
    assert found[1] == pytest.approx(float((shift / 127.5).square().sum()), rel=1e-3)
    assert torch.equal(before, torch.get_rng_state()), "an evaluation's other draws do not depend on its judges"


def test_fid_is_of_spread_as_well(colours: Path):
    """Grey of one mean and standard deviations of s and 2 s: the distance is s squared, of all three colours."""
    grey = torch.tensor([-20.0, 20.0]).repeat(3)[:, None, None, None].expand(-1, 3, 8, 8)
    fid = Fid(colours)
    collection = fid.collect()
    collection.update(fid.features((grey + 100) / 127.5 - 1), fid.features((2 * grey + 100) / 127.5 - 1))
    assert collection.compute() == pytest.approx(3 * (20 / 127.5) ** 2 * 6 / 5, rel=1e-3)  # of 6 pictures, unbiased


def test_fid_of_one_picture_is_refused(colours: Path):
    fid = Fid(colours)
    collection = fid.collect()
    collection.update(fid.features(faces(1, 8)), fid.features(faces(1, 8)))
    with pytest.raises(UserError, match="two pictures"):
        collection.compute()


def test_a_face_in_place_stays_as_it_is():
    frames = faces(2)
    torch.testing.assert_close(align(frames, landmarks(CENTRES.expand(2, -1, -1))), frames, atol=1e-4, rtol=0)


def test_turned_shifted_and_enlarged_faces_come_back():
    """Changes that fall on whole pixels, each with another batch item: nothing is lost."""
    face = faces(1)[0]
    canvas = torch.full((4, 3, 240, 240), -1.0)
    canvas[0, :, 20:132, 90:202] = face
    canvas[1, :, 100:212, 7:119] = face.rot90(dims=(1, 2))  # anticlockwise: (x, y) -> (y, 112 - x)
    canvas[2, :, 0:112, 0:112] = face.flip(1, 2)  # half a turn
    canvas[3, :, 3:227, 9:233] = face.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    x, y = CENTRES.unbind(-1)
    points = [
        CENTRES + torch.tensor([90, 20]),
        torch.stack([y, 112 - x], dim=-1) + torch.tensor([7, 100]),
        112 - CENTRES,
        2 * CENTRES + torch.tensor([9, 3]),
    ]
    torch.testing.assert_close(
        align(canvas, landmarks(torch.stack(points))), face.expand(4, -1, -1, -1), atol=2e-3, rtol=0
    )


def test_landmarks_of_a_data_set_are_float16():
    tremor = torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(0))
    points = (landmarks(CENTRES[None] + 400) + tremor).half()  # steps of a quarter pixel, of which means are taken
    frames = faces(1, 600)
    torch.testing.assert_close(align(frames, points), align(frames, points.double()))


def test_outside_the_frame_lies_black():
    half = faces(1)[..., 56:, :]
    cut = torch.cat([half, torch.ones_like(half)], dim=2)  # its lower half, moved up by 56
    found = align(cut, landmarks((CENTRES - torch.tensor([0, 56]))[None]))
    assert (found[..., :55, :] == -1).all()
    torch.testing.assert_close(found[..., 57:, :], half[..., 1:, :], atol=1e-4, rtol=0)


def test_csim_knows_a_face_wherever_it_lies(pixels: Path):
    face, other = faces(2)
    canvas = torch.full((3, 3, 160, 160), 0.3)
    canvas[0, :, 8:120, 40:152] = face
    canvas[1, :, 40:152, 3:115] = face.rot90(dims=(1, 2))
    canvas[2, :, 8:120, 40:152] = other
    x, y = CENTRES.unbind(-1)
    moved, turned = CENTRES + torch.tensor([40, 8]), torch.stack([y + 3, 112 - x + 40], dim=-1)
    points = landmarks(torch.stack([moved, turned, moved]))
    found = Csim(pixels)(canvas, points, face[None], landmarks(CENTRES[None])[0])
    torch.testing.assert_close(found[:2], torch.ones(2), atol=1e-4, rtol=0)
    assert abs(found[2]) < 0.1


@pytest.mark.parametrize("late", [0, 4, -3])
def test_sync_net_finds_how_late_the_lips_are(tmp_path: Path, late: int):
    frames, speech = talk()
    judge = SyncNet(save_sync(tmp_path))
    found = judge(frames.roll(late, dims=0), speech)
    assert found["sync_net_offset"] == late
    if late == 0:
        assert found["sync_net_distance"] == pytest.approx(0, abs=0.05)
        assert found["sync_net_confidence"] > 20
    else:
        assert found["sync_net_distance"] > judge(frames, speech)["sync_net_distance"]


def test_sync_net_confidence_is_median_less_least_over_padded_speech(tmp_path: Path):
    """The same figures from the definition, one window at a time."""
    frames, speech = talk(30)
    found = SyncNet(save_sync(tmp_path))(frames, speech)
    blue = (frames[:, 2].mean(dim=(1, 2)).numpy() + 1) * 127.5
    energy = mfcc(speech.numpy())[:, 0] * BRIGHTNESS
    seen = [blue[i : i + 5] for i in range(25)]
    heard = [energy[4 * i : 4 * i + 20].reshape(5, 4).mean(axis=1) for i in range(25)]
    silent = [np.zeros(5)] * 15
    heard = [*silent, *heard, *silent]
    means = [np.mean([np.linalg.norm(seen[i] - heard[i + s]) for i in range(25)]) for s in range(31)]
    assert found["sync_net_confidence"] == pytest.approx(np.median(means) - min(means), rel=1e-3)


def test_a_short_clip_has_no_sync_figures(tmp_path: Path):
    judge = SyncNet(save_sync(tmp_path))
    frames, speech = talk(21)
    assert judge(frames, speech)
    assert judge(frames[:20], speech) == judge(frames, speech[:-1]) == {}


def test_sync_networks_of_two_trainings_are_told(tmp_path: Path):
    judge = SyncNet(save_sync(tmp_path, values=4))
    with pytest.raises(UserError, match="4 and 5 values"):
        judge(*talk(21))


def test_mfcc_are_those_of_python_speech_features():
    time = np.arange(1000) / 16_000
    samples = np.round(8000 * np.sin(2 * np.pi * (300 + 2e4 * time) * time) * time * 16)
    found = mfcc((samples / 2**15).astype(np.float32))
    assert found.shape == (5, 13)
    np.testing.assert_allclose(found[[0, 1, -1]], REFERENCE, atol=1e-4)
    assert np.isfinite(mfcc(np.zeros(100, np.float32))).all()


def test_files_that_are_no_judge(tmp_path: Path, squared: Path, colours: Path):
    text = tmp_path / "text.onnx"
    text.write_text("not a network")
    fixed = save(tmp_path / "fixed.onnx", [helper.make_node("Sub", ["a", "b"], ["out"])], pair(size=64, batch=1))
    flat = save(tmp_path / "flat.onnx", [helper.make_node("Identity", ["x"], ["out"])], {"x": ("b", 3)})
    half = save(
        tmp_path / "half.onnx",
        [helper.make_node("Identity", ["x"], ["out"])],
        {"x": ("b", 3, 299, 299)},
        kind=TensorProto.FLOAT16,
    )
    for judge, path, words in (
        (Lpips, tmp_path / "none.onnx", "no such file"),
        (Lpips, tmp_path, "no such file"),
        (Lpips, text, "not an ONNX model"),
        (Lpips, colours, r"takes x tensor\(float\) \(b, 3, 299, 299\); .* \(B, 3, S, S\) and \(B, 3, S, S\)"),
        (Lpips, fixed, r"\(1, 3, 64, 64\)"),
        (Fid, squared, r"\(B, 3, 299, 299\)"),
        (Fid, flat, r"\(b, 3\)"),
        (Fid, half, "float16"),
        (Csim, colours, r"\(B, 3, 112, 112\)"),
        (SyncNet, tmp_path / "none", r"face\.onnx: no such file"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            judge(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_networks_that_fail_when_run(tmp_path: Path):
    inputs = {"x": ("b", 2)}
    stuck = save(tmp_path / "a.onnx", [helper.make_node("Reshape", ["x", "to"], ["out"])], inputs, to=np.array([1, 2]))
    merged = save(tmp_path / "b.onnx", [mean("x", [0])], inputs)
    for path, words in ((stuck, r"cannot take \(3, 2\)"), (merged, r"gives \(2,\) for 3 inputs")):
        with pytest.raises(UserError, match=words) as caught:
            load_onnx(path, ("B", 2))(torch.zeros(3, 2))
        assert "\n" not in str(caught.value)


def test_without_onnxruntime_its_extra_is_named(squared: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'emohead\[judges\]'"):
        Lpips(squared)
