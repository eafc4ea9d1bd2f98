"""Pretrained speech encoders instead of log-mel: tiny random ones, of the three kinds and the usual strides."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from emohead.datamodules.batch import made_up_batch
from emohead.models import speech_encoder
from emohead.models.errors import UserError
from emohead.models.motion import AudioTo3DMM
from emohead.models.speech_encoder import KINDS, PretrainedSpeech, read_config
from emohead.models.talker import Talker, TalkerConfig
from emohead.trainers.config import as_dict
from emohead.trainers.distill import DistillStage, DistillStageConfig
from emohead.trainers.doctor import inputs as doctor_inputs
from emohead.trainers.doctor.disk import checkpoint_bytes, state_bytes
from emohead.trainers.engines.plain import LossScale, PlainEngine
from emohead.trainers.motion import MotionStage, MotionStageConfig
from emohead.trainers.optimizer import OptimizerConfig
from safetensors.torch import load_file, save_file

from .motion_stage import SMALL, conditions, make_stage

transformers = pytest.importorskip("transformers", reason="needs the extra `speech`")

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}  # as the large encoders are


def make_encoder(folder: Path, kind: str = "wav2vec2", **changes: Any) -> str:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **TINY | changes))
    for name, parameter in model.named_parameters():  # as after training: what is heard matters
        if name.startswith("encoder.layers") and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: make_encoder(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def make_listener(folder: str) -> PretrainedSpeech:
    return PretrainedSpeech(read_config(folder), folder).train()


def make_network(folder: str, **changes: Any) -> AudioTo3DMM:
    torch.manual_seed(0)
    network = AudioTo3DMM(replace(SMALL, speech_encoder=folder, **changes)).eval()
    for block in network.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    return network


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 640, 641, 7 * 640 - 1, 7 * 640])
@torch.no_grad()
def test_any_length_gives_two_features_a_frame(folders: dict[str, str], kind: str, samples: int):
    network, frames = make_network(folders[kind]), -(-samples // 640)
    features = network.listen(torch.randn(2, samples))
    assert features.shape == (2, 16, 2 * frames)
    assert network.stem(features).shape == (2, frames, 32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{}, LARGE], ids=["base", "large"])
@torch.no_grad()
def test_the_sum_is_of_the_layers_of_the_model_in_the_folder(kind: str, changes: dict[str, Any], tmp_path: Path):
    folder, speech = make_encoder(tmp_path, kind, **changes), 0.1 * torch.randn(2, 5 * 640) + 0.3
    listener, model = make_listener(folder), transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    heard = extractor(list(speech.numpy()), sampling_rate=16_000, return_tensors="pt").input_values
    padded = torch.nn.functional.pad(heard, (200, 0))[:, : 5 * 640 + 80]
    found = model(padded, output_hidden_states=True)
    layers = torch.stack([*found.hidden_states[:-1], found.last_hidden_state])  # (layers, B, 2T, F)
    torch.testing.assert_close(listener(speech), layers.mean(dim=0).mT, atol=1e-4, rtol=1e-4)
    listener.layer_weights.copy_(torch.tensor([0.0, 0.0, 50.0]))
    torch.testing.assert_close(listener(speech), found.last_hidden_state.mT, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_weights_are_found_under_a_head_and_older_names(kind: str, tmp_path: Path):
    """As in published checkpoints: tuned for transcripts, the norm of a weight written by an older PyTorch."""
    config = transformers.AutoConfig.for_model(kind, **TINY, vocab_size=8)
    model = transformers.AutoModelForCTC.from_config(config).eval()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for old, new in names.items():
        weights = {name.replace(old, new): tensor for name, tensor in weights.items()}
    assert [name for name in weights if name.endswith("pos_conv_embed.conv.weight_g")]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    encoder, speech = make_listener(str(tmp_path)).encoder, torch.randn(1, 6400)
    inner = getattr(model, kind)
    torch.testing.assert_close(encoder(speech).last_hidden_state, inner(speech).last_hidden_state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_click_is_heard_at_its_frame_of_video(folders: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch):
    listener, speech = make_listener(folders[kind]), torch.zeros(1, 40 * 640)
    speech[0, 10 * 640] = 1.0
    given = []
    monkeypatch.setattr(listener, "normalise", lambda x: x)  # so that all but the click is silence
    listener.encoder.feature_extractor.register_forward_hook(lambda module, inputs, output: given.append(output))
    listener(speech)
    loudness = (given[0] - given[0][..., :1])[0].abs().amax(dim=0)  # (2T,), what the convolutions make of it
    assert torch.nonzero(loudness > 1e-3 * loudness.max()).tolist() == [[2 * 10]]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_later_speech_gives_later_features(folders: dict[str, str], kind: str):
    listener, speech = make_listener(folders[kind]), torch.zeros(1, 60 * 640)
    speech[0, 20 * 640 : 26 * 640] = torch.randn(6 * 640)
    features, later = listener(speech), listener(speech.roll(4 * 640, dims=1))
    # The edges stay where they are; WavLM's attention knows how far they are.
    difference = (features.roll(8, dims=2) - later)[..., 20:-20].abs().max()
    assert difference < (0.05 if kind == "wavlm" else 1e-3) * features.std()
    assert (features - later)[..., 20:-20].abs().max() > features.std()


@torch.no_grad()
def test_loudness_is_taken_away_where_the_folder_says_so(tmp_path: Path):
    folder, speech = make_encoder(tmp_path, **LARGE), torch.randn(1, 5 * 640)
    listener = make_listener(folder)
    torch.testing.assert_close(listener(speech), listener(0.1 * speech), atol=1e-4, rtol=1e-4)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    listener = make_listener(folder)
    assert listener.normalise(speech) is speech


@torch.no_grad()
def test_long_speech_is_heard_in_pieces(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    listener, speech = make_listener(folders["hubert"]), torch.randn(1, 70 * 640)
    whole = listener(speech)
    monkeypatch.setattr(speech_encoder, "LONGEST", 30)
    monkeypatch.setattr(speech_encoder, "CONTEXT", 15)
    assert listener(speech).shape == whole.shape
    assert (listener(speech) - whole).abs().mean() < 0.1 * whole.std()
    monkeypatch.setattr(speech_encoder, "CONTEXT", 70)
    torch.testing.assert_close(listener(speech), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_generated_in_chunks_equals_a_single_pass(folders: dict[str, str], kind: str):
    network, speech = make_network(folders[kind]), torch.randn(1, 203 * 640)
    whole, chunked = network(speech, *conditions(1)), network.generate(speech, *conditions(1))
    assert chunked.shape == (1, 203, 10)
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=0)  # chunks start at 0, 60, 120 and 180


@pytest.mark.parametrize("kind", KINDS)
def test_training_changes_all_but_the_encoder(folders: dict[str, str], kind: str, tmp_path: Path):
    network = replace(SMALL, speech_encoder=folders[kind])
    stage = make_stage(tmp_path, network=network, optimizer=OptimizerConfig(lr=1e-2, warmup_steps=1)).train()
    for (name, module), optimizer in zip(stage.trained().items(), stage.configure_optimizers(), strict=True):
        stage.engines[name] = PlainEngine(module, optimizer, clip_norm=1.0, scale=LossScale(False))
    before = {name: tensor.clone() for name, tensor in stage.network.state_dict().items()}
    encoder = stage.network.listen.encoder
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    for step in range(2):
        stage.num_batches = step
        stage.training_step(made_up_batch("motion", batch_size=4, size=32), 0)
    same = {name for name, tensor in stage.network.state_dict().items() if torch.equal(tensor, before[name])}
    assert same == {name for name in before if name.startswith(("listen.encoder.", "motion_"))}
    saved = stage.engines["network"].shares()
    assert "exp_avg.listen.layer_weights" in saved
    assert not [name for name in saved if "listen.encoder" in name], "they never change"


@pytest.mark.parametrize("kind", KINDS)
def test_the_export_needs_no_folder(kind: str, tmp_path: Path):
    folder = make_encoder(tmp_path / "encoder", kind)
    stage = make_stage(tmp_path, network=replace(SMALL, speech_encoder=folder)).eval()
    stage.export(tmp_path / "motion.safetensors", {})
    shutil.rmtree(folder)
    again = AudioTo3DMM.from_checkpoint(tmp_path / "motion.safetensors").eval()
    assert again.config == stage.network.config
    assert not again.config.speech_encoder
    assert not any(p.requires_grad for p in again.listen.encoder.parameters())
    speech, (emotion, identity) = torch.randn(2, 7 * 640), conditions(2)
    arguments = (speech, torch.nn.functional.pad(emotion, (0, stage.network.config.emotion_dim - 16)), identity)
    with torch.no_grad():
        assert torch.equal(again(*arguments), stage.network(*arguments))
        assert torch.equal(again.generate(*arguments, seed=1), stage.network.generate(*arguments, seed=1))


def test_zero_3_names_the_module_that_reaches_into_its_children(folders: dict[str, str]):
    """trainers/engines/deepspeed.py knows it by this name alone, and no error would tell if the name changed."""
    encoder = make_listener(folders["wavlm"]).encoder
    assert {type(layer.attention).__name__ for layer in encoder.encoder.layers} == {"WavLMAttention"}


def test_a_talker_may_hear_through_one(tmp_path: Path):
    config = TalkerConfig(motion=replace(SMALL, speech_encoder=make_encoder(tmp_path / "encoder")))
    config.emotion.embed_dim, config.emotion.image.crop = 16, 1.0
    config.face.motion_dim, config.face.identity_dim, config.face.num_points = 10, 3, 70
    talker = Talker(config)
    shutil.rmtree(tmp_path / "encoder")
    again = Talker(Talker.config_of(json.loads(json.dumps(as_dict(talker.config)))))
    again.load_state_dict(talker.state_dict())
    assert again.motion.listen.rate == 2


def test_log_mel_stays_as_it_was():
    network = AudioTo3DMM(SMALL)
    assert network.listen.rate == 4
    assert not [name for name in network.state_dict() if name.startswith("listen")]
    assert network.config is SMALL


def test_half_precision_in_the_folder_and_in_autocast(folders: dict[str, str], tmp_path: Path):
    model = transformers.AutoModel.from_pretrained(folders["wavlm"]).half()
    model.save_pretrained(tmp_path)
    listener = make_listener(str(tmp_path))
    assert {tensor.dtype for tensor in listener.state_dict().values()} == {torch.float32}
    speech = torch.randn(2, 10 * 640)
    with torch.no_grad():
        full, exact = make_listener(folders["wavlm"])(speech), listener(speech)
        with torch.autocast("cpu", torch.bfloat16):
            near = listener(speech)
    assert near.dtype == torch.float32
    # Of random weights and speech this much is rounding; other speech is as far as 0.8.
    assert (full - exact).abs().mean() < 0.01 * full.std()
    assert (exact - near).abs().mean() < 0.05 * exact.std()


def test_doctor_tells_sizes_without_reading_weights(folders: dict[str, str], tmp_path: Path):
    stage = make_stage(tmp_path, network=replace(SMALL, speech_encoder=folders["wavlm"]))
    sizes = checkpoint_bytes(MotionStage, stage.config, stage.facts)
    assert sizes.export == state_bytes(stage.network)
    assert sizes.frozen > 0
    assert doctor_inputs.inputs(MotionStage, stage.config)[-1].state == "ok"
    gone = MotionStageConfig(network=replace(SMALL, speech_encoder="gone"))
    finding = doctor_inputs.inputs(MotionStage, gone)[-1]
    assert (finding.state, finding.check) == ("wrong", "network.speech_encoder=")


def test_doctor_looks_at_the_one_of_a_student_too(folders: dict[str, str]):
    config = DistillStageConfig()
    config.network.motion.speech_encoder = folders["hubert"]
    assert doctor_inputs.inputs(DistillStage, config)[-1].state == "ok"
    config.network.motion.speech_encoder = "gone"
    finding = doctor_inputs.inputs(DistillStage, config)[-1]
    assert (finding.state, finding.check) == ("wrong", "network.motion.speech_encoder=")


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def changed(**changes: Any):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "mapping of keys"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (pickled, "pytorch_model.bin is a pickle"),
        (cut, "cannot be loaded"),
        (changed(model_type="bert"), "holds a 'bert' model; wanted is one of wav2vec2, hubert, wavlm"),
        (changed(num_hidden_layers=3), "lacks 16 weights"),
        (changed(intermediate_size=64), "cannot be loaded"),
        (changed(hidden_size="wide"), "cannot be loaded"),
        (changed(conv_stride=[5, 2, 2, 2, 2, 2, 1]), "a feature of 160 samples, wanted is 320"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(spoil: Any, words: str, tmp_path: Path):
    folder = tmp_path / "encoder"
    make_encoder(folder)
    spoil(folder)
    with pytest.raises(UserError) as refusal:
        make_network(str(folder))
    assert words in str(refusal.value)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_transformers_is_named(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'emohead\[speech\]'"):
        make_network(folders["hubert"])


def test_augmentation_is_for_log_mel(folders: dict[str, str], tmp_path: Path):
    with pytest.raises(UserError, match=r"augmentation=0\.5"):
        make_stage(tmp_path, network=replace(SMALL, speech_encoder=folders["hubert"]), augmentation=0.5)
