"""Speech to motion: shapes, losses, long speech, head pose from a seed."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from emohead.datamodules.batch import made_up_batch
from emohead.datamodules.config import DataConfig
from emohead.datamodules.prompts import UNLABELLED
from emohead.datamodules.sample import NO_LABEL
from emohead.models.checkpoint import load_checkpoint, save_checkpoint
from emohead.models.errors import UserError
from emohead.models.motion import AudioTo3DMM, AudioTo3DMMConfig
from emohead.models.motion_critics import MotionCritics, MotionCriticsConfig
from emohead.trainers.augmentation import augment_mel
from emohead.trainers.config import as_dict, load_config
from emohead.trainers.engines.draws import Draws
from emohead.trainers.engines.plain import LossScale, PlainEngine
from emohead.trainers.motion import (
    MotionLossConfig,
    MotionStage,
    MotionStageConfig,
    correlation,
    gram,
    moments_loss,
    vertex_distance,
)
from emohead.trainers.optimizer import OptimizerConfig

from .motion_stage import SIZES, SMALL, conditions, face_model, make_stage


def make_network(**changes) -> AudioTo3DMM:
    torch.manual_seed(0)
    network = AudioTo3DMM(AudioTo3DMMConfig(**vars(SMALL) | changes)).eval()
    network.set_statistics(torch.linspace(-1, 1, 10), torch.linspace(0.5, 2, 10))
    for block in network.blocks:  # as after training: the condition matters
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    return network


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> MotionStage:
    return make_stage(tmp_path_factory.mktemp("motion"))


def test_motion_has_a_row_for_each_frame():
    network, speech = make_network(), torch.randn(2, 25 * 640)
    assert network(speech, *conditions(2)).shape == (2, 25, 10)
    assert network(speech, *conditions(2), torch.randn(2, 16)).shape == (2, 25, 10)


def test_a_frame_of_motion_hears_its_own_frame_of_speech():
    network, speech = make_network(reach=0), torch.randn(1, 20 * 640, requires_grad=True)
    network(speech, *conditions(1))[0, 10].square().sum().backward()
    touched = torch.nonzero(speech.grad[0])[:, 0]
    # Mel frames 36 to 47 of 160 samples, each of a 512-sample window around its centre.
    assert touched.min() >= 36 * 160 - 256
    assert touched.max() <= 47 * 160 + 256
    assert touched.min() < 10 * 640 < 11 * 640 < touched.max()


def test_noise_moves_the_head_and_nothing_else():
    network, speech, noise = make_network(), torch.randn(2, 25 * 640), torch.randn(2, 16)
    still, moved = network(speech, *conditions(2)), network(speech, *conditions(2), noise)
    assert torch.equal(still[..., :-6], moved[..., :-6])
    assert (still - moved)[..., -6:].abs().max() > 0.01
    assert torch.allclose(still, network(speech, *conditions(2), torch.zeros(2, 16)))


def test_seeds_reproduce_the_head_movement():
    network, speech = make_network(), torch.randn(1, 25 * 640)
    first, again, other, still = (network.generate(speech, *conditions(1), seed) for seed in (1, 1, 2, None))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.01
    assert torch.allclose(still, network(speech, *conditions(1)), atol=1e-5)


def test_the_head_moves_after_a_minute_as_in_the_first_second(tmp_path):
    """Clips are a second or two; what a sway does later is learned too."""
    stage = make_stage(tmp_path)
    network, sizes = stage.network, {"batch_size": 16, "num_frames": 40, "size": 8}
    optimizer = torch.optim.Adam(network.sway.parameters(), lr=1e-2)
    waves, time = 2 * torch.pi / torch.tensor([150.0, 80.0, 45.0]), torch.arange(40)
    for step in range(150):  # slow poses of any phase
        generator = torch.Generator().manual_seed(step)
        phase = 7 * torch.rand(16, 1, 6, 3, generator=generator)
        batch = made_up_batch("motion", **sizes)
        batch["motion"][..., -6:] = 0.1 * (time[:, None, None] * waves + phase).sin().sum(dim=-1)
        stage.num_batches = step
        losses = stage.losses(batch)
        optimizer.zero_grad()
        (losses["pose_loss"] + 0.002 * losses["kl_loss"]).backward()
        optimizer.step()
    noise = torch.randn(64, network.config.noise_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pose = network.add_sway(torch.zeros(64, 1500, 10), noise)[..., -6:]
    early, late = (pose[:, cut].diff(dim=1).square().mean().sqrt() for cut in (slice(0, 25), slice(100, 1500)))
    assert late < 1.4 * early


@torch.no_grad()
def test_chunks_of_long_speech_are_one_pass_without_a_seam():
    network, speech = make_network(), torch.randn(1, 203 * 640)
    whole, chunked = network(speech, *conditions(1)), network.generate(speech, *conditions(1))
    assert chunked.shape == (1, 203, 10)
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=0)  # chunks start at 0, 60, 120 and 180


@pytest.mark.parametrize("samples", [640, 641, 60 * 640, 60 * 640 + 1, 100 * 640])
def test_any_length_gives_whole_frames(samples):
    motion = make_network().generate(torch.randn(1, samples), *conditions(1), seed=0)
    assert motion.shape[1] == -(-samples // 640)
    assert motion.isfinite().all()


def test_bfloat16_stays_near_single_precision():
    network, speech = make_network(), torch.randn(2, 25 * 640)
    exact = network(speech, *conditions(2))
    with torch.autocast("cpu", torch.bfloat16):
        near = network(speech, *conditions(2))
    assert (exact - near).abs().mean() < 0.02 * exact.std()


def test_the_critics_judge_alike_in_bfloat16():
    torch.manual_seed(0)
    critics = MotionCritics(MotionCriticsConfig(num_expression=4, emotion_dim=16)).eval()
    speech, expression = torch.randn(2, 25 * 640), torch.randn(2, 25, 4)
    exact = *critics.sync(speech, expression), critics.emotion(expression)
    with torch.autocast("cpu", torch.bfloat16):
        near = *critics.sync(speech, expression), critics.emotion(expression)
    for one, other in zip(exact, near, strict=True):  # unit vectors
        assert (one - other).norm(dim=-1).max() < 0.02


def test_gradients_reach_every_trainable_parameter(stage):
    stage.train()
    assert not stage.teacher.space.training
    batch = made_up_batch("motion", batch_size=4, size=64)
    stage.total(stage.losses(batch)).backward()
    without = [n for n, p in stage.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without
    assert all(p.grad is None for p in stage.teacher.space.parameters())


@pytest.mark.parametrize("name", list(vars(MotionLossConfig())))
def test_each_loss_decreases_on_its_own(name, tmp_path):
    weights = {term: float(term == name) for term in vars(MotionLossConfig())}
    stage = make_stage(tmp_path, loss=MotionLossConfig(**weights), gain=0.0)
    batch = made_up_batch("motion", batch_size=4, size=32)
    optimizer = torch.optim.Adam([p for p in stage.parameters() if p.requires_grad], lr=3e-3)
    values = []
    for _ in range(12):
        loss = stage.total(stage.losses(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.95 * values[0], values


def test_vertex_distance_is_that_of_the_vertices():
    model, error = face_model(), torch.randn(2, 5, 4)
    vertices = model.vertices(torch.zeros(2, 5, 3), error) - model.mean
    expected = vertices.square().sum(dim=-1).mean(dim=-1).sqrt().mean()
    assert vertex_distance(error, gram(model.expression_basis)) == pytest.approx(expected.item(), rel=1e-4)


def test_correlation():
    x = torch.randn(3, 50)
    assert torch.allclose(correlation(x, 2 * x + 1), torch.ones(3), atol=1e-5)
    assert torch.allclose(correlation(x, -x), -torch.ones(3), atol=1e-5)
    assert torch.equal(correlation(x, torch.ones(3, 50)), torch.zeros(3))


def test_every_modality_gets_its_turn(stage):
    batch = made_up_batch("motion", batch_size=24)
    emotion = stage.draw_emotion(batch, Draws(0, rows=range(24), total=24))
    by = [stage.embed(batch, modality, torch.arange(24)) for modality in ("text", "image", "audio")]
    chosen = torch.stack([(emotion - z).abs().amax(dim=-1) < 1e-5 for z in by])
    assert chosen.any(dim=0).all()
    assert chosen.any(dim=1).all()
    assert torch.equal(emotion, stage.draw_emotion(batch, Draws(0, rows=range(24), total=24)))


def test_validation_compares_with_the_true_motion(stage, monkeypatch):
    batch = made_up_batch("motion", batch_size=2)
    late = batch | {"motion": batch["motion"].roll(1, dims=1)}  # noise: a frame says nothing of the next one
    monkeypatch.setattr(stage.eval().network, "forward", lambda *_: batch["motion"])
    with torch.no_grad():
        right, wrong = stage.validate(batch), stage.validate(late)
    assert right["mouth_correlation"] == pytest.approx(1, abs=1e-5)
    assert right["expression_loss"] == right["velocity_loss"] == 0
    assert abs(wrong["mouth_correlation"]) < 0.5
    assert wrong["expression_loss"] > 1


def test_an_export_is_what_was_trained(stage, tmp_path):
    stage.eval()
    batch = made_up_batch("motion", batch_size=2)
    stage.export(tmp_path / "motion.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["motion.safetensors"], "critics teach, and are not kept"
    again = AudioTo3DMM.from_checkpoint(tmp_path / "motion.safetensors").eval()
    emotion = torch.randn(2, again.config.emotion_dim)
    arguments = (batch["speech"], emotion, batch["identity"])
    assert torch.equal(again(*arguments), stage.network(*arguments))


def test_the_teacher_stays_as_it_came_and_out_of_checkpoints(stage):
    before = {name: tensor.clone() for name, tensor in stage.teacher.space.state_dict().items()}
    stage.train()
    stage.losses(made_up_batch("motion", batch_size=4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in stage.teacher.space.state_dict().items())
    assert not any(module.training for module in stage.teacher.space.modules())
    assert not any("space" in name for name in stage.state_dict())


def test_critics_learn_from_true_motion_only(tmp_path):
    stage = make_stage(tmp_path, optimizer=OptimizerConfig(lr=3e-3, warmup_steps=1))
    for (name, module), optimizer in zip(stage.trained().items(), stage.configure_optimizers(), strict=True):
        stage.engines[name] = PlainEngine(module, optimizer, clip_norm=1.0, scale=LossScale(False))
    batch = made_up_batch("motion", batch_size=4, size=32)
    values = []
    for step in range(15):
        stage.num_batches = step
        stage.training_step(batch, 0)
        values.append({name: float(value) for name, value in stage.logs.items()})
    for name in ("true_sync_loss", "true_emotion_loss", "expression_loss"):
        assert values[-1][name] < 0.95 * values[0][name], name
    stage.critics.requires_grad_(False)
    stage.total(stage.losses(batch)).backward()
    assert all(p.grad is None or not p.grad.any() for p in stage.critics.parameters())


def test_a_chain_holds_out_the_same_emotions_throughout(tmp_path):
    stage = make_stage(tmp_path)
    path = tmp_path / "emotion.safetensors"
    where_from = {"config": {"data": {"holdout_emotions": ["fear"]}}}
    config, tensors = as_dict(stage.teacher.space.config), stage.teacher.space.state_dict()
    save_checkpoint(path, tensors, kind="emotion", config=config, provenance=where_from)
    with pytest.raises(UserError, match=r"emotion=.*holdout_emotions=\[fear\], this stage has \[\]"):
        MotionStage(MotionStageConfig(emotion=str(path), network=SMALL), stage.facts)
    data = DataConfig(holdout_emotions=["fear"])
    alike = MotionStage(MotionStageConfig(emotion=str(path), network=SMALL, data=data), stage.facts)
    assert alike.inputs == {"emotion": load_checkpoint(path, kind="emotion").sha256}


def test_clips_that_say_nothing_of_their_emotion_are_not_asked_for_it(stage):
    batch, emotion = made_up_batch("motion", batch_size=6), torch.randn(6, 64)
    batch["prompt"][4:], batch["emotion"][4:] = [UNLABELLED] * 2, NO_LABEL
    with torch.no_grad():
        losses = stage.judge(batch, batch["motion"], F.normalize(emotion, dim=-1))
        fewer = {name: value[:4] for name, value in batch.items()}
        alone = stage.judge(fewer, fewer["motion"], F.normalize(emotion[:4], dim=-1))
        silent = {name: value[4:] for name, value in batch.items()}
        none = stage.judge(silent, silent["motion"], F.normalize(emotion[4:], dim=-1))
    torch.testing.assert_close(losses["emotion_loss"], alone["emotion_loss"])
    assert none["emotion_loss"] == 0 < none["sync_loss"]


def test_moments_loss_is_least_where_moments_meet():
    moments = F.normalize(torch.randn(2, 30, 16), dim=-1)
    assert moments_loss(moments, moments) < moments_loss(moments, moments.roll(3, dims=1)) - 1


def test_augmented_mel_keeps_its_place_in_time():
    two: dict = {"rows": range(2), "total": 2}
    mel = torch.zeros(2, 80, 200)
    mel[:, :, 100:] = 1  # speech sets in
    assert torch.allclose(augment_mel(mel, 0.0, Draws(0, **two)), mel, atol=1e-5)
    changed = augment_mel(mel, 1.0, Draws(0, **two))
    assert torch.equal(changed, augment_mel(mel, 1.0, Draws(0, **two)))
    assert not torch.allclose(changed, mel, atol=0.1)
    steps = changed.mean(dim=1).diff(dim=1)
    assert (steps[:, 99] > 0.3).all()


def test_augmentation_is_for_training_only(tmp_path):
    batch, found = made_up_batch("motion", batch_size=4), {}
    for name, changes in {"plain": {}, "varied": {"augmentation": 1.0, "speech_dropout": 0.3}}.items():
        stage = make_stage(tmp_path, gain=0.0, **changes)
        for training in (True, False):
            found[name, training] = stage.train(training).losses(batch)["expression_loss"].item()
    assert found["plain", False] == found["varied", False]
    assert found["varied", True] != found["plain", True]


@pytest.mark.parametrize("used", [True, False])
def test_identity_can_be_left_out(used):
    network = AudioTo3DMM(AudioTo3DMMConfig(**SIZES, use_identity=used))
    speech, (emotion, identity) = torch.randn(1, 640 * 4), conditions(1)
    same = torch.equal(network(speech, emotion, identity), network(speech, emotion, identity + 1))
    assert same is not used


def test_a_missing_emotion_checkpoint_is_named(tmp_path):
    facts = SimpleNamespace(motion_dim=10, identity_dim=3)
    with pytest.raises(UserError, match=r"gone\.safetensors"):
        MotionStage(MotionStageConfig(emotion=str(tmp_path / "gone.safetensors")), facts)


@pytest.mark.parametrize("name", ["motion-debug", "motion-small", "motion-base", "motion-clips"])
def test_shipped_configs(name):
    config = load_config(MotionStageConfig, [Path(name)], [])
    network = AudioTo3DMM(AudioTo3DMMConfig(**vars(config.network) | SIZES))
    assert network(torch.randn(1, 640 * 4), *conditions(1)).shape == (1, 4, 10)
