"""The figures: each against a case whose answer is known."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emohead.apps.evaluation_notes import UNSEEN, notes, of_metrics
from emohead.apps.evaluation_page import draw_rows
from emohead.apps.evaluation_parts import load_parts
from emohead.apps.evaluation_retrieval import retrieval_grid
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.datamodules.prompts import class_prompt, evaluation_prompts
from emohead.datamodules.sample import EMOTIONS
from emohead.models.checkpoint import load_checkpoint, save_checkpoint
from emohead.models.emotion import EmotionSpace
from emohead.models.errors import UserError
from emohead.models.face import FaceGenerator, to_pictures
from emohead.models.face_model import POSE_DIM
from emohead.models.motion import AudioTo3DMM
from emohead.models.talker import EASE_FRAMES, HEAD
from emohead.trainers.evaluation.common import averages, harmonic_means, name_embeddings
from emohead.trainers.evaluation.emotion import evaluate_emotion
from emohead.trainers.evaluation.face import evaluate_face, relatives_of, ssim
from emohead.trainers.evaluation.jury import Jury
from emohead.trainers.evaluation.makers import AGAIN, PORTRAIT, TRUE_FRAMES, Maker, true_clip, ways
from emohead.trainers.evaluation.motion import evaluate_jury, evaluate_motion, loudness
from emohead.trainers.evaluation.video import Judges, evaluate_videos, judge_pictures
from emohead.trainers.metrics import correlation, landmark_distances, psnr
from emohead.trainers.optimizer import learning_rate_scale
from torch import nn

from .face_stage import make_generator
from .shard_clips import SIZE, face_model, make_clip

NAMED = {t: n for n, name in enumerate(EMOTIONS) for t in (class_prompt(name), *evaluation_prompts(name))}


class Oracle(nn.Module):
    """Knows the emotion of each clip in the order in which it is asked; `wrong` turns the images' answers by one."""

    def __init__(self, labels: list[int], wrong: bool) -> None:
        super().__init__()
        self.images, self.voices, self.wrong = iter(labels), iter(labels), wrong

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([torch.eye(8)[NAMED[text]] if text in NAMED else torch.ones(8) for text in texts])

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return torch.eye(8)[(next(self.images) + self.wrong) % 8][None]

    def encode_speech(self, speech: torch.Tensor) -> torch.Tensor:
        return torch.eye(8)[next(self.voices)][None]


@pytest.mark.parametrize("wrong", [False, True])
def test_retrieval_of_one_who_knows(tmp_path: Path, wrong: bool):
    emotions = [*EMOTIONS, "happy"]
    reader = write_grey(tmp_path / "data", *(("a", emotion, "front", 100) for emotion in emotions))
    labels = [EMOTIONS.index(emotion) for emotion in emotions]
    asked, frames = [], reader.frames
    reader.frames = lambda key, wanted: asked.append((key, *wanted)) or frames(key, wanted)  # type: ignore[method-assign]
    found = evaluate_emotion(Oracle(labels, wrong), reader, "test", unseen=["happy", "sad"])
    middle = [place / reader.info(key).frames for key, place in asked if reader.info(key).emotion != "neutral"]
    assert len(middle) == 8
    assert all(0.2 <= place < 0.8 for place in middle), "where actors show an emotion"
    right = 0.0 if wrong else 1.0
    for group in ("", "seen_", "unseen_"):
        assert found[f"{group}text_image_top1"] == found[f"{group}image_audio_top1"] == right
        assert found[f"{group}text_audio_top1"] == found[f"{group}audio_text_top1"] == 1
    assert found["image_accuracy"] == right
    assert found["audio_accuracy"] == 1
    directions = [("image", "prompt"), ("prompt", "image"), ("prompt", "audio"), ("text", "image"), ("image", "audio")]
    for a, b in directions:
        assert found[f"harmonic_{a}_{b}_top1"] == (1 if "image" not in (a, b) else right), (a, b)
    assert not [name for name in found if "description" in name], "these clips have none"
    of_levels = {name: figure for name, figure in found.items() if name.startswith("audio_accuracy_")}
    assert of_levels == {f"audio_accuracy_{emotion}_1": 1 for emotion in emotions}


class Describer(Oracle):
    """Sees and hears an emotion, and reads it in descriptions, which are its number, but knows no name."""

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        numbers = [int(text) if text.isdigit() else (NAMED[text] + 1) % 8 for text in texts]
        return torch.eye(8)[numbers]


