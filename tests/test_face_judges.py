"""Judges of faces: weights as npm's packages hold them, made up so that the answer is known; real ones if there."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emohead.apps.evaluate import run_evaluation
from emohead.datamodules.dataset.reader import ClipReader
from emohead.models.errors import UserError
from emohead.models.face_judges import EXPRESSIONS, IdentityJudge, square
from emohead.models.tfjs import convolve, read_weights
from emohead.trainers.evaluation.faces import PACKAGES, FaceJudges, installed
from PIL import Image
from torch import Tensor

FACE = Path(__file__).parent / "face.png"
WIDTHS = (32, 64, 128, 256)


def write_weights(path: Path, weights: dict[str, np.ndarray], wrapped: bool = False) -> None:
    """A manifest and its numbers, in float32."""
    path.parent.mkdir(parents=True)
    entries = [{"name": name, "shape": list(value.shape), "dtype": "float32"} for name, value in weights.items()]
    groups = [{"paths": ["numbers.bin"], "weights": entries}]
    path.write_text(json.dumps({"weightsManifest": groups} if wrapped else groups))
    data = b"".join(value.astype(np.float32).tobytes() for value in weights.values())
    (path.parent / "numbers.bin").write_bytes(data)


def always_happy() -> dict[str, np.ndarray]:
    """Weights of nothing, but for what tells happy from the rest."""
    found, before = {}, 3
    for block, width in enumerate(WIDTHS):
        for layer in range(4):
            name, inputs = f"dense{block}/conv{layer}", before if layer == 0 else width
            if block == layer == 0:
                found[f"{name}/filters"] = np.zeros((3, 3, inputs, width))
            else:
                found[f"{name}/depthwise_filter"] = np.zeros((3, 3, inputs, 1))
                found[f"{name}/pointwise_filter"] = np.zeros((1, 1, inputs, width))
            found[f"{name}/bias"] = np.zeros(width)
        before = width
    return found | {"fc/weights": np.zeros((256, 7)), "fc/bias": np.linspace(0, 1, 7)[[1, 6, 2, 3, 0, 4, 5]]}


def everyone_alike() -> dict[str, np.ndarray]:
    found, before = (
        {"conv1/convolution/merged_input": np.zeros((3, 3, 3, 8)), "conv1_bn/batchnorm_1/sub": np.ones(8)},
        8,
    )
    for block in range(1, 14):
        found[f"conv_dw_{block}/depthwise_kernel"] = np.zeros((3, 3, before, 1))
        found |= {f"conv_dw_{block}_bn/batchnorm_1/{part}": np.ones(before) for part in ("mul", "sub")}
        found[f"conv_pw_{block}/convolution/merged_input"] = np.zeros((1, 1, before, 8))
        found[f"conv_pw_{block}_bn/batchnorm_1/sub"] = np.ones(8)
    return found


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where npm has installed both, with made-up weights."""
    root = tmp_path / "node_modules"
    face_api, human = (root / package for package in PACKAGES.values())
    write_weights(face_api / "model" / "face_expression_model-weights_manifest.json", always_happy())
    write_weights(human / "models" / "faceres.json", everyone_alike(), wrapped=True)
    for package in (face_api, human):
        (package / "package.json").write_text("{}")
    monkeypatch.setenv("NODE_PATH", str(root))
    return root


