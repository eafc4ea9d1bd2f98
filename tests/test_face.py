"""The face generator and its stage: what a flow means, what the levels give, what each phase trains."""

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emohead.datamodules.batch import made_up_batch
from emohead.models.checkpoint import save_checkpoint
from emohead.models.discriminator import Discriminator, DiscriminatorConfig
from emohead.models.emotion import EmotionSpace, EmotionSpaceConfig
from emohead.models.errors import UserError
from emohead.models.face import FaceGenerator, FaceGeneratorConfig, StyledConv, to_float
from emohead.models.face_loss import EmotionFeatures, VGGFeatures, boxes_mask, gradient_penalty, perceptual_loss
from emohead.models.flow import identity_grid, landmark_flow, resize, sample, warp
from emohead.trainers.config import as_dict, load_config
from emohead.trainers.engines.plain import PlainEngine
from emohead.trainers.face import FaceStage, FaceStageConfig, score
from emohead.trainers.face_augmentation import FaceAugmentationConfig, similarity, transform_motion, transform_picture
from emohead.trainers.metrics import psnr, sharpness
from emohead.trainers.portrait import portrait_losses
from emohead.trainers.run import strategy
from emohead.trainers.run.meter import WorkCounter
from emohead.trainers.run.train import train
from torch import nn

from .face_stage import DIMS, SMALL, face_model, make_generator, make_stage, small_config


def test_a_flow_points_to_where_a_pixel_comes_from():
    picture = torch.rand(1, 3, 16, 16)
    flow = torch.zeros(1, 2, 16, 16)
    flow[:, 0] = 2 * 2 / 16  # two pixels to the right, in crop units
    moved = warp(picture, flow)
    torch.testing.assert_close(moved[..., :-2], picture[..., 2:])
    torch.testing.assert_close(moved[..., -1], picture[..., -1])  # beyond the border: the border


def test_a_flow_can_turn_a_picture():
    picture = torch.rand(1, 1, 16, 16)
    grid = identity_grid(16)
    quarter = torch.stack([-grid[1], grid[0]])  # source(x, y) = (-y, x): content turns from x to -y
    turned = warp(picture, (quarter - grid)[None])
    torch.testing.assert_close(turned, picture.rot90(1, (2, 3)))


def test_sample_reads_the_pixel_under_a_point():
    picture = torch.arange(16.0).reshape(1, 1, 4, 4)
    point = torch.tensor([[[-0.25, 0.75]]])  # centre of column 1, row 3
    assert sample(picture, point).item() == 13


def test_landmark_flow_leads_from_target_to_source():
    target = torch.tensor([[[0.03, 0.03], [-0.5, 0.4]]])
    source = target + torch.tensor([[[0.2, -0.1], [0.2, -0.1]]])
    flow = landmark_flow(source, target, 32, background=0.0)
    torch.testing.assert_close(flow[0, :, 16, 16], torch.tensor([0.2, -0.1]), atol=1e-4, rtol=0)
    faded = landmark_flow(source, target, 32)
    assert faded[0, :, 0, -1].norm() < 0.01 < faded[0, :, 16, 16].norm()


def test_augmentation_moves_landmarks_as_the_picture():
    face, count = face_model(), 2
    batch = made_up_batch("face", batch_size=count, size=64)
    roll, log_scale = torch.tensor([0.3, -0.2]), torch.tensor([0.1, -0.1])
    shift = torch.tensor([[0.1, 0.0], [0.0, -0.1]])
    matrix = similarity(roll, log_scale)
    before = face.landmarks(batch["identity"], batch["portrait_motion"])
    motion = transform_motion(batch["portrait_motion"], roll, matrix, shift, log_scale)
    torch.testing.assert_close(
        face.landmarks(batch["identity"], motion), before @ matrix.mT + shift[:, None], atol=1e-5, rtol=1e-5
    )
    dot = torch.exp(-((identity_grid(64) - torch.tensor([0.3, 0.2])[:, None, None]) / 0.1).square().sum(0))
    moved = transform_picture(dot.expand(count, 1, 64, 64), matrix, shift).flatten(1)
    found = identity_grid(64).flatten(1)[:, moved.argmax(1)].T
    torch.testing.assert_close(found, (matrix @ torch.tensor([0.3, 0.2])) + shift, atol=0.04, rtol=0)


