"""The emotion space: alignment of mel frames, encoders, losses, retrieval, exports."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from emohead.datamodules.batch import made_up_batch
from emohead.datamodules.config import DataConfig
from emohead.datamodules.emotion_words import sentences_without
from emohead.datamodules.prompts import UNLABELLED
from emohead.datamodules.sample import NO_LABEL
from emohead.models.audio import SAMPLES_PER_FRAME, Block, LogMel, MelStem
from emohead.models.checkpoint import save_checkpoint
from emohead.models.clip import TINY, build_towers, import_open_clip
from emohead.models.emotion import EmotionSpace, EmotionSpaceConfig, blend, with_intensity
from emohead.models.errors import UserError
from emohead.trainers.all_stages import find_stage
from emohead.trainers.augmentation import augment_image, augment_speech
from emohead.trainers.config import as_dict, load_config
from emohead.trainers.contrast import contrastive_loss, described, match_weights
from emohead.trainers.emotion import EmotionLossConfig, EmotionStage, EmotionStageConfig, relation_loss
from emohead.trainers.engines.draws import Draws
from emohead.trainers.metrics import emotion_retrieval
from emohead.trainers.run.train import train

SMALL = EmotionSpaceConfig(audio_dim=32, audio_layers=1, audio_heads=2)


def make_stage(**changes) -> EmotionStage:
    torch.manual_seed(0)
    return EmotionStage(EmotionStageConfig(network=SMALL, augmentation=0.0, **changes), SimpleNamespace())


@pytest.mark.parametrize("frame", [3, 10])
def test_an_impulse_at_a_frame_of_video_shows_at_its_mel_frame(frame):
    speech = torch.zeros(1, 20 * SAMPLES_PER_FRAME)
    speech[0, frame * SAMPLES_PER_FRAME] = 1
    mel = LogMel(40)(speech)
    assert mel.shape == (1, 40, 80)
    assert mel.mean(dim=1).argmax() == 4 * frame


@pytest.mark.parametrize("frames", [1, 7, 50])
def test_tokens_are_frames_of_video(frames):
    mel = LogMel(80)(torch.randn(2, frames * SAMPLES_PER_FRAME))
    assert mel.shape == (2, 80, 4 * frames)
    assert MelStem(80, 16)(mel).shape == (2, frames, 16)


def test_a_token_sees_its_own_frame_and_its_neighbours_only():
    stem, mel = MelStem(80, 16), torch.randn(1, 80, 80, requires_grad=True)
    stem(mel)[0, 10].square().sum().backward()
    touched = torch.nonzero(mel.grad.abs().sum(dim=(0, 1)))[:, 0]
    assert (touched.min(), touched.max()) == (36, 47)
    assert (touched.min() + touched.max()) / 2 == 4 * 10 + 1.5


def test_attention_does_not_reach_farther_than_told():
    block, x = Block(dim=16, heads=2, reach=3), torch.randn(1, 20, 16, requires_grad=True)
    block(x)[0, 10].square().sum().backward()
    touched = torch.nonzero(x.grad.abs().sum(dim=(0, 2)))[:, 0]
    assert (touched.min(), touched.max()) == (7, 13)


def test_attention_depends_on_distance_not_on_place():
    block, x = Block(dim=16, heads=2, reach=2).eval(), torch.randn(1, 20, 16)
    assert torch.allclose(block(x)[:, 5:15], block(x[:, 2:18])[:, 3:13], atol=1e-5)


def test_the_encoders_give_unit_vectors_of_one_width():
    space, batch = EmotionSpace(SMALL), made_up_batch("emotion", batch_size=3, size=48)
    for z in encode(space, batch):
        assert z.shape == (3, space.config.embed_dim)
        assert torch.allclose(z.norm(dim=-1), torch.ones(3), atol=1e-5)


def test_speech_of_odd_length_and_pictures_of_any_size_are_welcome():
    space = EmotionSpace(SMALL).eval()
    assert space.encode_speech(torch.randn(1, 12_345)).isfinite().all()
    picture = torch.randint(0, 256, (1, 3, 160, 160), dtype=torch.uint8)
    assert torch.allclose(space.encode_image(picture), space.encode_image(picture.float()), atol=1e-6)


def test_gradients_reach_every_trainable_parameter():
    stage = make_stage()
    stage.total(stage.losses(made_up_batch("emotion", batch_size=4, size=64))).backward()
    without = [n for n, p in stage.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without


def test_frozen_towers_stay_frozen():
    space = EmotionSpace(EmotionSpaceConfig(trainable="adapters", audio_dim=32, audio_heads=2)).train()
    before = {name: tensor.clone() for name, tensor in space.image_tower.state_dict().items()}
    sum(z.square().sum() for z in encode(space, made_up_batch("emotion"))).backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in space.image_tower.state_dict().items())
    trained = {name.split(".")[0] for name, p in space.named_parameters() if p.grad is not None}
    assert trained == {"text_adapter", "image_adapter", "speech_encoder"}


def test_a_frozen_text_tower_is_asked_once_for_each_sentence():
    torch.manual_seed(0)
    space, asked = EmotionSpace(SMALL).eval().requires_grad_(False), []
    space.text_tower.register_forward_hook(lambda *_: asked.append(1))
    with torch.inference_mode():  # as a validation does
        validated = space.encode_text(["a sad face", "a face"])
    space.text_adapter.requires_grad_(True)
    trained = space.encode_text(["a face", "a face", "a sad face"])
    trained.sum().backward()
    assert len(asked) == 2
    torch.testing.assert_close(trained[1:], validated.flip(0))
    other = EmotionSpace(SMALL).eval().requires_grad_(False)
    space.load_state_dict(other.state_dict())
    assert torch.equal(space.encode_text(["a face"]), other.encode_text(["a face"])), "found anew with other weights"


def test_a_text_tower_that_learns_is_asked_each_time():
    torch.manual_seed(0)
    space = EmotionSpace(SMALL)
    before = space.encode_text(["a face"])
    before.sum().backward()
    with torch.no_grad():
        for parameter in space.text_tower.parameters():
            parameter.add_(0.1)
    assert not torch.equal(space.encode_text(["a face"]), before)


def test_blocks_at_the_top_can_be_trained():
    space = EmotionSpace(
        EmotionSpaceConfig(trainable="adapters", trainable_blocks=1, audio_dim=32, audio_heads=2)
    ).train()
    sum(z.square().sum() for z in encode(space, made_up_batch("emotion"))).backward()
    trained = {name for name, p in space.named_parameters() if p.grad is not None and "tower" in name}
    assert all("resblocks.1." in name or "stages.3." in name for name in trained), "the last of two and of four"
    assert {name.split("_")[0] for name in trained} == {"text", "image"}
    assert not space.image_tower.training, "statistics stay as they were loaded"
    with pytest.raises(UserError, match="trainable_blocks=9"):
        EmotionSpace(EmotionSpaceConfig(trainable="adapters", trainable_blocks=9, audio_dim=32, audio_heads=2))


def test_blocks_of_a_pretrained_tower_have_a_rate_of_their_own():
    torch.manual_seed(0)
    network = EmotionSpaceConfig(trainable="adapters", trainable_blocks=1, audio_dim=32, audio_heads=2)
    config = EmotionStageConfig(network=network, tower_lr=0.02)
    stage = EmotionStage(config, SimpleNamespace())
    (optimizer,) = stage.configure_optimizers()
    named = {p: name for name, p in stage.trained()["network"].named_parameters()}
    rates = {named[p]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert rates.keys() == {name for p, name in named.items() if p.requires_grad}, "each once"
    towers = {name: rate for name, rate in rates.items() if "_tower." in name}
    assert len(towers) > 5
    assert set(towers.values()) == {(config.optimizer.lr * config.tower_lr, 0.0)}
    assert {rate for name, (rate, _) in rates.items() if name not in towers} == {config.optimizer.lr}


def test_the_bank_is_without_the_emotions_held_out():
    assert make_stage().bank == sentences_without([])
    data = DataConfig(holdout_emotions=["fear", "disgusted"])
    stage = make_stage(data=data, loss=EmotionLossConfig(prior_loss=1.0))
    assert stage.bank == sentences_without(["fear", "disgusted"])
    assert len(stage.original) == len(stage.bank)


def test_a_rank_sees_its_own_rows_of_the_contrast():
    a, b = (F.normalize(torch.randn(6, 4), dim=-1) for _ in range(2))
    emotion, level = torch.tensor([0, 0, 1, -1, -1, 1]), torch.tensor([1, 2, 1, -1, -1, 1])
    weights, temperature = match_weights(emotion, level, 0.5), torch.tensor(0.1)
    parts = [
        contrastive_loss(a, b, match_weights(emotion, level, 0.5, rows), temperature, rows)
        for rows in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(sum(parts) / 2, contrastive_loss(a, b, weights, temperature))
    relations = [relation_loss(a, b, rows) for rows in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(sum(relations) / 2, relation_loss(a, b))


def test_mixtures_and_intensity():
    happy, sad, neutral = F.normalize(torch.randn(3, 8), dim=-1).split(1)
    torch.testing.assert_close(blend(torch.cat([happy, sad]), torch.tensor([3.0, 0.0])), happy)
    middle = blend(torch.cat([happy, sad]), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(middle @ happy.T, middle @ sad.T)
    torch.testing.assert_close(with_intensity(happy, neutral, 0.0), neutral)
    torch.testing.assert_close(with_intensity(happy, neutral, 1.0), happy)
    stronger = with_intensity(happy, neutral, 1.5)
    assert stronger @ neutral.T < happy @ neutral.T


@pytest.mark.parametrize("name", ["text_image_loss", "text_audio_loss", "image_audio_loss", "prior_loss"])
def test_each_loss_decreases_on_its_own(name):
    weights = {term: float(term == name) for term in vars(EmotionLossConfig())}
    stage, batch = make_stage(loss=EmotionLossConfig(**weights)), distinct_batch()
    if name == "prior_loss":  # move away from the original first
        torch.nn.init.normal_(stage.network.text_adapter.up.weight)
    rate = 1e-4 if name == "prior_loss" else 1e-3
    optimizer = torch.optim.Adam([p for p in stage.parameters() if p.requires_grad], lr=rate)
    values = []
    for _ in range(12):
        loss = stage.total(stage.losses(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.9 * values[0], values


def test_bfloat16_stays_near_single_precision():
    space, batch = EmotionSpace(SMALL).eval(), made_up_batch("emotion", batch_size=3, size=64)
    exact = encode(space, batch)
    with torch.autocast("cpu", torch.bfloat16):
        near = encode(space, batch)
    for a, b in zip(exact, near, strict=True):
        assert (a * b).sum(dim=-1).min() > 0.99


def test_match_weights():
    emotion, level = torch.tensor([0, 0, 0, 3, -1, -1]), torch.tensor([1, 1, 2, 1, -1, -1])
    expected = torch.eye(6)
    expected[0, 1] = expected[1, 0] = 1
    expected[0, 2] = expected[2, 0] = expected[1, 2] = expected[2, 1] = 0.5
    assert torch.equal(match_weights(emotion, level, 0.5), expected)


def test_contrastive_loss_is_least_where_classes_coincide():
    labels = torch.tensor([0, 0, 1, 1])
    weights, temperature = match_weights(labels, torch.ones(4), 0.5), torch.tensor(0.05)
    classes = torch.eye(4)[labels]
    best = contrastive_loss(classes, classes, weights, temperature)
    assert best == pytest.approx(0.693, abs=1e-3)  # ln 2: two matches each
    assert contrastive_loss(classes, classes.roll(1, dims=0), weights, temperature) > best + 1


COUNTED = torch.tensor([True, False, True, True, False, False, True, False])


def contrast_of(counted: torch.Tensor, rows: slice = slice(None)) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of rows of eight clips, of which some count, and its gradients."""
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(8, 4, generator=draws).requires_grad_() for _ in range(2))
    labels, levels = torch.tensor([0, -1, 0, 3, -1, -1, -1, -1]), torch.tensor([1, -1, 2, 1, -1, -1, -1, -1])
    return part_of(a, b, labels, levels, counted, rows)


