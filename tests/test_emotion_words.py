"""The bank of sentences: wide, and silent about emotions that are held out."""

import re
from itertools import combinations

import pytest
from emohead.datamodules.emotion_words import (
    ADJECTIVES,
    MEANINGS,
    emotion_sentences,
    mentions,
    sentences_without,
    stem,
)
from emohead.datamodules.prompts import ACTIONS, LABELS, SYNONYMS, evaluation_prompts, prompts_for, tiers
from emohead.datamodules.sample import EMOTIONS, LEVELS
from emohead.datamodules.synthetic.words import ACTION_WORDS, VOICE

# What must be gone, written out by hand.
FEAR = (
    "fear fearful afraid scared scary frightened frightening terrified terror petrified panicked panic horrified "
    "horror alarmed apprehensive nervous nervously anxious uneasy worried worry timid tense"
)
HAPPY = (
    "happy happiness happily joyful cheerful cheery delighted glad ecstatic pleased smile smiling unhappy displeased"
)
DISGUSTED = "disgust disgusted disgusting revolted revolting nauseated nausea repulsed repelled sickened squeamish"


def test_the_bank_is_wide() -> None:
    sentences = emotion_sentences()
    assert len(sentences) == len(set(sentences)) > 600
    assert "an ecstatic voice" in sentences
    assert not [sentence for sentence in sentences if " a a" in f" {sentence}" or " a e" in f" {sentence}"]
    assert sentences_without([]) == sentences


@pytest.mark.parametrize(("emotion", "words"), [("fear", FEAR), ("happy", HAPPY), ("disgusted", DISGUSTED)])
def test_words_of_the_same_stem_or_meaning_tell_of_an_emotion(emotion: str, words: str) -> None:
    assert [word for word in words.split() if not mentions(f"The speaker looks {word}.", [emotion])] == []
    assert mentions(words.split()[0].upper(), [emotion])


@pytest.mark.parametrize(
    ("emotion", "text"),
    [
        ("fear", "someone who sounds jealous"),
        ("fear", "a talking face with raised brows, curved and high"),
        ("angry", "a made-up face"),
        ("angry", "a strangely mild voice"),
        ("contempt", "content"),
        ("happy", "a sleepy voice"),
    ],
)
def test_other_words_do_not(emotion: str, text: str) -> None:
    assert not mentions(text, [emotion])


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_nothing_of_a_held_out_emotion_is_left(emotion: str) -> None:
    left = sentences_without([emotion])
    words = {word for sentence in left for word in re.findall(r"[a-z]+", sentence)}
    synonyms = {word for level in SYNONYMS[emotion] for synonym in level for word in [synonym.split()[-1]]}
    assert not words & {*LABELS[emotion], *MEANINGS[emotion].split(), *(synonyms - {"off", "out"})}
    own = {prompt for level in LEVELS for prompt in prompts_for(emotion, level)}
    assert not own & set(left), "neither its prompts nor what its face does"
    assert not [sentence for sentence in left if any(action in sentence for action in ACTIONS[emotion])]
    assert all(mentions(prompt, [emotion]) for prompt in [*own, *evaluation_prompts(emotion)])
    assert len(left) > 0.75 * len(emotion_sentences())


def test_what_is_left_is_most_and_all_the_rest() -> None:
    gone = set(emotion_sentences()) - set(sentences_without(["fear", "disgusted"]))
    assert gone == {s for s in emotion_sentences() if mentions(s, ["fear"]) or mentions(s, ["disgusted"])}
    assert "someone who sounds jealous" in sentences_without(EMOTIONS), "many words are none of the eight"
    assert len(sentences_without(EMOTIONS)) > 100


def test_meanings_are_words_of_the_bank() -> None:
    for emotion, words in MEANINGS.items():
        assert set(words.split()) <= set(ADJECTIVES), emotion
    assert tuple(MEANINGS) == EMOTIONS


def test_emotions_that_are_trained_keep_descriptions() -> None:
    """Of their label, whatever else is held out."""
    for held_out in combinations(EMOTIONS, 3):
        for emotion in set(EMOTIONS) - set(held_out):
            for level in LEVELS:
                assert not all(mentions(prompt, held_out) for prompt in tiers(emotion, level)[0]), (emotion, held_out)


def test_stems() -> None:
    words = {"fearful": "fear", "horrified": "horr", "happiness": "happ", "panicked": "panic", "raging": "raging"}
    assert {word: stem(word) for word in words} == words


@pytest.mark.parametrize("emotion", sorted(set(EMOTIONS) - {"neutral"}))
def test_what_a_drawn_face_does_and_how_a_voice_sounds_is_no_word_of_one_emotion(emotion: str):
    """Else the descriptions of all other emotions that show it too would be hidden with the one that is held out."""
    heard = [word for _, low, _, high in VOICE.values() for word in (low, high) if word]
    for told in [*ACTION_WORDS.values(), *(f"{word} voice" for word in heard)]:
        assert not mentions(told, [emotion]), told