def test_every_level_gives_flow_mask_and_picture():
    network, batch = make_generator().eval(), made_up_batch("face")
    output = network(network.encode_portrait(batch["portrait"]), batch["target_motion"])
    for flow, mask, image, size in zip(output.flows, output.masks, output.pyramid, (8, 16, 32), strict=True):
        assert flow.shape == (2, 2, size, size)
        assert mask.shape == (2, 1, size, size)
        assert image.shape == (2, 3, size, size)
    assert output.frame is output.pyramid[-1]


@pytest.mark.parametrize("hierarchy", [True, False])
def test_without_the_hierarchy_the_coarsest_level_has_the_flow(hierarchy: bool):
    torch.manual_seed(0)
    network = FaceGenerator(FaceGeneratorConfig(**SMALL, **DIMS, hierarchy=hierarchy))
    network.adopt(face_model(), torch.zeros(10), torch.full((10,), 0.2))
    with torch.no_grad():
        features, window = network.encode_portrait(torch.rand(1, 3, 32, 32)), torch.randn(1, 27, 10) * 0.1
        before = network(features, window).flows[-1]
        nn.init.normal_(network.levels[-1].refine.weight)
        assert torch.equal(network(features, window).flows[-1], before) != hierarchy
        nn.init.normal_(network.levels[0].refine.weight)
        assert not torch.equal(network(features, window).flows[-1], before)


def test_an_untrained_network_shows_the_portrait_where_nothing_moves():
    network, batch = make_generator().eval(), made_up_batch("face")
    features = network.encode_portrait(batch["portrait"])
    output = network(features, features.motion[:, None].expand(-1, 27, -1))
    assert output.flows[-1].abs().max() < 0.02
    assert (output.frame - 0.95 * features.image).abs().mean() < 0.05


def test_the_fit_of_the_face_model_inverts_its_projection():
    network = make_generator()
    network.encoder.log_prior.zero_()
    coefficients = torch.randn(4, 13) * 0.3
    identity, motion = network._split(coefficients)
    offsets = (network.points(identity, motion) - network.encoder.mean_points).flatten(1)
    assert (offsets @ network.encoder.fit.T - coefficients).abs().mean() < 0.1


def test_one_portrait_serves_many_frames(tmp_path):
    network, batch = make_generator().eval(), made_up_batch("face")
    path = tmp_path / "face.safetensors"
    save_checkpoint(path, network.state_dict(), kind="face", config=as_dict(network.config))
    network = FaceGenerator.from_checkpoint(path).eval()
    features = network.encode_portrait(batch["portrait"][:1])
    together = network(features.repeat(2), batch["target_motion"]).frame
    alone = network(features, batch["target_motion"][1:]).frame
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-4)


def test_bfloat16_is_close_to_float32():
    network, batch = make_generator().eval(), made_up_batch("face")
    portrait = resize(to_float(batch["portrait"])[..., :6, :6], 32)  # smooth: in noise a hair's breadth is a new colour
    with torch.no_grad():
        # The same coefficients for both: it is the drawing that is compared.
        features = network.encode_portrait(portrait)
        exact = network(features, batch["target_motion"]).frame
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network.encode_portrait(portrait)
            rounded = rounded._replace(identity=features.identity, motion=features.motion)
            close = network(rounded, batch["target_motion"]).frame
    assert close.dtype == torch.float32
    assert (exact - close).abs().max() < 2e-2 * exact.abs().max()


def test_the_discriminator_judges_alike_in_bfloat16():
    torch.manual_seed(0)
    discriminator = Discriminator(DiscriminatorConfig(size=32, channels=[8, 12, 16, 16]))
    frames = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        exact = discriminator(frames)
        with torch.autocast("cpu", torch.bfloat16):
            near = discriminator(frames)
    assert (exact - near).abs().max() < 2e-2 * exact.abs().max()