def part_of(a, b, labels, levels, counted, rows=slice(None)) -> tuple[torch.Tensor, list[torch.Tensor]]:
    weights = match_weights(labels, levels, 0.5, rows)
    loss = contrastive_loss(F.normalize(a), F.normalize(b), weights, torch.tensor(0.1), rows, counted=counted)
    return loss.detach(), list(torch.autograd.grad(loss, (a, b)))


def test_clips_that_take_no_part_in_a_contrast_change_nothing():
    """As many of them as there may be: neither the loss nor a gradient."""
    loss, gradients = contrast_of(COUNTED)
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(8, 4, generator=draws)[COUNTED].requires_grad_() for _ in range(2))
    labels, levels = torch.tensor([0, 0, 3, -1]), torch.tensor([1, 2, 1, -1])
    alone, wanted = part_of(a, b, labels, levels, None)
    torch.testing.assert_close(loss, alone)
    for found, expected in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(found[COUNTED], expected)
        assert not found[~COUNTED].any()


@pytest.mark.parametrize("cut", [4, 2])
def test_ranks_with_more_and_fewer_clips_that_count_average_to_the_whole(cut: int):
    loss, gradients = contrast_of(COUNTED)
    parts = [contrast_of(COUNTED, slice(first, first + cut)) for first in range(0, 8, cut)]
    torch.testing.assert_close(sum(part for part, _ in parts) / len(parts), loss)
    for number, expected in enumerate(gradients):
        torch.testing.assert_close(sum(found[number] for _, found in parts) / len(parts), expected)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_contrast_without_clips_is_nothing(precision: torch.dtype):
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        loss, gradients = contrast_of(torch.zeros(8, dtype=torch.bool))
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_clips_without_a_label_or_words_of_their_own_take_no_part_in_contrasts_with_text():
    stage, batch = make_stage().eval(), distinct_batch()
    batch["prompt"][2], batch["prompt"][5], batch["prompt"][6] = UNLABELLED, UNLABELLED, "a raised brow"
    batch["emotion"][[2, 5, 6]] = batch["level"][[2, 5, 6]] = NO_LABEL
    told = described(batch)
    assert told.tolist() == [True, True, False, True, True, False, True, True]
    with torch.no_grad():
        losses, fewer = stage.losses(batch), stage.losses(picked(batch, told.nonzero()[:, 0]))
        none = stage.losses(picked(batch, torch.tensor([2, 5])))
    for name in ("text_image_loss", "text_audio_loss"):
        torch.testing.assert_close(losses[name], fewer[name])
        assert none[name] == 0
    assert losses["image_audio_loss"] != fewer["image_audio_loss"]
    assert none["image_audio_loss"] > 0, "an image and a voice of one clip belong together"