@pytest.fixture
def face() -> Tensor:
    """One picture of a face (1, 3, S, S)."""
    return torch.from_numpy(np.array(Image.open(FACE).convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_weights_are_read_as_they_were_stored(tmp_path: Path) -> None:
    entries = [
        {
            "name": "whole",
            "shape": [2, 2],
            "dtype": "float32",
            "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1},
        },
        {"name": "half", "shape": [2], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "count", "shape": [1], "dtype": "int32"},
        {"name": "plain", "shape": [], "dtype": "float32"},
    ]
    data = bytes([0, 1, 2, 255]) + np.array([0.25, -3], np.float16).tobytes() + np.int32(7).tobytes()
    (tmp_path / "a.bin").write_bytes(data[:5])
    (tmp_path / "b.bin").write_bytes(data[5:] + np.float32(1.5).tobytes())
    (tmp_path / "m.json").write_text(json.dumps([{"paths": ["a.bin", "b.bin"], "weights": entries}]))
    found = read_weights(tmp_path / "m.json")
    assert found.keys() == {"whole", "half", "plain"}
    assert found["whole"].tolist() == [[-1, -0.5], [0, 126.5]]
    assert found["half"].tolist() == [0.25, -3]
    assert float(found["plain"]) == 1.5
    (tmp_path / "b.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"m\.json: no weights of TensorFlow\.js"):
        read_weights(tmp_path / "m.json")


def test_an_odd_pixel_of_padding_lies_right_and_below() -> None:
    x, filters = torch.randn(1, 2, 6, 6), torch.randn(3, 3, 2, 5)
    wanted = F.conv2d(F.pad(x, (0, 1, 0, 1)), filters.permute(3, 2, 0, 1), stride=2)
    torch.testing.assert_close(convolve(x, filters, 2), wanted)
    wanted = F.conv2d(x, filters.permute(3, 2, 0, 1), padding=1)
    torch.testing.assert_close(convolve(x, filters), wanted)
    single = torch.randn(3, 3, 2, 1)
    wanted = F.conv2d(x, single.permute(2, 3, 0, 1), padding=1, groups=2)
    torch.testing.assert_close(convolve(x, single, depthwise=True), wanted)


def test_a_crop_is_a_square_about_the_points() -> None:
    frame = torch.zeros(1, 3, 40, 40)
    frame[:, :, 10:20, 20:30] = 1
    points = torch.tensor([[[20.0, 10.0], [30.0, 20.0]]])
    assert (square(frame, points, 10, 1.0) == 1).all()
    wide = square(frame, points, 20, 2.0)
    assert wide[0, 0].sum() == pytest.approx(100)
    assert (square(frame, points, 8, 9.0)[0, :, 0, 0] == -1).all(), "outside lies black"


def test_what_the_judges_say_of_frames_stands_beside_the_label(packages: Path, face: Tensor) -> None:
    judges, blank = FaceJudges(), torch.zeros_like(face)
    frames = torch.cat([face, blank])
    figures = judges.figures(frames, face, "happy")
    assert figures == {"faces_judged": 0.5, "expression": 1.0, "expression_rank": 1.0, "identity": pytest.approx(1.0)}
    ranks = {label: judges.figures(face, face, label)["expression_rank"] for label in EXPRESSIONS}
    assert sorted(ranks.values()) == [1, 2, 3, 4, 5, 6, 7]
    assert ranks["fear"] == 7
    assert "expression" not in judges.figures(face, face, "contempt"), "which has no class"
    assert judges.figures(blank, face, "happy") == {"faces_judged": 0.0}
    assert "identity" not in judges.figures(face, blank, "happy")
    assert judges.missing() == []


def test_what_is_not_installed_is_named(packages: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (packages / PACKAGES["identity"] / "package.json").unlink()
    assert FaceJudges().missing() == ["identity (@vladmandic/human)"]
    monkeypatch.setenv("NODE_PATH", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (packages / PACKAGES["expression"] / "package.json").unlink()
    with pytest.raises(UserError, match=r"--judges: no judge is installed.*npm install @vladmandic/face-api"):
        FaceJudges()


def test_evaluate_asks_them_of_every_way_to_make_a_video(
    packages: Path, demo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ClipReader.keys
    monkeypatch.setattr(ClipReader, "keys", lambda *given, **named: keys(*given, **named)[:2])
    asked = {"split": "val", "out": None, "emotion": None}
    found = run_evaluation(demo / "talker.safetensors", demo / "data", **asked, faces=True, tracked_clips=0)
    for row, figures in found["videos"].items():
        assert 0 <= figures["faces_judged"] <= 1, row
    assert found["videos"]["true frames"]["faces_judged"] > 0.5
    assert found["videos"]["portrait"]["identity"] == pytest.approx(1.0)
    told = capsys.readouterr().out
    assert "identity" in told
    assert "its rank" in told


def test_evaluate_refuses_them_where_nothing_is_drawn(packages: Path, demo: Path) -> None:
    emotion = demo / "emotion" / "export" / "emotion.safetensors"
    with pytest.raises(UserError, match=r"--judges: judges videos.*'emotion' draws none"):
        run_evaluation(emotion, demo / "data", split="val", out=None, emotion=None, faces=True)


@pytest.mark.skipif(not installed(PACKAGES["identity"]), reason=f"needs npm's {PACKAGES['identity']}")
def test_the_real_network_knows_a_face_again(face: Tensor) -> None:
    judges = FaceJudges()
    assert isinstance(judges.identity, IdentityJudge)
    moved = torch.roll(face, (4, -3), dims=(2, 3)) * 0.9
    mirrored = judges.figures(moved, face, None)["identity"]
    assert mirrored > 0.9