def untouched(network: nn.Module) -> list[str]:
    return [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_gradient_reaches_every_parameter():
    stage, batch = make_stage(), made_up_batch("face", batch_size=4)
    stage.total(stage.losses(batch)).backward()
    assert untouched(stage.network) == []
    stage.zero_grad(set_to_none=True)
    stage.discriminator(to_float(batch["target"])).square().sum().backward()
    # The last bias shifts all logits alike, which a square of them notices.
    assert untouched(stage.discriminator) == []


def test_each_phase_trains_its_own_network():
    stage, batch = make_stage(), made_up_batch("face", batch_size=4)
    before = {name: p.detach().clone() for name, p in stage.named_parameters()}
    seen = []
    stage.backpropagate = lambda name, loss: (
        seen.append((name, all(p.requires_grad for p in stage.discriminator.parameters()))),
        FaceStage.backpropagate(stage, name, loss),
    )
    stage.training_step(batch, 0)
    assert seen == [("network", False), ("discriminator", True), ("discriminator", True)]  # Gmain, Dmain, R1
    logged = stage.logs
    assert {"adversarial_loss", "discriminator_loss", "gradient_penalty", "loss"} <= logged.keys()
    assert all(math.isfinite(value.detach()) for value in logged.values())
    changed = {name.split(".")[0] for name, p in stage.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"network", "discriminator", "average"}
    assert not any(p.requires_grad for p in stage.average.parameters())


def test_coefficients_are_taught_and_judged_by_those_of_the_clip_that_a_frame_is_of():
    stage, batch = make_stage(), made_up_batch("face")
    batch["portrait_identity"] = -batch["identity"]
    identity = torch.cat([batch["portrait_identity"], batch["identity"]])
    motion = torch.cat([batch["portrait_motion"], batch["target_motion"][:, 13]])
    both = stage.network.encode_portrait(torch.cat([batch["portrait"], batch["target"]]))
    losses = portrait_losses(stage.network, both._replace(identity=identity, motion=motion), batch)
    assert losses["coefficients_loss"] == losses["points_loss"] == 0
    features = stage.average.encode_portrait(batch["portrait"])
    right = features._replace(identity=batch["portrait_identity"], motion=batch["portrait_motion"])
    stage.average.encode_portrait = lambda portrait: right
    assert stage.eval().validate(batch)["points_error"] == 0


def test_a_generator_step_leaves_the_discriminator_alone():
    stage, batch = make_stage(), made_up_batch("face", batch_size=4)
    stage.discriminator.requires_grad_(False)
    stage.total(stage.losses(batch)).backward()
    assert all(p.grad is None for p in stage.discriminator.parameters())


def test_the_second_derivative_of_the_penalty_is_finite():
    torch.manual_seed(0)
    discriminator = Discriminator(DiscriminatorConfig(size=32, channels=[8, 12, 16, 16]))
    with torch.autocast("cpu", torch.bfloat16):
        penalty = gradient_penalty(discriminator, torch.rand(4, 3, 32, 32) * 2 - 1)
    penalty.backward()
    gradients = [p.grad for p in discriminator.parameters() if p.grad is not None]
    assert penalty.dtype == torch.float32
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


def test_the_work_of_a_step_with_a_penalty_can_be_counted():
    stage, batch = make_stage(), made_up_batch("face", batch_size=4)
    stage.num_batches = stage.config.adversary.r1_every  # a step of three phases
    with WorkCounter() as counter:
        stage.training_step(batch, 0)
    with_penalty = counter.get_total_flops()
    stage.num_batches += 1
    with WorkCounter() as counter:
        stage.training_step(batch, 0)
    assert with_penalty > counter.get_total_flops() > 1e6
    layer, x = nn.Linear(8, 16), torch.rand(4, 8)
    with WorkCounter() as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 2 * 4 * 8 * 16 * 2, "forward, and the gradient of the weights"


def test_losses_fall_on_one_batch():
    stage, batch = make_stage(), made_up_batch("face", batch_size=4)
    stage.config.loss.adversarial_loss = 0.0
    stage.config.augment = FaceAugmentationConfig(0.0, 0.0, 0.0, 0.0)
    logged = []
    for step in range(8):
        stage.num_batches = step
        stage.training_step(batch, 0)
        logged.append(stage.logs)
    first, last = logged[0], logged[-1]
    for name in ("loss", "pyramid_loss", "places_loss", "points_loss", "coefficients_loss"):
        assert last[name] < first[name], name


def test_the_average_is_what_is_exported():
    stage, batch = make_stage(), made_up_batch("face", batch_size=4)
    stage.num_batches = 5
    stage.training_step(batch, 0)
    exported = stage.export_tensors()
    assert not torch.equal(exported["start"], stage.network.start)
    torch.testing.assert_close(exported["face.mean"], stage.network.face.mean)
    metrics = stage.eval().validate(batch)
    assert {"psnr", "copy_psnr", "psnr_gain"} <= metrics.keys()
    assert stage.preview(batch)["frames"].dtype == np.uint8


def test_statistics_of_the_average_are_averaged_as_its_weights():
    stage = make_stage()
    stage.num_batches, decay = 10**6, stage.config.ema_decay
    current, kept = (dict(network.named_buffers()) for network in (stage.network, stage.average))
    name, counted = "encoder.find.1.running_mean", "encoder.find.1.num_batches_tracked"
    current[name].fill_(1.0)
    current[counted].fill_(7)
    stage._update_average()
    torch.testing.assert_close(kept[name], torch.full_like(kept[name], 1 - decay))
    assert kept[counted] == 7
    assert torch.equal(kept["face.expression_basis"], current["face.expression_basis"])


def test_the_penalty_of_the_discriminator_counts_in_full():
    """Cut down to clip_norm, its step would be the same at any weight above some. An untrained one has a flat logit."""
    moved = {}
    for weight in (1e8, 1e10):
        config = small_config()
        config.adversary.r1, config.adversary.r1_every, config.optimizer.warmup_steps = weight, 1, 0
        stage, batch = make_stage(config), made_up_batch("face", batch_size=4)
        weights = list(stage.discriminator.parameters())
        stage.engines["discriminator"].optimizer = torch.optim.SGD(weights, lr=1e-6, fused=True)
        before = [p.detach().clone() for p in weights]
        stage.training_step(batch, 0)
        assert stage.norms["gradient_penalty"].read() > stage.config.optimizer.clip_norm
        moved[weight] = sum(float((p.detach() - b).abs().sum()) for p, b in zip(weights, before, strict=True))
    assert moved[1e10] > 10 * moved[1e8]


def test_each_network_of_a_run_is_clipped_as_its_stage_says(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clipped = []

    class Watched(PlainEngine):
        def __init__(self, *given: Any, clip_norm: float, **named: Any) -> None:
            super().__init__(*given, clip_norm=clip_norm, **named)
            clipped.append(clip_norm)

    monkeypatch.setattr(strategy, "PlainEngine", Watched)
    settings = ["trainer.max_steps=1", "optimizer.clip_norm=0.5", "tracking.wandb=disabled", f"run={tmp_path / 'run'}"]
    train("face", [demo / "face" / "config.yaml"], settings)
    assert clipped == [0.5, math.inf]


def test_boxes_are_around_mouth_and_eyes_only():
    landmarks = torch.zeros(1, 68, 2)
    landmarks[:, 36:42], landmarks[:, 42:48], landmarks[:, 48:] = (
        torch.tensor([-0.4, -0.4]),
        torch.tensor([0.4, -0.4]),
        torch.tensor([0.0, 0.5]),
    )
    mask = boxes_mask(landmarks, 64)[0, 0]
    assert mask[48, 32] == mask[19, 19] == mask[19, 44] == 1
    assert mask[32, 32] == mask[0, 0] == 0
    assert mask.mean() < 0.05


def test_a_score_likes_detail_that_cannot_be_known_better_than_a_blur():
    """Half of the detail follows from the portrait; a frame is as wrong in its colour as in what is left out."""
    draws = torch.Generator().manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8, generator=draws) - 0.5, size=64, mode="bilinear")
    known, unknown, other = (0.07 * torch.randn(4, 3, 64, 64, generator=draws) for _ in range(3))
    truth, base = coarse + known + unknown, coarse + known + 0.07
    frames = {"blurred": base, "drawn": base + other, "noisy": base + 2 * other, "flat": coarse + 0.07}
    found = {name: (psnr(frame, truth), sharpness(frame, truth)) for name, frame in frames.items()}
    scores = {name: float(score(*figures).mean()) for name, figures in found.items()}
    assert float((found["blurred"][0] - found["drawn"][0]).mean()) > 1.5, "PSNR likes a blur"
    assert scores["drawn"] == max(scores.values())
    energies = [round(float(found[name][1].mean()), 1) for name in ("flat", "blurred", "drawn", "noisy")]
    assert energies == [0.0, 0.5, 1.0, 2.5]
    assert sharpness(truth, truth).tolist() == [1] * 4
    empty = torch.zeros(1, 3, 8, 8)
    assert score(psnr(empty, empty), sharpness(empty, empty)).isfinite()


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"network\.size: 100"):
        FaceGeneratorConfig(size=100)
    with pytest.raises(UserError, match=r"discriminator\.channels"):
        DiscriminatorConfig(size=256)
    with pytest.raises(UserError, match=r"perceptual\.vgg=nowhere\.pth"):
        VGGFeatures("nowhere.pth")