def test_unseen_emotions_are_asked_for_by_name_and_by_description_in_every_direction(tmp_path: Path):
    emotions = [emotion for emotion in EMOTIONS for _ in range(2)]  # one of each lends a description, one is found
    clips = [("a", emotion, "front", 100) for emotion in emotions]
    reader = write_grey(tmp_path / "data", *clips, prompts=[[str(EMOTIONS.index(emotion))] for emotion in emotions])
    labels = [EMOTIONS.index(emotion) for emotion in emotions]
    found = evaluate_emotion(Describer(labels, False), reader, "test", unseen=["happy", "sad"])
    for group in ("", "seen_", "unseen_", "harmonic_"):
        for signal in ("image", "audio"):
            for text, right in (("text", 0), ("prompt", 0), ("description", 1)):
                assert found[f"{group}{text}_{signal}_top1"] == found[f"{group}{signal}_{text}_top1"] == right
    assert len([name for name in found if name.endswith("_top1")]) == 4 * (3 * 4 + 2)
    shown = retrieval_grid(found)
    assert shown.head == ["all", "seen", "unseen", "harmonic mean"]
    assert len(shown.rows) == 14
    assert shown.rows["name → image"] == [0, 0, 0, 0]
    assert shown.rows["voice → description"] == [1, 1, 1, 1]
    assert of_metrics(found, []) == [UNSEEN]
    plain = evaluate_emotion(Describer(labels, False), reader, "test")
    assert retrieval_grid(plain).head == ["all"]
    assert of_metrics(plain, []) == []


def test_a_harmonic_mean_is_of_shares_and_high_only_if_both_are():
    figures = {"seen_a_top1": 0.9, "unseen_a_top1": 0.1, "seen_m_lmd": 1.0, "unseen_m_lmd": 2.0, "seen_b_top1": 1.0}
    assert harmonic_means(figures) == {"harmonic_a_top1": pytest.approx(0.18)}
    assert harmonic_means({"seen_accuracy": 0.0, "unseen_accuracy": 0.0}) == {"harmonic_accuracy": 0}


