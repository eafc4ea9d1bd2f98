"""The way from videos to a data set: what is kept, what is left out, what sources may say of themselves."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.apps.prepare_commands import PrepareOptions
from emohead.datamodules.config import DataConfig
from emohead.datamodules.dataset.manifest import load_manifest
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.dataset.verify import verify_shards
from emohead.datamodules.media.read import read_video
from emohead.datamodules.media.sound import read_audio
from emohead.datamodules.media.write import write_video
from emohead.datamodules.module import TalkingFaceData
from emohead.datamodules.prepare.listing import Source, SourceList
from emohead.datamodules.prepare.people import FrameSample, build_model, fit_people
from emohead.datamodules.prepare.run import prepare_sources
from emohead.datamodules.prepare.work import PrepareConfig
from emohead.datamodules.sample import SAMPLES_PER_FRAME, Rejected
from emohead.datamodules.tracking.tracker import FaceTracker
from emohead.models.errors import UserError
from emohead.models.face_model import FaceModel
from emohead.models.face_model_fit import MEDIAPIPE_IBUG_68, similarity, unposed
from emohead.models.landmark_model import build_landmark_model

from .conftest import emohead, refused
from .pictures import picture, tone
from .talking_clips import SMALL, Talk, prepare_folder, shifted
from .tracked_faces import NUM_EXPRESSION, NUM_IDENTITY, made_up_model, made_up_motion, tracks

# -- what comes out --------------------------------------------------------------------------------------------------


def test_a_finished_data_set_is_whole_and_tidy(people: Path, undisturbed: Path) -> None:
    assert not verify_shards(undisturbed)
    assert sorted(path.name for path in undisturbed.iterdir()) == [
        "facemodel.npz",
        "manifest.json",
        *(f"{split}-000000.{end}" for split in ("test", "train", "val") for end in ("index.json", "tar")),
    ]
    manifest = load_manifest(undisturbed)
    assert manifest.rejected == [Rejected("faceless.mp4", "no face", "no_face", 1.0)]
    assert manifest.rejected_counts == {"no_face": 1}
    assert (manifest.preparation["split_rule"], manifest.preparation["frames"]) == ("identity", 120)
    assert manifest.preparation["gates"]["max_yaw"] == 60
    assert sorted(name for split in manifest.splits.values() for name in split.identities) == ["a", "b", "c"]
    assert sum(shard.clips for shard in manifest.shards) == 3


def test_pictures_landmarks_and_motion_of_a_clip_belong_together(undisturbed: Path) -> None:
    reader = ClipReader(undisturbed)
    key = "000000_a_000"
    frames, tracked = reader.frames(key, range(30)), reader.landmarks(key).astype(np.float32)
    assert len(reader.speech(key)) == 30 * SAMPLES_PER_FRAME
    picture = frames[20].transpose(1, 2, 0).repeat(4, 0).repeat(4, 1)
    (face,) = FaceTracker(video=False).faces(picture)  # what is seen in it is what the stored landmarks say of it
    assert np.abs(face[MEDIAPIPE_IBUG_68, :2] / 4 - tracked[20]).mean() < 0.02 * 64
    identity, motion = torch.from_numpy(reader.identity(key)), torch.from_numpy(reader.motion(key))
    fitted = (reader.face_model.landmarks(identity, motion).numpy() + 1) / 2 * 64
    assert np.abs(fitted - tracked).mean() < 0.01 * 64


def test_every_fault_is_a_reason_and_none_stops_the_run(tmp_path: Path, spoken: list[Talk]) -> None:
    (one, sound), (other, _) = spoken[0], spoken[2]
    source, out = tmp_path / "in", tmp_path / "out"
    write_video(source / "good.mp4", one[:30], sound)
    write_video(source / "mute.mp4", one[:30])
    write_video(source / "short.mp4", one[:20], sound)
    write_video(source / "silent.mp4", one[:30], np.zeros_like(sound))
    write_video(source / "two.mp4", np.concatenate([one[:30], other[:30]], axis=2), sound)
    moved = np.roll(255 - other[30:60], 40, axis=2)
    write_video(source / "cut.mp4", np.concatenate([one[:30], moved]), sound)
    data = (source / "good.mp4").read_bytes()
    (source / "truncated.mp4").write_bytes(data[: len(data) // 2])
    (source / "zero.mp4").write_bytes(b"")
    seen: list[tuple[int, int, str]] = []
    report = prepare_folder(source, out, progress=lambda *step: seen.append(step), silent="reject")
    assert [info.source for info in report.kept] == ["good.mp4"]
    assert {clip.source.removesuffix(".mp4"): clip.code for clip in report.rejected} == {
        "cut": "scene_cut",
        "mute": "no_audio",
        "short": "too_short",
        "silent": "silent_audio",
        "truncated": "unreadable",
        "two": "several_faces",
        "zero": "unreadable",
    }
    assert load_manifest(out).rejected == report.rejected
    assert (8, 8, "track, 2 rejected") in seen  # those that cannot be tracked at all
    assert {label.split(",")[0] for _, _, label in seen} == {"track", "fit", "pack"}


def test_clips_without_sound_are_for_the_stage_that_hears_nothing(tmp_path: Path, spoken: list[Talk]) -> None:
    (one, sound), (other, _) = spoken[0], spoken[2]
    write_video(tmp_path / "in" / "a.mp4", one[:30], sound)
    write_video(tmp_path / "in" / "b.mp4", other[:30])
    write_video(tmp_path / "in" / "c.mp4", other[30:60], np.zeros_like(sound[: 30 * SAMPLES_PER_FRAME]))
    out, both = tmp_path / "out", ["train", "val", "test"]
    report = prepare_folder(tmp_path / "in", out)
    assert {info.source: info.silent for info in report.kept} == {"a.mp4": False, "b.mp4": True, "c.mp4": True}
    assert sum(split.silent for split in load_manifest(out).splits.values()) == 2
    assert not list(verify_shards(out))
    reader = ClipReader(out)
    assert [reader.info(key).source for key in reader.keys(heard=True)] == ["a.mp4"]
    assert not reader.speech("000001_b_000").any()
    clips = {}
    for stage in ("emotion", "motion", "face", "distill"):
        data = TalkingFaceData(stage, DataConfig(shards=[str(out)], train_splits=both))
        clips[stage] = (data.facts.num_train, data.facts.num_silent)
        assert data.train_source.clip(*np.argwhere(data.train_source.counts)[-1], 0).num_frames == 30
    assert clips == {"emotion": (1, 2), "motion": (1, 2), "face": (3, 0), "distill": (1, 2)}
    silent = [name for name, split in load_manifest(out).splits.items() if split.silent == split.clips]
    with pytest.raises(UserError, match="clips without sound aside, no clip"):
        TalkingFaceData("motion", DataConfig(shards=[str(out)], train_splits=silent))


def test_all_rejected_says_why(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "a.mp4", picture(), tone(1.2))
    with pytest.raises(UserError, match=r"no clip is fit for use \(1 rejected; 1 no_face\): a\.mp4: no face"):
        prepare_folder(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.*"))[1:], "nothing but the work folder"


def test_a_missing_tracker_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    write_video(tmp_path / "in" / "a.mp4", picture(), tone(1.2))
    with pytest.raises(UserError, match=r"pip install 'emohead\[prepare\]'"):
        prepare_folder(tmp_path / "in", tmp_path / "out")


# -- what sources may say --------------------------------------------------------------------------------------------


def test_intervals_sound_files_crops_and_splits_are_heeded(tmp_path: Path, spoken: list[Talk]) -> None:
    (one, sound), (other, _) = spoken[0], spoken[2]
    both = np.concatenate([one[:60], other[:60]], axis=2)  # one person left, another right
    write_video(tmp_path / "both.mp4", both)
    write_video(tmp_path / "sound.mp4", picture(frames=60), sound)
    video, audio = tmp_path / "both.mp4", tmp_path / "sound.mp4"
    left, right, nowhere = (0, 0, 192, 192), (192, 0, 192, 192), (300, 150, 60, 40)
    sources = [
        Source(video, "left", "x", audio, start=0.4, stop=1.6, crop=left, split="train"),
        Source(video, "right", "x", audio, start=0.4, stop=1.6, crop=right, split="val"),
        Source(video, "nowhere", "y", audio, start=0.4, stop=1.6, crop=nowhere),
        Source(video, "beyond", "y", audio, start=0.4, stop=9.0, crop=left),
    ]
    listing = SourceList("made", sources, [Rejected("e", "no such take", "absent")], "official", [])
    report = prepare_sources(listing, tmp_path / "out", SMALL)
    assert [(info.source, info.split, info.region) for info in report.kept] == [
        ("left", "train", "annotated"),
        ("right", "val", "annotated"),
    ]
    assert [(clip.source, clip.code) for clip in report.rejected] == [
        ("e", "absent"),
        ("nowhere", "several_faces"),  # the crop is not believed, and then there are two
        ("beyond", "unreadable"),
    ]
    assert load_manifest(tmp_path / "out").preparation["split_rule"] == "official"
    reader = ClipReader(tmp_path / "out")
    for info in report.kept:
        assert (info.start, info.end, info.frames) == (0.4, 1.6, 30)
        left_edge, _, side = info.crop or (0, 0, 0)
        assert (left_edge + side / 2 < 192) == (info.source == "left")
        span = read_audio(audio, start=0.4, stop=1.6)
        assert np.abs(reader.speech(info.key) - span[: 30 * SAMPLES_PER_FRAME]).max() < 1e-3


def test_long_sources_are_cut_into_equal_clips(tmp_path: Path, spoken: list[Talk]) -> None:
    frames, sound = spoken[3]  # whose mouth says it clearest
    there_and_back = np.concatenate([frames, frames[::-1]])
    write_video(tmp_path / "in" / "long.mp4", np.concatenate([there_and_back] * 2)[:260], np.tile(sound, 4))
    report = prepare_folder(tmp_path / "in", tmp_path / "out")
    assert [(info.key, info.start, info.end) for info in report.kept] == [
        ("000000_long_000", 0.0, 5.2),
        ("000000_long_001", 5.2, 10.4),
    ]
    reader, whole = ClipReader(tmp_path / "out"), read_audio(tmp_path / "in" / "long.mp4", aligned=True)
    second = reader.speech("000000_long_001")
    assert np.abs(second[:10_000] - whole[130 * SAMPLES_PER_FRAME :][:10_000]).max() < 1e-3


def test_late_sound_is_put_right_or_refused(tmp_path: Path, spoken: list[Talk]) -> None:
    frames, sound = spoken[3]  # whose mouth says it clearest
    for delay in (0, 3, -3, 12, -12):
        write_video(tmp_path / "in" / f"{delay}.mp4", frames, shifted(sound, delay))
    report = prepare_folder(tmp_path / "in", tmp_path / "out")
    assert {(clip.source, clip.code, clip.value) for clip in report.rejected} == {
        ("12.mp4", "av_offset", 12),
        ("-12.mp4", "av_offset", -12),
    }
    infos = {int(info.source.removesuffix(".mp4")): info for info in report.kept}
    assert {delay: (info.av_offset, info.av_shift) for delay, info in infos.items()} == {
        0: (0, 0),
        3: (3, 3),
        -3: (-3, -3),
    }
    reader, inside = ClipReader(tmp_path / "out"), slice(5 * SAMPLES_PER_FRAME, -5 * SAMPLES_PER_FRAME)
    right = reader.speech(infos[0].key)[inside]
    for delay in (3, -3):
        assert np.corrcoef(reader.speech(infos[delay].key)[inside], right)[0, 1] > 0.98


def test_the_sample_of_frames_is_bounded_and_even() -> None:
    sample = FrameSample(100)
    for number in range(50):
        sample.add(f"p{number % 3}", np.full((40, 478, 3), number, np.float32))
    clips, people = sample.clips()
    assert 50 < sum(map(len, clips)) <= 100
    assert len(clips) == len(people) == 50
    assert people[:4] == ["p0", "p1", "p2", "p0"]
    assert {len(clip) for clip in clips} <= {1, 2}


def test_few_neutral_clips_among_many_are_not_thinned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the face model nor in a person's face at rest: one clip in thirty, of which a frame would be left."""
    monkeypatch.setattr("emohead.datamodules.prepare.people.MODEL_FRAMES", 120)
    monkeypatch.setattr("emohead.datamodules.prepare.people.PERSON_FRAMES", 60)
    truth = made_up_model()

    def clip(person: int, number: int) -> tuple[str, tuple[str, np.ndarray]]:
        identity = np.random.default_rng(person).normal(size=NUM_IDENTITY).astype(np.float32)
        motion = made_up_motion(40, seed=number)
        motion[:, :NUM_EXPRESSION] *= 0.05 if number == 0 else 1
        motion[:, 0] += 2 * (number > 0)
        return f"p{person}", ("neutral" if number == 0 else "happy", tracks(truth, identity, motion))

    several = [clip(person, number) for person in range(4) for number in range(30)]
    neutral = [taken for taken in several if taken[1][0] == "neutral"]
    model, without = build_model(iter(several), []), build_model(((name, (None, own[1])) for name, own in several), [])
    calm = build_landmark_model([points for _, (_, points) in neutral], [name for name, _ in neutral]).mean.numpy()

    def smile(found: FaceModel) -> float:
        """How far its mean face is from the one at rest."""
        mean = found.mean.numpy()
        return float(np.abs(unposed(mean[None], *similarity(calm, mean[None]))[0] - calm).max())

    assert smile(model) < 0.2 * smile(without)
    people, alone = fit_people(model, iter(several)), fit_people(model, iter(neutral))
    for name, person in people.items():
        np.testing.assert_array_equal(person.neutral, alone[name].neutral)


