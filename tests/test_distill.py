"""Distillation: what learns, what stays, and that learning helps."""

import copy
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from emohead.datamodules.batch import Batch, check_batch, made_up_batch
from emohead.datamodules.config import DataConfig
from emohead.datamodules.emotion_words import sentences_without
from emohead.datamodules.module import DataFacts, TalkingFaceData
from emohead.models import checkpoint
from emohead.models.checkpoint import load_checkpoint, save_checkpoint, tensor_checksum
from emohead.models.errors import UserError
from emohead.models.face import FaceGeneratorConfig, to_float
from emohead.models.motion import AudioTo3DMM, AudioTo3DMMConfig
from emohead.trainers.config import load_config
from emohead.trainers.distill import DistillStage, DistillStageConfig, drawn
from emohead.trainers.metrics import PIXELS, sharpness

from .stages import make


@pytest.fixture(scope="module")
def setting(demo: Path) -> tuple[DistillStage, dict]:
    config = load_config(
        DistillStageConfig, [demo / "distill" / "config.yaml"], ["data.batch_size=4", "start_from_teacher=false"]
    )
    data = TalkingFaceData("distill", config.data, seed=config.seed)
    batch = next(iter(data.train_dataloader()))
    check_batch("distill", batch)
    torch.manual_seed(0)
    return DistillStage(config, data.facts), batch


def test_gradients_reach_the_student_and_only_it(setting: tuple[DistillStage, dict]):
    stage, batch = setting
    stage.total(stage.losses(batch)).backward()
    # The posterior of the head movement is of use in training the teacher only.
    unused = [name for name, p in stage.network.named_parameters() if p.grad is None and "posterior" not in name]
    assert not unused
    teachers = (stage.teachers.space, stage.teachers.motion, stage.teachers.face)
    assert all(p.grad is None and not p.requires_grad for network in teachers for p in network.parameters())
    assert not any("teacher" in name for name in stage.state_dict())
    stage.zero_grad()


def test_a_teacher_in_another_face_model_is_refused(setting: tuple[DistillStage, dict], tmp_path: Path):
    stage, _ = setting
    face = load_checkpoint(stage.config.face)
    origin = face.provenance | {"data": [{"folder": "clips", "face_model": "another"}]}
    path = tmp_path / "face.safetensors"
    save_checkpoint(path, face.tensors, kind="face", config=face.config, provenance=origin)
    with pytest.raises(
        UserError, match=r"face=.*face.safetensors: was trained in another face model than .*data.shards"
    ):
        DistillStage(replace(stage.config, face=str(path)), stage.facts)


def test_a_student_draws_frames_of_its_teachers_size(setting: tuple[DistillStage, dict]):
    stage, _ = setting
    network = replace(stage.config.network, face=FaceGeneratorConfig())
    with pytest.raises(UserError, match=r"network.face.size: is 128, its teacher's frames have 64.*channels as its 4"):
        DistillStage(replace(stage.config, network=network), stage.facts)


def test_a_motion_stage_of_another_emotion_space_is_refused(setting: tuple[DistillStage, dict], tmp_path: Path):
    stage, _ = setting
    space, path = load_checkpoint(stage.config.emotion), tmp_path / "emotion.safetensors"
    tensors = space.tensors | {name: tensor + 1 for name, tensor in list(space.tensors.items())[:1]}
    save_checkpoint(path, tensors, kind="emotion", config=space.config, provenance=space.provenance)
    with pytest.raises(UserError, match=rf"motion=.*: was trained from another emotion export .* than {path}"):
        DistillStage(replace(stage.config, emotion=str(path)), stage.facts)


@pytest.fixture(scope="module")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> DistillStage:
    """A student that begins with nothing of its teachers, small and without a corpus."""
    stage = make("distill", tmp_path_factory.mktemp("teachers"))
    torch.manual_seed(0)
    return DistillStage(replace(stage.config, start_from_teacher=False), stage.facts)


def test_frames_of_another_size_than_the_teachers_are_refused(untaught: DistillStage):
    facts = SimpleNamespace(**vars(untaught.facts) | {"size": 64})
    with pytest.raises(UserError, match=r"data\.size: frames of 64 .*network\.size is 32; data\.size=32"):
        DistillStage(untaught.config, facts)


