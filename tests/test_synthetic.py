"""The synthetic corpus: the same bytes every time, exact labels, emotions that can be told apart."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from emohead.datamodules.dataset.manifest import load_manifest
from emohead.datamodules.sample import EMOTIONS, LEVELS, SAMPLES_PER_FRAME
from emohead.datamodules.synthetic.acting import AFFECTS, LEXICON
from emohead.datamodules.synthetic.actions import ACTS, LOWER, UPPER, held_out, likeness
from emohead.datamodules.synthetic.corpus import (
    STRENGTH,
    SyntheticConfig,
    _utter,
    make_clip,
    person_of,
    prepare_synthetic,
    synthetic_scripts,
)
from emohead.datamodules.synthetic.face import ACTION_UNITS, AU, IRIS, synthetic_face_model
from emohead.datamodules.synthetic.movement import perform
from emohead.datamodules.synthetic.voice import PHONEMES, Manner, Voice, speak
from emohead.datamodules.synthetic.words import describe_voice
from emohead.models.errors import UserError

SMALL = SyntheticConfig(identities=3, clips=4, frames=15, size=32, seed=7)
NOSE_TIP = 30


def acted(identity: int, emotion: str, strength: float = 1.0, frames: int = 50) -> np.ndarray:
    """Motion (T, D) of one identity, without drawing."""
    rng = np.random.default_rng([identity, EMOTIONS.index(emotion)])
    person, affect = person_of(3, identity), AFFECTS[emotion]
    _, utterance = _utter(person.voice, affect.manner, strength, frames, rng)
    return perform(affect, strength, utterance, person.expressiveness, rng)


def typical_units(identity: int, emotion: str, strength: float = 1.0) -> np.ndarray:
    return np.median(acted(identity, emotion, strength)[:, : len(ACTION_UNITS)], axis=0)


def test_same_bytes_with_any_number_of_workers(tmp_path):
    made = []
    for workers in (1, 10**20):  # more than there are clips are not started
        config = SyntheticConfig(identities=3, clips=4, frames=15, size=32, seed=7, workers=workers)
        prepare_synthetic(tmp_path / str(workers), config)
        made.append({path.name: path.read_bytes() for path in (tmp_path / str(workers)).iterdir()})
    assert made[0] == made[1]
    manifest = load_manifest(tmp_path / "1")
    assert {name: split.clips for name, split in manifest.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert manifest.face_model["checksum"] == synthetic_face_model().checksum()


def test_a_clip_is_what_the_format_says():
    clip = make_clip(synthetic_scripts(SMALL)[0])
    assert clip.frames.shape == (15, 32, 32, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.speech.shape == (15 * SAMPLES_PER_FRAME,)
    assert clip.speech.dtype == np.float32
    assert np.abs(clip.speech).max() <= 1
    assert clip.motion.shape == (15, synthetic_face_model().motion_dim)
    assert clip.info.key == "syn000_000"
    assert clip.info.prompts


def test_landmarks_are_the_models():
    clip = make_clip(synthetic_scripts(SMALL)[2])
    model = synthetic_face_model()
    points = model.landmarks(torch.tensor(clip.identity), torch.tensor(clip.motion)).numpy()
    np.testing.assert_allclose((points + 1) / 2 * SMALL.size, clip.landmarks, atol=0.02)
    assert clip.landmarks.min() > 0
    assert clip.landmarks.max() < SMALL.size


def test_the_drawing_puts_pupils_where_the_model_has_them():
    """Ties the pixel convention (pixel i covers [i, i + 1)) to the drawing: the darkest spot of an eye is its iris."""
    script = synthetic_scripts(SyntheticConfig(identities=3, clips=3, frames=1, size=256))[0]
    clip = make_clip(script)
    model, motion = synthetic_face_model(), torch.tensor(clip.motion)
    vertices = model.vertices(torch.tensor(clip.identity), motion[:, :-6])
    pupils = (model.project(vertices, motion[:, -6:])[0, list(IRIS)].numpy() + 1) / 2 * 256
    for x, y in pupils:
        window = clip.frames[0, int(y) - 9 : int(y) + 10, int(x) - 9 : int(x) + 10].sum(-1)
        dark = np.argwhere(window < window.min() + 60).mean(0) + 0.5
        assert np.abs(dark - (y - int(y) + 9, x - int(x) + 9)).max() < 3


def test_every_emotion_thrice_in_24_clips():
    scripts = synthetic_scripts(SyntheticConfig(identities=3, clips=72))
    for identity in range(3):
        seen = Counter((s.emotion, s.level) for s in scripts if s.identity == identity)
        assert len(seen) == 22
        assert all(count == (3 if emotion == "neutral" else 1) for (emotion, _), count in seen.items())
    assert [s.key for s in scripts] == sorted(s.key for s in scripts)
    splits = {s.identity: s.split for s in scripts}
    assert splits == {0: "train", 1: "val", 2: "test"}


def test_too_few_identities_are_named():
    with pytest.raises(UserError, match="identities=2"):
        synthetic_scripts(SyntheticConfig(identities=2, clips=10))
    with pytest.raises(UserError, match="clips=2"):
        synthetic_scripts(SyntheticConfig(identities=4, clips=2))


def test_sizes_that_no_data_set_has_are_refused(tmp_path):
    for size in (33, 30):
        with pytest.raises(UserError, match=f"size {size}: must be even and at least 32"):
            prepare_synthetic(tmp_path / "data", replace(SMALL, size=size))
    assert not list(tmp_path.iterdir())


def test_emotions_of_unseen_people_are_separable():
    centroids = {e: np.mean([typical_units(i, e) for i in range(4)], axis=0) for e in EMOTIONS}
    for identity in range(4, 10):
        for emotion in EMOTIONS:
            units = typical_units(identity, emotion)
            assert min(centroids, key=lambda e: np.linalg.norm(units - centroids[e])) == emotion


def test_a_higher_level_is_stronger():
    for emotion in set(EMOTIONS) - {"neutral"}:
        name = max(AFFECTS[emotion].units, key=lambda unit: AFFECTS[emotion].units[unit])
        weak, middle, strong = (
            np.mean([typical_units(i, emotion, STRENGTH[level])[AU[name]] for i in range(3)]) for level in LEVELS
        )
        assert weak + 0.1 < middle < strong - 0.1


def test_contempt_is_one_sided():
    units = typical_units(0, "contempt")
    assert units[AU["corner_up_right"]] > 0.5
    assert units[AU["corner_up_left"]] == 0


def test_the_mouth_follows_the_sound():
    phonemes = [(name, False) for name in ["m", "a", "m", "a", "s", "i", "p", "a", "m", "o", "m"]]
    utterance = speak(phonemes, Voice(120, 1.0), Manner(), 60, 0.2, np.random.default_rng(0))
    loudness = np.sqrt(utterance.speech.reshape(60, -1).std(axis=1))
    assert np.corrcoef(loudness, utterance.jaw)[0, 1] > 0.7
    assert loudness[:3].max() < 0.1 * loudness.max()
    assert utterance.jaw[:3].max() < 0.05


def test_lips_close_for_bilabials():
    utterance = speak(
        [("a", True), ("b", False), ("a", True)], Voice(120, 1.0), Manner(), 20, 0.2, np.random.default_rng(0)
    )
    between = utterance.closure.argmax()
    assert utterance.closure[between] > 0.5
    assert utterance.jaw[between] < utterance.jaw.max()


def test_loud_and_quiet_emotions_keep_their_loudness():
    def level(emotion: str) -> float:
        rng = np.random.default_rng(5)
        return _utter(Voice(130, 1.0), AFFECTS[emotion].manner, 1.0, 50, rng)[1].speech.std()

    assert level("angry") > 1.3 * level("neutral") > 1.7 * level("sad")


def test_every_word_can_be_spoken():
    for word, sounds in LEXICON.items():
        assert all(sound.lstrip("'") in PHONEMES for sound in sounds.split("_")), word


def test_handedness_of_the_pose():
    """Positive pitch turns the nose down, positive yaw to the left of the image, positive roll is clockwise."""
    model = synthetic_face_model()

    def landmarks(index: int) -> torch.Tensor:
        motion = torch.zeros(model.motion_dim)
        if index >= 0:
            motion[model.num_expression + index] = 0.2
        return model.landmarks(torch.zeros(model.num_identity), motion)

    still = landmarks(-1)
    assert landmarks(0)[NOSE_TIP, 1] > still[NOSE_TIP, 1] + 0.05
    assert landmarks(1)[NOSE_TIP, 0] < still[NOSE_TIP, 0] - 0.05
    assert landmarks(2)[45, 1] > still[45, 1] + 0.05


def test_the_face_model_keeps_the_units():
    model = synthetic_face_model()
    assert (model.mean[36] - model.mean[45]).norm() == pytest.approx(1.0)
    motion = torch.zeros(model.motion_dim)
    closed = model.mouth_opening(torch.zeros(model.num_identity), motion)
    motion[AU["jaw_open"]] = 1
    assert closed < 0.02
    assert model.mouth_opening(torch.zeros(model.num_identity), motion) > 0.25
    left, right = model.mean[36], model.mean[45]
    assert torch.allclose(left * torch.tensor([-1.0, 1, 1]), right)


def test_acted_clips_hold_combinations_out():
    scripts = synthetic_scripts(SyntheticConfig(identities=6, clips=300, acted=0.5))
    acted = [script for script in scripts if script.act is not None]
    assert len(acted) == 150
    assert not [script for script in acted if script.split != "test" and held_out(script.act)]
    assert [script for script in acted if script.split == "test" and held_out(script.act)]
    assert len(ACTS) / 4 <= sum(map(held_out, ACTS)) < len(ACTS) / 3


@pytest.mark.parametrize("emotion", sorted(set(EMOTIONS) - {"neutral"}))
def test_no_combination_that_looks_like_an_emotion_is_trained_on(emotion: str):
    near = sorted(ACTS, key=lambda act: -likeness(UPPER[act[0]] | LOWER[act[1]], AFFECTS[emotion].units))
    assert held_out(near[0])
    trained = next(act for act in near if not held_out(act))
    assert likeness(UPPER[trained[0]] | LOWER[trained[1]], AFFECTS[emotion].units) < 0.9
    assert likeness(AFFECTS[emotion].units, AFFECTS[emotion].units) == pytest.approx(1)


def test_acted_clips_are_described_and_have_no_label():
    config = SyntheticConfig(identities=3, clips=6, frames=15, size=32, acted=0.5)
    clip = make_clip(next(script for script in synthetic_scripts(config) if script.act is not None))
    assert clip.info.emotion is None
    assert clip.info.level is None
    assert len(clip.info.prompts) >= 4
    assert any("voice" in prompt for prompt in clip.info.prompts)


def test_a_voice_in_words():
    assert describe_voice(Manner()) == "a plain voice"
    assert describe_voice(Manner(pitch=1.4, energy=-5, creak=0.8)) == "a high, quiet, creaky voice"