def test_no_setting_changes_the_motion_window_behind_the_back_of_training(tmp_path):
    """There was such a setting: evaluation and inference obeyed it, while training always cut MOTION_WINDOW frames."""
    with pytest.raises(UserError, match=r"unknown key 'network\.window'"):
        load_config(FaceStageConfig, [], ["network.window=13"])
    for window, known in ((27, True), (13, False)):  # the config.yaml of an earlier run names it
        (tmp_path / "config.yaml").write_text(f"network:\n  window: {window}\n  size: 128\n")
        with contextlib.nullcontext() if known else pytest.raises(UserError, match="window"):
            assert load_config(FaceStageConfig, [tmp_path / "config.yaml"], []).network == FaceGeneratorConfig()


@pytest.mark.parametrize("window", [27, 13])
def test_earlier_exports_name_a_window_and_are_read(tmp_path, window: int):
    network = make_generator()
    values = as_dict(network.config) | {"window": window}
    save_checkpoint(tmp_path / "face.safetensors", network.state_dict(), kind="face", config=values)
    assert FaceGenerator.from_checkpoint(tmp_path / "face.safetensors").config == network.config


def test_a_perceptual_network_stays_as_it_came_and_out_of_checkpoints(tmp_path):
    space, path = EmotionSpace(EmotionSpaceConfig(towers=["text", "image"])), tmp_path / "emotion.safetensors"
    save_checkpoint(path, space.state_dict(), kind="emotion", config=as_dict(space.config))
    config = small_config()
    config.perceptual.emotion = str(path)
    stage = make_stage(config).train()
    assert not any(module.training for module in stage.perceptual.network.modules())
    assert not any(p.requires_grad for p in stage.perceptual.network.parameters())
    assert not any("perceptual" in name for name in stage.state_dict())
    one, other = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    near = one + 0.1 * (other - one)
    same, little, much = (perceptual_loss(stage.perceptual.network, frame, one).item() for frame in (one, near, other))
    assert same == 0
    assert 0 < 2 * little < much
    assert "perceptual_loss" in stage.losses(made_up_batch("face"))