def test_each_teacher_is_read_once(untaught: DistillStage, monkeypatch: pytest.MonkeyPatch):
    read = []
    monkeypatch.setattr(checkpoint, "tensor_checksum", lambda tensors: read.append(1) or tensor_checksum(tensors))
    DistillStage(untaught.config, untaught.facts)
    assert len(read) == 3


@pytest.mark.parametrize("part", ["emotion", "motion", "face"])
def test_each_loss_falls_when_it_is_optimised_alone(part: str, untaught: DistillStage):
    batch, losses = made_up_batch("distill", batch_size=2, size=32), getattr(untaught, f"{part}_losses")
    for picture in ("portrait", "target", "image"):  # smooth ones: noise cannot be learned in a few steps
        batch[picture] = F.interpolate(batch[picture][..., :4, :4].float(), size=32, mode="bilinear").byte()
    student = copy.deepcopy(untaught.network.state_dict())
    for name in losses(batch):
        optimizer, values = torch.optim.Adam(untaught.network.parameters(), lr=1e-3), []
        for _ in range(12):
            loss = losses(batch)[name]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        untaught.network.load_state_dict(student)
        share = 0.95 if name == "places_loss" else 0.8  # a cross entropy: most of it is that of the wanted places
        assert values[-1] < share * values[0], (name, values)


def test_both_pictures_are_taught_by_what_is_known_of_their_own_clips(setting: tuple[DistillStage, dict]):
    stage, batch = setting
    with torch.no_grad():
        both = stage.network.face.encode_portrait(torch.cat([batch["portrait"], batch["target"]]))
        (portrait, identity), (portrait_motion, motion) = both.identity.chunk(2), both.motion.chunk(2)
        known = {"portrait_identity": portrait, "portrait_motion": portrait_motion, "identity": identity}
        known["target_motion"] = motion[:, None].expand_as(batch["target_motion"])
        losses = stage.face_losses(batch | known)
    assert losses["coefficients_loss"] == losses["points_loss"] == 0
    assert losses["places_loss"] > 0


@pytest.mark.parametrize("name", ["places_loss", "points_loss", "coefficients_loss"])
def test_the_students_encoder_learns_where_a_face_is_and_what_is_drawn_does_not_change_it(
    name: str, untaught: DistillStage
):
    batch, encoder = made_up_batch("distill", batch_size=2, size=32), untaught.network.face.encoder
    reading = [*encoder.find.parameters(), *([] if name == "places_loss" else encoder.looks.parameters())]
    losses = untaught.face_losses(batch)
    found = torch.autograd.grad(losses[name], reading, retain_graph=True, allow_unused=True)
    assert all(gradient is not None for gradient in found)
    assert sum(float(gradient.abs().sum()) for gradient in found) > 0
    drawn = torch.autograd.grad(
        losses["frame_loss"] + losses["true_frame_loss"], [*reading, encoder.stem.weight], allow_unused=True
    )
    assert all(gradient is None for gradient in drawn[:-1]), "coefficients are as found, while a frame is drawn"
    assert drawn[-1].abs().sum() > 0, "and maps are for drawing, too"


def test_a_student_of_other_widths_reads_portraits_as_well(setting: tuple[DistillStage, dict]):
    """Without the losses of the encoder both are more than 2 pixels off after as many steps."""
    stage, batch = setting
    error, sharp = read_and_drawn(stage.config, stage.facts, batch)
    network = replace(stage.config.network, face=replace(stage.config.network.face, channels=[24, 16, 16, 8]))
    other_error, other_sharp = read_and_drawn(replace(stage.config, network=network), stage.facts, batch)
    assert max(error, other_error) < 1.9
    assert other_error < 2 * error
    assert other_sharp == pytest.approx(sharp, rel=0.15)


def read_and_drawn(config: DistillStageConfig, facts: DataFacts, batch: Batch) -> tuple[float, float]:
    """Of a student after a few steps: how far it sees the points from the true ones, in pixels of a picture of 256; and
    how sharp its frames are."""
    torch.manual_seed(0)
    stage = DistillStage(config, facts)
    face, optimizer = stage.network.face, torch.optim.Adam(stage.network.face.parameters(), lr=3e-3)
    for _ in range(60):
        losses = stage.face_losses(batch)
        optimizer.zero_grad()
        torch.stack([value * getattr(config.loss, name) for name, value in losses.items()]).sum().backward()
        optimizer.step()
    face.eval()
    with torch.no_grad():
        seen = face.encode_portrait(batch["portrait"])
        true = face.points(batch["portrait_identity"], batch["portrait_motion"])
        error = (face.points(seen.identity, seen.motion) - true).norm(dim=-1).mean() * PIXELS / 2
        frames = drawn(face, batch["portrait"], batch["target_motion"])
        return float(error), float(sharpness(frames, to_float(batch["target"])).mean())