def picked(batch: dict, rows: torch.Tensor) -> dict:
    return {n: v[rows] if isinstance(v, torch.Tensor) else [v[i] for i in rows.tolist()] for n, v in batch.items()}


def test_a_validation_is_the_mean_over_the_clips_that_take_part():
    stage, batch = make_stage().eval(), distinct_batch()
    stage.validate(batch)
    whole = stage.metrics()
    silent = batch | {"prompt": [UNLABELLED] * 8, "emotion": torch.full((8,), NO_LABEL)}
    for part in (batch, silent):
        stage.validate(part)
    both = stage.metrics()
    assert both["text_image_loss"] == pytest.approx(whole["text_image_loss"], rel=1e-5)
    stage.validate(silent)
    assert stage.metrics()["text_image_loss"] == 0


def test_relation_loss_ignores_rotations():
    x, rotation = torch.randn(5, 8), torch.linalg.qr(torch.randn(8, 8))[0]
    assert relation_loss(x, x @ rotation) < 1e-10 < relation_loss(x, torch.randn(5, 8))


def test_retrieval_of_perfect_and_of_shuffled_embeddings():
    labels = torch.arange(8).repeat(30)
    perfect = torch.eye(8)[labels]
    assert emotion_retrieval(torch.eye(8), torch.arange(8), perfect, labels) == 1
    noise = F.normalize(torch.randn(240, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    queries = F.normalize(torch.randn(80, 16, generator=torch.Generator().manual_seed(1)), dim=-1)
    score = emotion_retrieval(queries, torch.arange(8).repeat(10), noise, labels, rounds=200)
    assert score == pytest.approx(1 / 8, abs=0.03)
    assert score == emotion_retrieval(queries, torch.arange(8).repeat(10), noise, labels, rounds=200)
    unlabelled = torch.full((240,), -1)
    assert math.isnan(emotion_retrieval(torch.eye(8), torch.arange(8), perfect, unlabelled))


def test_augmentation_is_a_function_of_its_seed():
    picture, speech = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), torch.randn(2, 6400)
    two: dict = {"rows": range(2), "total": 2}
    first, again, other = (
        (augment_image(picture, 1.0, draws), augment_speech(speech, 1.0, draws))
        for draws in (Draws(1, 5, **two), Draws(1, 5, **two), Draws(1, 6, **two))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.allclose(a, b) for a, b in zip(first, other, strict=True))
    assert torch.allclose(augment_image(picture, 0.0, Draws(0, **two)), picture.float(), atol=1e-2)


def test_draws_of_a_sample_do_not_depend_on_how_the_batch_is_split():
    whole = Draws(3, rows=range(6), total=6)
    parts = [Draws(3, rows=range(start, start + 2), total=6) for start in (0, 2, 4)]
    for draw in (lambda d: d.uniform(2), lambda d: d.normal(3, 1), lambda d: d.integers(100)):
        assert torch.equal(draw(whole), torch.cat([draw(part) for part in parts]))


def test_a_checkpoint_rebuilds_the_space_or_a_part_of_it(tmp_path):
    space, batch = EmotionSpace(SMALL).eval(), made_up_batch("emotion")
    path = tmp_path / "emotion.safetensors"
    save_checkpoint(path, space.state_dict(), kind="emotion", config=as_dict(space.config))
    again = EmotionSpace.from_checkpoint(path).eval()
    assert all(torch.equal(a, b) for a, b in zip(encode(space, batch), encode(again, batch), strict=True))
    audio = EmotionSpace.from_checkpoint(path, towers=["audio"]).eval()
    assert not hasattr(audio, "text_tower")
    assert torch.equal(audio.encode_speech(batch["speech"]), space.encode_speech(batch["speech"]))


def test_audio_alone_needs_no_open_clip():
    code = (
        "import sys; from emohead.models import audio, motion; from emohead.models.emotion import *;"
        "EmotionSpace(EmotionSpaceConfig(towers=['audio'], embed_dim=16));"
        "assert 'open_clip' not in sys.modules and 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_local_weights_load_and_others_are_refused(tmp_path):
    open_clip = import_open_clip()
    original = open_clip.create_model(TINY)
    good, other, text = tmp_path / "good.pt", tmp_path / "other.pt", tmp_path / "text.pt"
    torch.save(original.state_dict(), good)
    torch.save({"weight": torch.zeros(3)}, other)
    text.write_text("no weights")
    towers = build_towers(TINY, str(good))
    for name, tensor in towers.image.state_dict().items():
        assert torch.equal(tensor, original.visual.state_dict()[name])
    assert torch.equal(towers.text.token_embedding.weight, original.token_embedding.weight)
    for path in (other, text, tmp_path / "missing.pt"):
        with pytest.raises(UserError, match=path.name):
            build_towers(TINY, str(path))
    with pytest.raises(UserError, match="nonsense"):
        build_towers("nonsense")
    with pytest.raises(UserError, match="ViT-B-32-quickgelu"):
        build_towers("ViT-B-32", "openai")


@pytest.mark.parametrize("name", ["emotion-debug", "emotion-small", "emotion-base"])
def test_shipped_configs(name):
    config = load_config(EmotionStageConfig, [Path(name)], [])
    assert import_open_clip().get_model_config(config.network.clip), "a model of open_clip"
    config.network.towers = ["audio"]
    config.network.embed_dim = 512
    z = EmotionSpace(config.network).encode_speech(torch.randn(2, 8 * SAMPLES_PER_FRAME))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(2))
    z[0, 0].backward()
    assert z.shape == (2, 512)


@pytest.mark.parametrize("name", ["emotion-small", "emotion-base", "motion-small", "motion-base"])
def test_frames_are_read_little_larger_than_clip_sees_them(name):
    size = load_config(find_stage(name.split("-")[0]).config_type, [Path(name)], []).data.size
    seen = import_open_clip().get_model_config("ViT-B-32")["vision_cfg"]["image_size"]
    assert seen <= size < 1.5 * seen


@pytest.mark.parametrize("name", ["emotion-small", "emotion-base"])
def test_a_training_of_adapters_on_random_towers_does_not_start(name, tmp_path):
    with pytest.raises(UserError, match=r"network\.pretrained: .*random; .*FILE or a tag .* network\.trainable=all"):
        train("emotion", [Path(name)], [f"run={tmp_path / 'run'}"])
    assert not any(tmp_path.iterdir())
    for sound in ("network.pretrained=clip.safetensors", "network.trainable=all"):
        EmotionStage.check(load_config(EmotionStageConfig, [Path(name)], [sound]))


def distinct_batch() -> dict:
    """Eight emotions, each with a colour and a tone of its own."""
    batch = made_up_batch("emotion", batch_size=8, size=64, num_frames=8)
    shades = torch.linspace(0, 255, 8)
    colours = torch.stack([shades, shades.flip(0), (shades * 3) % 255], dim=1).byte()
    batch["image"] = colours[..., None, None].expand(8, 3, 64, 64)
    time = torch.arange(batch["speech"].shape[1]) / 16_000
    batch["speech"] = 0.2 * torch.sin(2 * torch.pi * 150 * 1.6 ** torch.arange(8)[:, None] * time)
    return batch


def encode(space: EmotionSpace, batch: dict) -> list[torch.Tensor]:
    images, speech = space.encode_image(batch["image"]), space.encode_speech(batch["speech"])
    return [space.encode_text(batch["prompt"]), images, speech]