def test_a_perceptual_network_sees_that_part_of_a_picture_which_its_emotion_space_does():
    torch.manual_seed(0)
    space = EmotionSpace(EmotionSpaceConfig(towers=["image"], image_crop=0.5))
    frame, target = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    (gradient,) = torch.autograd.grad(perceptual_loss(EmotionFeatures(space), frame.requires_grad_(), target), frame)
    seen = torch.zeros(32, 32, dtype=torch.bool)
    seen[8:24, 8:24] = True
    assert torch.equal(gradient.abs().sum((0, 1)) > 0, seen)


@pytest.mark.parametrize("name", ["face-debug", "face-small", "face-base", "face-base-512"])
def test_the_shipped_sizes_fit_together(name: str, monkeypatch: pytest.MonkeyPatch):
    config = load_config(FaceStageConfig, [Path(name)], [])
    size = config.network.size
    monkeypatch.setattr(torch, "autocast", lambda *_, **options: contextlib.nullcontext())  # which `meta` lacks
    with torch.device("meta"):  # shapes alone
        network = FaceGenerator(replace(config.network, **DIMS))
        frame = network(network.encode_portrait(torch.rand(2, 3, size, size)), torch.rand(2, 27, 10)).frame
        logits = Discriminator(replace(config.discriminator, size=size))(frame)
    assert frame.shape == (2, 3, size, size)
    assert logits.shape[0] == 2


