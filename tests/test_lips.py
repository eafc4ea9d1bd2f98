"""Lips that close in P, B and M: made-up points and words whose answer is known; real ones if they are there."""

import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.datamodules.media.read import iterate_video
from emohead.datamodules.media.sound import read_audio
from emohead.models.errors import UserError
from emohead.trainers.evaluation import lips
from emohead.trainers.evaluation.lips import LipJudge, Phone, align, closures, follow, lip_closure

from .lip_sounds import Decoder, install
from .shard_clips import SIZE, face_model, make_clip

OUTER_EYES = 80.0  # pixels


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The decoder is kept from call to call; no test gets that of another."""
    lips._decoder.cache_clear()
    yield
    lips._decoder.cache_clear()


def face(openings: list[float | None]) -> np.ndarray:
    """Points (T, 478, 3) of a face that is turned, by the gap of its lips over the width of its eyes; None: no face."""
    points = np.zeros((len(openings), 478, 3), np.float32)
    points[:, 263] = np.array([0.6, 0, 0.8]) * OUTER_EYES
    points[:, 13], points[:, 14] = (40, 100, -10), (40, 100, -10)
    for frame, opening in enumerate(openings):
        points[frame, 14, 1] += OUTER_EYES * (np.nan if opening is None else opening)
        if opening is None:
            points[frame] = np.nan
    return points


def test_lips_are_ahead_of_the_sound_by_a_frame() -> None:
    shut_in_frame_10 = face([0.1] * 10 + [0.0] + [0.1] * 10)
    said = lambda start: closures(shut_in_frame_10, [Phone("P", start, start + 0.04)])  # noqa: E731
    assert said(0.44) == [True], "the sound of frame 11"
    assert said(0.40) == said(0.48) == [False]
    assert closures(shut_in_frame_10, [Phone("P", 0.40, 0.44)], lead=0) == [True]
    assert said(0.41) == said(0.47) == [True], "a part of frame 10 is enough"


def test_what_is_measured_over_the_eyes_width_and_where_no_face_is() -> None:
    phone = [Phone("M", 0.04, 0.12)]  # frames 0 and 1
    assert closures(face([0.029, 0.1]), phone) == closures(face([0.029, 0.1]) * 5, phone) == [True]
    assert closures(face([0.031, 0.1]), phone) == [False]
    assert closures(face([None, 0.0]), phone) == [True]
    assert closures(face([None, None, 0.0]), phone) == [], "nothing is known of it"
    assert closures(face([0.0] * 9), [Phone("B", -0.3, -0.1), Phone("B", 0.5, 0.6)]) == [], "before and after the film"


def test_lip_sounds_stand_beside_two_controls() -> None:
    points = face([0.0] * 5 + [0.2] * 15)
    at = lambda name, frame: Phone(name, frame / 25 + 0.04, (frame + 1) / 25 + 0.04)  # noqa: E731
    own = [at("SIL", 0), at("P", 1), at("B", 2), at("AA", 3), at("M", 8), at("S", 9), at("T", 10), at("+NSN+", 4)]
    foreign = [at("M", 0), at("B", 11), at("P", 12), at("P", 13), at("AA", 1)]
    assert lip_closure(points, own, foreign) == {
        "lips_closed": pytest.approx(2 / 3),
        "lips_closed_other_phones": pytest.approx(1 / 3),
        "lips_closed_foreign": pytest.approx(1 / 4),
    }
    assert lip_closure(points, own).keys() == {"lips_closed", "lips_closed_other_phones"}
    assert lip_closure(points, [at("AA", 3)], foreign) == {}, "controls of nothing"


def test_words_are_aligned_in_the_time_of_the_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    speech = np.full(16_000, 0.25, np.float32)
    found = align(speech, "Bob 'sees'… MUM’S!")
    assert [phone.name for phone in found] == ["SIL", "B", "AA", "B", "S", "IY", "Z", "M", "AH", "M", "Z"]
    assert found[1] == Phone("B", pytest.approx(0.2), pytest.approx(0.3)), "0.3 s of noise stand before the speech"
    heard = lips._decoder().heard
    assert len(heard) == 2, "first words, then their sounds"
    assert np.array_equal(*heard)
    assert len(heard[0]) == 16_000 * 1.6
    assert (heard[0][4800:-4800] == 32767).all(), "speech of any level is as loud"
    assert 0 < np.abs(heard[0][:4800]).max() < 300
    align(speech, "bob")
    assert np.array_equal(lips._decoder().heard[0], heard[0]), "the noise is always the same"


def test_what_cannot_be_aligned_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    speech = np.full(16_000, 0.25, np.float32)
    assert align(speech, "") is align(speech, "24") is align(speech, "bob sees 2") is align(speech, "bob öd") is None
    assert align(speech * 0, "bob") is None
    assert align(speech, "ill") is None, "which the sound is not"
    assert align(np.tile(speech, 4), "bob") is None, "at which it stumbles"
    monkeypatch.setattr(Decoder, "get_alignment", lambda self: pytest.fail("not asked"))
    assert align(speech, "bob mary") is None


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(
        UserError, match=r"pocketsphinx: is needed to align words with speech.*pip install pocketsphinx"
    ):
        align(np.ones(16_000, np.float32), "bob")


def write_talks(folder: Path, sentences: list[str | None]) -> ClipReader:
    with ShardWriter(folder, size=SIZE, clips_per_shard=3) as writer:
        for number, sentence in enumerate(sentences):
            clip = make_clip(number, "test")
            writer.write(replace(clip, info=replace(clip.info, sentence=sentence)))
        writer.close(face_model())
    return ClipReader(folder)


def test_clips_whose_words_are_known_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    reader = write_talks(tmp_path / "talks", ["Bob sees.", None, "Bob sees.", "Sees mum's.", "017", "Sees."])
    judge, keys = LipJudge(), reader.keys("test")
    assert not judge.idle, "it was not asked yet"
    judge.listen(reader, keys)
    assert judge.heard == "4 of 6 clips, whose words it knows"
    shut = face([0.0] * 12 + [0.2] * 30)  # for 0.48 s; sentences begin after 0.2, lips 0.04 s before
    assert judge.figures(keys[0], shut) == {
        "lips_closed": 1.0,
        "lips_closed_other_phones": 0.5,  # AA and S, but not IY and Z
        "lips_closed_foreign": 0.5,  # the first M of "Sees mum's", and nothing of whoever else says "Bob sees"
    }
    assert judge.figures(keys[1], shut) == judge.figures(keys[4], shut) == {}
    assert judge.figures(keys[5], shut) == {}, "no P, B or M is in it"
    assert judge.figures(keys[3], shut)["lips_closed_foreign"] == 1, "both clips that say Bob, before and after it"
    judge.listen(reader, [keys[1], keys[4]])
    assert judge.idle


def test_pictures_without_a_face_are_left_open() -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the extra `prepare`")
    points = follow(np.zeros((2, 64, 64, 3), np.uint8))
    assert points.shape == (2, 478, 3)
    assert np.isnan(points).all()


def test_real_lips_close_when_the_real_aligner_says_so(real_data: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="needs the package pocketsphinx")
    pytest.importorskip("ai_edge_litert", reason="needs the extra `prepare`")
    with open(real_data / "index.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("clips/grid/")][:4]
    spoken = []
    for row in rows:
        path = real_data / row["file"]
        phones = align(read_audio(path, aligned=True), row["transcript"])
        assert phones == align(read_audio(path, aligned=True), row["transcript"]), (
            "it does not hang on what came before"
        )
        spoken.append((follow(iterate_video(path)), phones))
    figures = [lip_closure(*own, spoken[number - 1][1]) for number, own in enumerate(spoken)]
    mean = {name: np.mean([found[name] for found in figures]) for name in figures[0]}
    assert mean["lips_closed"] > 0.9
    assert mean["lips_closed_other_phones"] < 0.6
    assert mean["lips_closed_foreign"] < 0.7