# -- command line ----------------------------------------------------------------------------------------------------


def test_the_command_and_the_configuration_have_the_same_defaults() -> None:
    typed, config = PrepareOptions(), PrepareConfig()
    for name in ("size", "codec", "face_model", "coefficients"):
        assert getattr(typed, name) == getattr(config, name), name


def test_the_command_reports_and_refuses(tmp_path: Path, people: Path) -> None:
    out = tmp_path / "out"
    refused(emohead("prepare", "folder", people, out, "--pass", "pack"), "4 of 4 sources", "--pass track")
    refused(emohead("prepare", "folder", people, out, "--gate", "max_jaw=3"), "max_yaw")
    refused(emohead("prepare", "folder", people, out, "--part", "2/3"), "--pass")
    assert not out.exists()
    done = emohead("prepare", "folder", people, out, "--size", 64, "--gate", "min_face=40")
    assert done.returncode == 0, done.stderr
    assert "left out: faceless.mp4: no face" in done.stdout
    assert "1 no_face" in done.stdout
    assert "3 clips kept, 1 left out" in done.stdout
    assert json.loads((out / "manifest.json").read_text())["preparation"]["gates"]["min_face"] == 40
    assert read_video(people / "a.mp4").shape == (30, 192, 192, 3)


def test_the_face_model_comes_from_people_who_are_trained_on(tmp_path: Path, spoken: list[Talk]) -> None:
    """Whoever is tested, and emotions that are held out, change nothing in it; and everybody has one identity."""
    videos = []
    for number, (frames, sound) in enumerate(spoken[:3]):
        videos.append(tmp_path / f"{number}.mp4")
        write_video(videos[-1], frames[:60], sound)

    def prepared(name: str, held: list[str], *sources: Source) -> ClipReader:
        listing = SourceList("made", list(sources), [], "official", [])
        prepare_sources(listing, tmp_path / name, replace(SMALL, holdout_emotions=held))
        return ClipReader(tmp_path / name)

    ann = [Source(videos[0], f"ann{start}", "ann", start=start, stop=start + 1.2, split="train") for start in (0, 1.2)]
    bob, cid = (
        Source(videos[1], "bob", "bob", split="test"),
        Source(videos[2], "cid", "cid", split="train", emotion="sad"),
    )
    alone, tested = prepared("alone", [], *ann), prepared("tested", [], *ann, bob)
    held, seen = prepared("held", ["sad"], *ann, cid), prepared("seen", [], *ann, cid)
    checksums = [reader.manifest.face_model["checksum"] for reader in (alone, tested, held, seen)]
    assert checksums[0] == checksums[1] == checksums[2] != checksums[3]
    first, second = tested.keys("train")
    np.testing.assert_array_equal(tested.identity(first), tested.identity(second))
    shown = [
        TalkingFaceData(
            "face", DataConfig(shards=[str(reader.folder)], holdout_emotions=["sad"])
        ).facts.shown_to_face_model
        for reader in (held, seen)
    ]
    assert shown == [[], ["sad"]]
    with pytest.raises(UserError, match="no clip for training"):
        prepared("none", ["sad"], cid)