def test_a_name_is_the_mean_of_its_wordings():
    class Lengths(nn.Module):
        def encode_text(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    found = name_embeddings(Lengths(), ["happy", "sad"])
    for row, emotion in zip(found, ("happy", "sad"), strict=True):
        mean = sum(map(len, evaluation_prompts(emotion))) / len(evaluation_prompts(emotion))
        torch.testing.assert_close(row, F.normalize(torch.tensor([mean, 1.0]), dim=0))


def test_empty_split_is_named(demo: Path, tmp_path: Path):
    reader = ClipReader(demo / "data")
    reader.manifest.shards = [shard for shard in reader.manifest.shards if shard.split == "train"]
    with pytest.raises(UserError, match="test"):
        evaluate_emotion(Oracle([], False), reader, "test")


def test_averages_by_group():
    clips = [("happy", {"a": 1.0, "b": 5.0}), ("sad", {"a": 2.0}), ("fear", {"a": 3.0}), (None, {"a": 6.0, "c": 0.5})]
    everything = {"a": 3.0, "b": 5.0, "c": 0.5}
    assert averages(clips) == averages(clips, apart=["a"]) == averages(clips, ["sad"]) == everything
    groups = {"seen_a": 2.0, "unseen_a": 2.0}
    assert averages(clips, ["sad"], ["a", "b", "c"]) == everything | groups, "clips without a label are in no group"
    assert averages(clips, ["angry"], ["a"]) == everything, "no clip is of an unseen emotion"
    assert averages(clips, ["happy", "sad", "fear"], ["a"]) == everything, "none is of a seen one"


@pytest.fixture(scope="module")
def few(demo: Path) -> ClipReader:
    """Three test clips of two emotions, and happy is one of them."""
    reader = ClipReader(demo / "data")
    keys = reader.keys("test")
    happy = [key for key in keys if reader.info(key).emotion == "happy"]
    others = [key for key in keys if reader.info(key).emotion != "happy"]
    reader.keys = lambda split=None, heard=False: [*happy[:1], *others[:2]]  # type: ignore[method-assign]
    return reader


class Networks:
    """The stages of the demo."""

    def __init__(self, demo: Path) -> None:
        export = lambda stage: demo / stage / "export" / f"{stage}.safetensors"  # noqa: E731
        self.space = EmotionSpace.from_checkpoint(export("emotion")).eval()
        self.motion = AudioTo3DMM.from_checkpoint(export("motion")).eval()
        self.face = FaceGenerator.from_checkpoint(export("face")).eval()
        self.jury = Jury.fit(ClipReader(demo / "data"), ["val", "test"])


@pytest.fixture(scope="module")
def networks(demo: Path) -> Networks:
    return Networks(demo)


def test_motion_of_seen_and_unseen_emotions(few: ClipReader, networks: Networks):
    plain = evaluate_motion(networks.motion, networks.space, few, "test")
    apart = evaluate_motion(networks.motion, networks.space, few, "test", unseen=["happy"])
    new = {f"{group}{name}" for group in ("seen_", "unseen_") for name in ("mouth_correlation", "m_lmd")}
    assert apart.keys() - plain.keys() == new
    assert apart.items() >= plain.items(), "what is averaged over all clips stays"
    assert (2 * apart["seen_m_lmd"] + apart["unseen_m_lmd"]) / 3 == pytest.approx(plain["m_lmd"])


def test_the_jury_of_each_emotion(few: ClipReader, networks: Networks):
    asked = (networks.jury, networks.motion, networks.space, few, "test")
    plain, apart = evaluate_jury(*asked), evaluate_jury(*asked, unseen=["happy"])
    single = [plain[f"emotion_accuracy_{emotion}"] for emotion in EMOTIONS]
    assert sum(single) / len(single) == pytest.approx(plain["emotion_accuracy"])
    groups = ("seen_", "unseen_", "harmonic_")
    assert apart.keys() - plain.keys() == {f"{group}true_emotion_accuracy" for group in groups}
    assert apart.items() >= plain.items()
    assert plain.items() >= networks.jury.figures().items(), "how far it can be believed stands beside what it says"


def test_videos_are_judged_by_whom_is_given(few: ClipReader, networks: Networks):
    makers = {"face": Maker(networks.face)}
    plain = evaluate_videos(makers, few, "test", Judges(), unseen=["happy"]).table
    assert list(plain) == [AGAIN, PORTRAIT, "face: mean motion", "face: true motion"], "nothing is said of true frames"
    assert not any("emotion" in name or "sync" in name for figures in plain.values() for name in figures)
    assert plain[AGAIN]["psnr"] > plain[PORTRAIT]["psnr"]

    heard = evaluate_videos(makers, few, "test", Judges(jury=networks.jury)).table
    sync = {"driving_sync_confidence", "driving_sync_offset", "driving_emotion"}
    assert heard == {row: heard[row] for row in (TRUE_FRAMES, *plain)}
    assert heard[TRUE_FRAMES].keys() == sync
    assert heard[PORTRAIT] == plain[PORTRAIT]
    assert heard["face: true motion"] == plain["face: true motion"] | heard[TRUE_FRAMES]

    judges = Judges(space=networks.space, jury=networks.jury)
    judged = evaluate_videos(makers, few, "test", judges, unseen=["happy"]).table
    for row, figures in judged.items():
        assert figures.items() >= heard[row].items(), "what one judge says does not hang on the others"
        assert ("driving_emotion" in figures) is (row != PORTRAIT)
        of_clips = [figures[name] for name in figures if name.startswith("emotion_accuracy_")]
        assert len(of_clips) == 3, "one for each emotion and level"
        assert sum(of_clips) / 3 == pytest.approx(figures["emotion_accuracy"])
        seen, unseen = (figures[f"{group}emotion_accuracy"] for group in ("seen_", "unseen_"))
        assert (2 * seen + unseen) / 3 == pytest.approx(figures["emotion_accuracy"])
        harmonic = 2 * seen * unseen / max(seen + unseen, 1e-9)
        assert figures["harmonic_emotion_accuracy"] == pytest.approx(harmonic)
        assert all(math.isfinite(value) for value in figures.values())
    assert not {"psnr", "ssim", "driving_m_lmd"} & judged[TRUE_FRAMES].keys()


@torch.no_grad()
def test_the_page_shows_what_the_table_judges(few: ClipReader, networks: Networks):
    maker = Maker(networks.face, networks.motion, networks.space)
    key = few.keys("test")[0]
    rows = draw_rows("teacher", maker, few, key)
    clip = true_clip(few, key, networks.face.config.size)
    judged = {row: draw(range(len(clip.motion))) for row, _, draw in ways({"teacher": maker}, clip)}
    assert list(rows) == [TRUE_FRAMES, "teacher: true motion", "teacher: speech"]
    for row, frames in rows.items():
        assert np.array_equal(frames, to_pictures(judged[row])), row


@torch.no_grad()
def test_true_frames_are_judged_as_they_are(few: ClipReader, networks: Networks):
    size = networks.face.config.size
    texts, right = name_embeddings(networks.space), []
    for key in few.keys("test"):
        at = true_clip(few, key, size).at
        seen = networks.space.encode_image(torch.from_numpy(few.frames(key, at, size=size)))  # (F, E)
        nearest = F.cosine_similarity(seen.mean(dim=0)[None], texts).argmax()
        right.append(EMOTIONS[nearest] == few.info(key).emotion)
    judged = evaluate_videos({"face": Maker(networks.face)}, few, "test", Judges(space=networks.space)).table
    assert judged[TRUE_FRAMES]["emotion_accuracy"] == pytest.approx(sum(right) / 3)


class Colours(nn.Module):
    """Sees the emotion whose number is the colour of the picture."""

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.eye(8)[[NAMED[text] for text in texts]]

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        return torch.eye(8)[images[:, 0, 0, 0].long()]


def test_emotion_is_that_of_most_frames():
    happy, sad = EMOTIONS.index("happy"), EMOTIONS.index("sad")
    frames = torch.tensor([sad, happy, happy]).reshape(3, 1, 1, 1).expand(3, 3, 4, 4) / 127.5 - 1
    judges = Judges(space=Colours())
    asked = lambda **info: judge_pictures(None, SimpleNamespace(info=SimpleNamespace(**info)), None, frames, judges)  # noqa: E731
    assert asked(emotion="happy", level=3) == {"emotion_accuracy": 1, "emotion_accuracy_happy_3": 1}
    assert asked(emotion="sad", level=None) == {"emotion_accuracy": 0, "emotion_accuracy_sad": 0}
    assert asked(emotion=None, level=None) == {}


@torch.no_grad()
def test_mean_motion_keeps_the_portraits_head(few: ClipReader, networks: Networks):
    clip = true_clip(few, few.keys("test")[0], networks.face.config.size)
    features = networks.face.encode_portrait(clip.portrait)
    name, motion = next(Maker(networks.face).motions(clip.speech, clip.motion, features))
    assert name == "mean motion"
    assert motion.shape == clip.motion.shape
    head = features.motion[0, HEAD]
    assert (head - networks.face.motion_mean[HEAD]).abs().max() > 1e-4, "they are not the same anyway"
    torch.testing.assert_close(motion[:, HEAD], head.expand(len(motion), -1))
    eased = motion[EASE_FRAMES:, : HEAD.start]
    torch.testing.assert_close(eased, networks.face.motion_mean[: HEAD.start].expand(len(eased), -1))


def test_psnr_of_known_errors():
    truth = torch.zeros(2, 3, 8, 8)
    image = torch.stack([truth[0] + 0.2, truth[1] + 2.0])  # one tenth of the range; beyond it, clipped to half of it
    torch.testing.assert_close(psnr(image, truth), torch.tensor([20.0, 6.0206]), atol=1e-3, rtol=0)


def test_psnr_of_good_pictures_is_the_textbooks():
    truth = torch.zeros(1, 3, 8, 8)
    for decibels in (25.0, 40.0, 50.0):  # nothing is added to a small error
        assert float(psnr(truth + 2 * 10 ** (-decibels / 20), truth)) == pytest.approx(decibels, abs=1e-3)
    assert float(psnr(truth, truth)) == pytest.approx(106, abs=0.1), "equal ones have a figure, too"


def test_correlation_of_known_tracks():
    track = torch.sin(torch.arange(50.0) / 3)
    assert correlation(track, 3 * track + 1) == pytest.approx(1, abs=1e-5)
    assert correlation(track, -track) == pytest.approx(-1, abs=1e-5)
    assert correlation(track, torch.ones(50)) == 0


def write_grey(
    folder: Path, *clips: tuple[str, str | None, str, int], prompts: list[list[str]] | None = None
) -> ClipReader:
    """Clips of a person, an emotion and a view, all of whose frames have one shade of grey."""
    with ShardWriter(folder, size=SIZE, codec="mjpeg", clips_per_shard=2) as writer:
        for number, (identity, emotion, view, grey) in enumerate(clips):
            clip, level = make_clip(number, "test"), None if emotion is None else 1
            own = prompts[number] if prompts else []
            clip.info = replace(clip.info, identity=identity, emotion=emotion, level=level, view=view, prompts=own)
            writer.write(replace(clip, frames=np.full_like(clip.frames, grey), motion=clip.motion / 100))
        writer.close(face_model())
    return ClipReader(folder)


def test_portraits_across_clips_are_of_a_neutral_relative(tmp_path: Path):
    clips = [("a", "angry", "front", 100), ("a", "sad", "front", 140), ("a", "neutral", "front", 120)]
    clips += [("b", None, "front", 90), ("a", "neutral", "top", 90)]
    reader = write_grey(tmp_path / "related", *clips)
    expected = {"clip000": "clip002", "clip001": "clip002", "clip002": "clip000"}
    assert relatives_of(reader, reader.keys("test")) == expected
    generator = {"face": make_generator().eval()}
    found = evaluate_face(generator, reader, "test")
    assert found == evaluate_face(generator, reader, "test")
    names = {f"{name}_{figure}" for name in ("face", "copy", "coarse") for figure in ("psnr", "ssim")}
    assert found.keys() == names | {f"cross_{name}" for name in names}
    # Each portrait is 20 of 255 levels off its targets.
    assert found["cross_copy_psnr"] == pytest.approx(20 * np.log10(255 / 20), abs=1e-3)
    assert found["copy_psnr"] > 100
    strangers = write_grey(tmp_path / "strangers", *((str(i), *clip[1:]) for i, clip in enumerate(clips)))
    assert evaluate_face(generator, strangers, "test") == {name: found[name] for name in names}


def test_a_clip_of_one_frame_has_no_pair(tmp_path: Path):
    with ShardWriter(tmp_path, size=SIZE, codec="mjpeg") as writer:
        for number, frames in enumerate((30, 1)):
            writer.write(make_clip(number, "test", num_frames=frames))
        writer.close(face_model())
    generator, advanced = {"face": make_generator().eval()}, []
    assert evaluate_face(generator, ClipReader(tmp_path), "test", advance=advanced.append)["face_psnr"] > 0
    assert sum(advanced) == 2


def test_figures_that_the_clips_do_not_suffice_for_are_named():
    told, missing = notes({}, None, Judges(), retrieves=True)
    assert missing == ["retrieval of emotions (it takes clips that are labelled with two emotions or more)"]
    assert told == [f"Not measured: {missing[0]}."]
    assert notes({"text_image_top1": 0.5}, None, Judges(), retrieves=True) == notes({}, None, Judges(), retrieves=False)


def test_a_motion_stage_is_not_heard_through_another_emotion_space(demo: Path, tmp_path: Path):
    motion, space = (load_checkpoint(demo / kind / "export" / f"{kind}.safetensors") for kind in ("motion", "emotion"))
    assert load_parts(motion, space.path).hears is not None
    other = tmp_path / "emotion.safetensors"
    save_checkpoint(
        other, {name: -tensor for name, tensor in space.tensors.items()}, kind="emotion", config=space.config
    )
    with pytest.raises(UserError, match="was trained from another emotion export"):
        load_parts(motion, other)


def test_ssim_is_of_each_picture_by_itself():
    truth = torch.rand(2, 3, 32, 32) * 2 - 1
    same, other = ssim(torch.stack([truth[0], truth[1].flip(-1)]), truth)
    assert same == pytest.approx(1, abs=1e-4)
    assert abs(other) < 0.3


def test_landmark_distances_are_of_shape_not_of_place():
    model = face_model()
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(5, model.motion_dim, generator=generator) * 0.1
    identity = torch.zeros(model.num_identity)
    moved = truth.clone()
    moved[:, -POSE_DIM:] += 0.3
    assert landmark_distances(model, identity, moved, truth) == (0, 0), "the head's pose is the true one in both"
    expression = truth.clone()
    expression[:, 0] += 0.5
    face, mouth = landmark_distances(model, identity, expression, truth)
    points = [model.landmarks(identity, m) * 128 for m in (expression, truth)]
    a, b = (p - p.mean(1, keepdim=True) for p in points)
    assert face == pytest.approx(float((a - b).norm(dim=-1).mean()), rel=1e-5)
    assert 0 < mouth != face


def test_loudness_follows_the_speech():
    speech = torch.zeros(50 * 640)
    speech[20 * 640 : 30 * 640] = 0.5
    level = loudness(speech, 52)
    assert level.shape == (52,)
    assert level[25] - level[5] > 5


def test_learning_rate_rises_then_falls():
    scale = [learning_rate_scale(step, warmup_steps=10, max_steps=100, final=0.1) for step in range(101)]
    assert scale[0] == pytest.approx(0.1)
    assert scale[9] == pytest.approx(1)
    assert scale[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(scale[10:]))
