"""Prompts: enough of them, different at each level, drawn from explicit seeds."""

import numpy as np
import pytest
from emohead.datamodules.emotion_words import emotion_sentences, mentions
from emohead.datamodules.prompts import (
    class_prompt,
    draw_prompt,
    evaluation_prompts,
    label_prompts,
    prompts_for,
    tiers,
)
from emohead.datamodules.sample import EMOTIONS, ClipInfo
from emohead.models.errors import UserError


def info(emotion: str | None, level: int | None = None, prompts: list[str] | None = None) -> ClipInfo:
    return ClipInfo("k", "d", "i", "train", 10, 32, emotion=emotion, level=level, prompts=prompts or [])


@pytest.mark.parametrize("emotion", [e for e in EMOTIONS if e != "neutral"])
def test_each_level_has_its_own_wording(emotion: str) -> None:
    by_level = [set(prompts_for(emotion, level)) for level in (1, 2, 3)]
    assert all(len(prompts) >= 10 for prompts in by_level)
    assert not by_level[0] & by_level[1]
    assert not by_level[1] & by_level[2]
    assert not by_level[0] & by_level[2]
    assert any("slightly" in prompt for prompt in by_level[0])
    assert not any("slightly" in prompt or "extremely" in prompt for prompt in by_level[1])
    assert any("extremely" in prompt for prompt in by_level[2])


def test_no_prompt_describes_two_emotions() -> None:
    owners: dict[str, str] = {}
    for emotion in EMOTIONS:
        for level in (1,) if emotion == "neutral" else (1, 2, 3):
            prompts = prompts_for(emotion, level)
            assert len(prompts) == len(set(prompts))
            for prompt in prompts:
                assert "  " not in prompt
                assert prompt == prompt.strip()
                assert owners.setdefault(prompt, emotion) == emotion


def test_canonical_prompts() -> None:
    assert class_prompt("happy") == "a person talking with a happy face"
    assert class_prompt("angry") == "a person talking with an angry face"
    assert class_prompt("sad", 1) == "a person talking with a slightly sad face"
    assert class_prompt("angry", 3) == "a person talking with an extremely angry face"
    assert class_prompt("neutral", 1) == "a person talking with a neutral face"
    assert class_prompt(None) == "a person talking"
    assert label_prompts() == [class_prompt(emotion) for emotion in EMOTIONS]


def test_a_level_left_out_reads_as_the_plain_one() -> None:
    assert prompts_for("fear") == prompts_for("fear", 2)


def test_each_tier_is_drawn_as_often_as_the_others() -> None:
    draws = [draw_prompt(info("happy", 2), np.random.default_rng(seed)) for seed in range(900)]
    shares = [sum(prompt in tier for prompt in draws) / len(draws) for tier in tiers("happy", 2)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.05)


def test_draws_follow_the_generator_and_use_the_clips_own_prompts() -> None:
    draws = [draw_prompt(info("happy", 3, ["beaming"]), np.random.default_rng(seed)) for seed in range(60)]
    assert draws == [draw_prompt(info("happy", 3, ["beaming"]), np.random.default_rng(seed)) for seed in range(60)]
    assert "beaming" in draws
    assert set(draws) - {"beaming"} <= set(prompts_for("happy", 3))
    assert draw_prompt(info(None), np.random.default_rng(0)) == "a person talking"
    assert draw_prompt(info(None, prompts=["a man speaks"]), np.random.default_rng(0)) == "a man speaks"


def test_wordings_of_evaluation_are_no_text_of_training() -> None:
    asked = [prompt for emotion in EMOTIONS for prompt in evaluation_prompts(emotion)]
    assert len(asked) == len(set(asked)) >= 5 * len(EMOTIONS)
    trained = {prompt for emotion in EMOTIONS for level in (1, 2, 3) for prompt in prompts_for(emotion, level)}
    assert not set(asked) & (trained | set(emotion_sentences()) | set(label_prompts()))
    assert "an angry person who talks" in evaluation_prompts("angry")


def test_what_must_not_be_told_is_never_drawn() -> None:
    hidden = lambda text: mentions(text, ["happy"])  # noqa: E731
    own = ["beaming", "a smile"]
    draws = {draw_prompt(info("sad", 2, own), np.random.default_rng(seed), hidden) for seed in range(300)}
    assert draws == {prompt for prompt in prompts_for("sad", 2) if "unhappy" not in prompt} | {"beaming"}
    plain = [draw_prompt(info("sad", 2, own), np.random.default_rng(seed)) for seed in range(300)]
    assert any("unhappy" in prompt for prompt in plain)
    assert draw_prompt(info(None, prompts=["a happy man"]), np.random.default_rng(0), hidden) == "a person talking"


def test_an_unknown_emotion_is_refused() -> None:
    with pytest.raises(UserError, match="choose one of angry"):
        prompts_for("grumpy", 1)