def test_the_base_size_takes_a_step():
    config = load_config(FaceStageConfig, [Path("face-base")], [])
    # The base networks' depth, with a fraction of their channels.
    config.network.channels = [channels // 16 for channels in config.network.channels]
    config.discriminator.channels = [channels // 16 for channels in config.discriminator.channels]
    config.network.style_dim, config.adversary.start, config.optimizer.warmup_steps = 32, 0, 0
    stage = make_stage(config)
    before = {name: p.detach().clone() for name, p in stage.named_parameters()}
    stage.training_step(made_up_batch("face", size=256), 0)
    assert {name: math.isfinite(norm.read()) for name, norm in stage.norms.items()} == dict.fromkeys(stage.norms, True)
    assert stage.norms.keys() == {"network", "discriminator", "gradient_penalty"}
    assert not [name for name, p in stage.named_parameters() if torch.equal(p, before[name])]


def test_the_discriminator_warms_up_when_it_starts():
    config = small_config()
    config.adversary.start, config.optimizer.warmup_steps, config.trainer.max_steps = 100, 10, 10**6
    stage = make_stage(config)
    rates = []
    for stage.num_batches in (50, 100, 104, 109, 150):
        stage.begin_step()
        rates.append([stage.engines[name].optimizer.param_groups[0]["lr"] for name in ("network", "discriminator")])
    generator, discriminator = (torch.tensor(rate) for rate in zip(*rates, strict=True))
    torch.testing.assert_close(generator, torch.full((5,), config.optimizer.lr), rtol=1e-4, atol=0)
    share = config.adversary.r1_every / (config.adversary.r1_every + 1)
    expected = config.adversary.lr * share * torch.tensor([0.1, 0.1, 0.5, 1.0, 1.0])
    torch.testing.assert_close(discriminator, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["face-small", "face-base", "face-base-512"])
def test_a_step_at_full_size_changes_no_kernel_by_much(name: str):
    """Adam without a first moment moves each weight by the learning rate; kernels of wide layers are small."""
    config = load_config(FaceStageConfig, [Path(name)], [])
    assert config.optimizer.beta1 == 0
    torch.manual_seed(0)
    generator = FaceGenerator(replace(config.network, **DIMS))
    discriminator = Discriminator(replace(config.discriminator, size=config.network.size))
    painting = [module for module in generator.modules() if isinstance(module, StyledConv)]
    for part, rate in ((nn.ModuleList(painting), config.optimizer.lr), (discriminator, config.adversary.lr)):
        kernels = [module.weight for module in part.modules() if isinstance(module, nn.Conv2d)]
        assert len(kernels) > 10
        assert max(rate / kernel.std().item() for kernel in kernels) < 0.03