def test_draws_are_a_function_of_the_step(setting: tuple[DistillStage, dict]):
    stage, batch = setting
    with torch.no_grad():
        one, same = stage.losses(batch), stage.losses(batch)
        stage.num_batches += 1
        other = stage.losses(batch)
        stage.num_batches -= 1
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert one["text_loss"] != other["text_loss"]


def test_validations_draw_alike_at_every_step(setting: tuple[DistillStage, dict]):
    """Else the best of them would be that with the easiest draws."""
    stage, batch = setting
    stage.eval()
    found = []
    for stage.num_batches in (0, 7):
        with torch.no_grad():
            found.append(stage.validate(batch))
    stage.num_batches = 0
    stage.train()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_student_of_another_shape_gets_what_it_must_know_of_faces(setting: tuple[DistillStage, dict]):
    stage, _ = setting
    student, teacher = stage.network.face, stage.teachers.face
    for part in ("", "face", "encoder"):
        given = dict(teacher.get_submodule(part).named_buffers(recurse=False))
        for name, buffer in student.get_submodule(part).named_buffers(recurse=False):
            assert torch.equal(buffer, given[name]), name
    assert student.encoder.fit.any()


def test_a_student_hears_of_many_emotions_but_of_none_that_is_held_out(untaught: DistillStage):
    assert untaught.sentences == sentences_without([])
    data = DataConfig(holdout_emotions=["fear", "sad"])
    without = DistillStage(replace(untaught.config, data=data), untaught.facts)
    assert without.sentences == sentences_without(data.holdout_emotions)


def test_a_student_holds_out_what_its_teachers_did(demo: Path, setting: tuple[DistillStage, dict]):
    config = load_config(DistillStageConfig, [demo / "distill" / "config.yaml"], ["data.holdout_emotions=[fear]"])
    with pytest.raises(UserError, match="all stages of a chain must hold out the same"):
        DistillStage(config, setting[0].facts)


def test_a_student_knows_no_more_of_people_than_its_teacher(demo: Path, tmp_path: Path):
    """It learns neither identity nor an emotion from picture or voice if the teacher's motion did without them."""
    exported = load_checkpoint(demo / "motion" / "export" / "motion.safetensors", kind="motion")
    network = AudioTo3DMM(AudioTo3DMMConfig(**exported.config | {"use_identity": False}))
    config = exported.provenance["config"] | {"emotion_from": ["text"]}
    teacher = tmp_path / "motion.safetensors"
    provenance = exported.provenance | {"config": config}
    save_checkpoint(teacher, network.state_dict(), kind="motion", config=asdict(network.config), provenance=provenance)
    config = load_config(
        DistillStageConfig, [demo / "distill" / "config.yaml"], [f"motion={teacher}", "data.batch_size=4"]
    )
    data = TalkingFaceData("distill", config.data, seed=config.seed)
    batch, stage = next(iter(data.train_dataloader())), DistillStage(config, data.facts)
    other = batch | {"image": 255 - batch["image"], "identity": -batch["identity"]}
    with torch.no_grad():
        for stage.num_batches in range(6):
            one, same = stage.motion_losses(batch), stage.motion_losses(other)
            assert all(torch.equal(one[name], same[name]) for name in one)


def test_the_student_hears_sees_and_reads_alike_in_bfloat16(setting: tuple[DistillStage, dict]):
    stage, batch = setting
    student = stage.network.emotion.eval()

    def embed() -> list[torch.Tensor]:
        return [
            student.encode_text(batch["prompt"]),
            student.encode_image(batch["image"]),
            student.encode_speech(batch["speech"]),
        ]

    with torch.no_grad():
        exact = embed()
        with torch.autocast("cpu", torch.bfloat16):
            near = embed()
    for one, other in zip(exact, near, strict=True):  # unit vectors
        assert (one - other).norm(dim=-1).max() < 0.02
