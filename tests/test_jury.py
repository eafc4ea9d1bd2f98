"""The jury of motion: true motion is judged well, wrong motion badly, and nobody by judges that saw them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from emohead.datamodules.sample import EMOTIONS, Clip
from emohead.trainers.evaluation.jury import Jury, hear
from emohead.trainers.evaluation.linear import MAX_LAG, Classifier, Follower, Moments, shrunk_covariance

from .spoken_corpus import Spoken, spoken_corpus

SPLITS = ("val", "test")


@pytest.fixture(scope="module")
def spoken() -> Iterator[Spoken]:
    with pytest.MonkeyPatch.context() as patch:
        yield spoken_corpus(patch, identities=11, clips=66, frames=30, val_identities=2, test_identities=8, seed=3)


@pytest.fixture(scope="module")
def jury(spoken: Spoken) -> Jury:
    return Jury.fit(spoken, SPLITS)


def ask(jury: Jury, spoken: Spoken, key: str, motion: np.ndarray | None = None, voice: str = "") -> dict[str, float]:
    """What the jury says of a clip: of its own motion, unless another is given, and of its own voice."""
    info = spoken.info(key)
    moved = torch.from_numpy(spoken.motion(key) if motion is None else motion)
    return jury.judge(info.identity, torch.from_numpy(spoken.speech(voice or key))[None], moved, info.emotion)


def of_judged(jury: Jury, spoken: Spoken, **changes: dict[str, str]) -> dict[str, float]:
    keys = [key for split in SPLITS for key in spoken.keys(split)]
    found = [ask(jury, spoken, key, **{name: other[key] for name, other in changes.items()}) for key in keys]
    return {name: float(np.mean([figures[name] for figures in found])) for name in found[0]}


def test_true_motion_is_judged_well_and_the_jury_says_how_well(spoken: Spoken, jury: Jury):
    said, verdicts = jury.figures(), of_judged(jury, spoken)
    assert said["true_emotion_accuracy"] == pytest.approx(verdicts["motion_emotion"])
    assert said["true_sync_confidence"] == pytest.approx(verdicts["sync_confidence"])
    assert said["true_sync_offset"] == pytest.approx(verdicts["sync_offset"])
    assert said["true_emotion_accuracy"] > 0.85
    assert said["true_emotion_chance"] < 0.25
    assert said["true_sync_found"] > 0.9
    assert said["true_sync_found"] > said["foreign_sync_found"] + 0.4
    assert said["true_sync_confidence"] > said["foreign_sync_confidence"] + 0.2
    assert said["true_emotion_clips"] == said["true_sync_clips"] == 60
    assert said["true_emotion_people"] == said["true_sync_people"] == 10
    assert jury.missing() == []


def test_what_it_says_of_films_is_doubted_where_it_is_wrong_of_true_ones(spoken: Spoken, jury: Jury):
    keys = spoken.keys("test")[:12]
    right = [(spoken.info(key).emotion, ask(jury, spoken, key)) for key in keys]
    assert jury.doubts(right) == {}
    assert jury.doubts([]) == {}
    other = [spoken.motion(key)[::-1, ::-1].copy() for key in keys]  # of another face model, and backwards
    wrong = [(None, ask(jury, spoken, key, motion)) for key, motion in zip(keys, other, strict=True)]
    found = jury.doubts(wrong)
    assert found.keys() == {"motion_emotion", "sync_confidence", "sync_offset"}
    assert "chance" in found["motion_emotion"]
    assert jury.doubts([(None, {"motion_emotion": 0.0, "sync_offset": 0.0})]).keys() == {"motion_emotion"}


def test_shuffled_labels_are_found_no_more_often_than_by_chance(spoken: Spoken, jury: Jury):
    keys, rng = [key for split in SPLITS for key in spoken.keys(split)], np.random.default_rng(0)
    shuffled = dict(zip(keys, rng.permutation([spoken.info(key).emotion for key in keys]).tolist(), strict=True))
    relabelled = spoken.labelled(dict.fromkeys(spoken.clips) | shuffled)
    assert of_judged(jury, relabelled)["motion_emotion"] < 0.3, (
        "of motion that shows another emotion than the asked one"
    )
    assert Jury.fit(relabelled, SPLITS).figures()["true_emotion_accuracy"] < 0.3, "of labels that say nothing"


def test_the_judges_of_a_person_never_saw_that_person(spoken: Spoken, jury: Jury):
    key = spoken.keys("test")[0]
    person, rng = spoken.info(key).identity, np.random.default_rng(0)

    def garbled(clip: Clip) -> Clip:
        noise = rng.normal(size=clip.motion.shape).astype(np.float32)
        return replace(clip, motion=noise) if clip.info.identity == person else clip

    other = Jury.fit(spoken.changed(garbled), SPLITS)
    assert ask(other, spoken, key) == ask(jury, spoken, key)
    strangers = [k for k in spoken.keys("test") if jury.fold_of[spoken.info(k).identity] != jury.fold_of[person]]
    assert any(ask(other, spoken, k) != ask(jury, spoken, k) for k in strangers), "but others are judged otherwise"


def test_people_of_another_split_are_judged_by_all(spoken: Spoken, jury: Jury):
    (person,) = {spoken.info(key).identity for key in spoken.keys("train")}
    assert person not in jury.fold_of
    found = [ask(jury, spoken, key) for key in spoken.keys("train")]
    assert np.mean([figures["motion_emotion"] for figures in found]) > 0.6
    assert np.mean([figures["sync_offset"] for figures in found]) <= 1


@pytest.mark.parametrize("late", [3, -4])
def test_motion_that_comes_late_is_found_to_do_so(spoken: Spoken, jury: Jury, late: int):
    found = []
    for key in spoken.keys("test"):
        speech, motion = torch.from_numpy(spoken.speech(key))[None], torch.from_numpy(spoken.motion(key))
        by_lag = jury.by_lag(spoken.info(key).identity, hear(speech), motion.roll(late, dims=0))
        assert by_lag.shape == (2 * MAX_LAG + 1,)
        found.append(int(by_lag.argmax()) - MAX_LAG)
        if found[-1] == late:
            assert ask(jury, spoken, key, motion.roll(late, dims=0).numpy())["sync_offset"] == abs(late)
    assert np.mean(np.array(found) == late) > 0.8


def test_foreign_speech_is_trusted_less(spoken: Spoken, jury: Jury):
    keys = [key for split in SPLITS for key in spoken.keys(split)]
    foreign = dict(zip(keys, [*keys[7:], *keys[:7]], strict=True))
    own, other = of_judged(jury, spoken), of_judged(jury, spoken, voice=foreign)
    assert own["sync_confidence"] > other["sync_confidence"] + 0.2


def test_what_cannot_be_judged_has_no_figure(spoken: Spoken, jury: Jury):
    key = spoken.keys("test")[0]
    person, speech = spoken.info(key).identity, torch.from_numpy(spoken.speech(key))[None]
    motion = torch.from_numpy(spoken.motion(key))
    assert jury.judge(person, speech, motion[:15]) == {}, "too short for the lags"
    assert jury.judge(person, 0 * speech, motion) == {}, "silent"
    assert jury.judge(person, speech, motion[:1].expand_as(motion)) == {"sync_confidence": 0}, "it does not move"
    assert jury.judge(person, speech, motion).keys() == {"sync_confidence", "sync_offset"}, "no emotion was asked for"
    longer = torch.cat([speech, speech], dim=1)
    assert jury.judge(person, longer, motion).keys() == {"sync_confidence", "sync_offset"}


def test_units_of_motion_do_not_matter(spoken: Spoken, jury: Jury):
    other = Jury.fit(spoken.changed(lambda clip: replace(clip, motion=100 * clip.motion)), SPLITS)
    for name, value in jury.figures().items():
        assert other.figures()[name] == pytest.approx(value, abs=0.02), name


@pytest.mark.parametrize(
    ("keep", "emotion", "sync"),
    [
        (lambda clips: [c for c in clips if c.info.identity == clips[-1].info.identity], "there is none", "there is 1"),
        (lambda clips: [replace(c, info=replace(c.info, emotion=None)) for c in clips], "there is none", ""),
        (lambda clips: [c for c in clips if c.info.emotion == "sad"], "there is sad", ""),
        (lambda clips: [replace(c, info=replace(c.info, silent=True)) for c in clips], "", "there is 0"),
        (lambda clips: [], "there is none", "there is 0"),
    ],
    ids=["one person", "no labels", "one emotion", "no sound", "nobody"],
)
def test_too_few_people_or_labels_are_told(spoken: Spoken, keep: Callable, emotion: str, sync: str):
    clips = [spoken.clips[key] for split in SPLITS for key in spoken.keys(split)]
    few = Spoken({clip.info.key: clip for clip in keep(clips)})
    jury = Jury.fit(few, SPLITS)
    missing = dict.fromkeys(("emotion of motion", "sync of motion"), "")
    missing |= {name: next((why for why in jury.missing() if why.startswith(name)), "") for name in missing}
    for (name, why), expected in zip(missing.items(), (emotion, sync), strict=True):
        assert bool(why) is bool(expected), name
        assert expected in why
    told = ask(jury, spoken, clips[0].info.key)
    assert ("motion_emotion" in told) is not bool(emotion)
    assert ("sync_confidence" in told) is not bool(sync)
    assert any(name.startswith("true_emotion") for name in jury.figures()) is not bool(emotion)
    assert any(name.startswith("true_sync") for name in jury.figures()) is not bool(sync)


def test_people_of_whom_training_has_clips_are_no_jury(spoken: Spoken):
    """As where a data set is split by sentences."""
    clips = dict(spoken.clips)
    known = sorted({spoken.info(key).identity for key in spoken.keys("test")})[:3]
    lent = {name: next(key for key in spoken.keys("test") if spoken.info(key).identity == name) for name in known}
    for key in lent.values():
        clips[key] = replace(clips[key], info=replace(clips[key].info, split="train"))
    jury = Jury.fit(Spoken(clips), SPLITS, trained=["train"])
    assert {clip.identity for clip in jury.heard}.isdisjoint(known)
    assert jury.barred == 3
    everybody = Spoken({key: clip for key, clip in clips.items() if clip.info.identity in known})
    missing = Jury.fit(everybody, SPLITS, trained=["train"]).missing()
    assert len(missing) == 2
    assert all("of 3 people training has clips too" in why for why in missing)


def test_an_emotion_that_one_person_shows_is_not_asked_for(spoken: Spoken):
    sad = [key for key in spoken.clips if spoken.info(key).emotion == "sad" and spoken.info(key).split == "test"]
    one = {spoken.info(key).identity for key in sad[:1]}
    few = {k: c for k, c in spoken.clips.items() if c.info.emotion != "sad" or c.info.identity in one}
    jury = Jury.fit(Spoken(few), SPLITS)
    assert jury.emotions == [emotion for emotion in EMOTIONS if emotion != "sad"]
    assert "motion_emotion" not in ask(jury, spoken, sad[0])


def test_emotions_that_no_stage_saw_are_reported_apart(jury: Jury):
    plain, apart = jury.figures(), jury.figures(["sad", "fear"])
    seen, unseen = (apart[f"{group}true_emotion_accuracy"] for group in ("seen_", "unseen_"))
    assert apart.items() >= plain.items()
    assert apart["harmonic_true_emotion_accuracy"] == pytest.approx(2 * seen * unseen / (seen + unseen))


def test_a_covariance_of_few_vectors_can_be_inverted():
    vectors = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    few, many = shrunk_covariance(vectors), shrunk_covariance(vectors.repeat(1000, 1))
    assert torch.linalg.cond(few) < 100
    torch.testing.assert_close(few.trace(), vectors.square().sum() / 6 + 40 * 0.01)
    sample = vectors.T @ vectors / 6
    assert (many - sample).norm() < 0.1 * (few - sample).norm(), "with many it is what they say"


def test_a_classifier_finds_the_way_in_which_classes_differ():
    """In the one direction of little noise; the means alone would be misled by the other one."""
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    labels = torch.arange(200) % 2
    common = noise[:, :1]
    vectors = torch.cat([common, common + 0.05 * noise[:, 1:] + 0.5 * labels[:, None]], dim=1)
    assert (Classifier.fit(vectors, labels, 2)(vectors) == labels).double().mean() > 0.98


def test_two_tracks_are_followed_through_a_mixture():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.double)  # noqa: E731
    common, mixed = draw(400, 1), []
    for size in (6, 4):
        turn, _ = torch.linalg.qr(draw(size, size))
        mixed.append(torch.cat([common, draw(400, size - 1)], dim=1) @ turn)
    follower = Follower.fit(Moments.of(*mixed))
    assert follower.closeness[0] > 0.95
    assert (follower.closeness[1:] < 0.3).all()
    by_lag = follower.by_lag(mixed[0][:100], mixed[1][:100].roll(2, dims=0))
    assert int(by_lag.argmax()) - MAX_LAG == 2
