"""Sentences about the look and sound of a clip of the synthetic corpus."""

import numpy as np

from .face import ACTION_UNITS, AU
from .voice import Manner

ACTION_WORDS = {
    "corner_up_left": "left lip corner raised",
    "corner_up_right": "right lip corner raised",
    "corner_down": "lip corners pulled down",
    "upper_lip_raise": "upper lip raised",
    "lower_lip_depress": "lower lip pulled down",
    "lip_press": "lips pressed together",
    "inner_brow_raise": "inner brows raised",
    "outer_brow_raise": "outer brows raised",
    "brow_lower": "brows lowered",
    "lid_close": "eyelids drooping",
    "lid_wide": "eyes wide open",
    "cheek_raise": "cheeks raised",
    "nose_wrinkle": "nose wrinkled",
}
CORNERS = {"corner_up_left", "corner_up_right"}
SHOWS, SLIGHT = 0.18, 0.5  # of an action unit: what is seen at all, and what is more than slight
# Value of a manner -> word below the first threshold, word above the second.
VOICE = {
    "pitch": (0.93, "low", 1.15, "high"),
    "energy": (-1.5, "quiet", 1.5, "loud"),
    "tempo": (0.93, "slow", 1.06, "fast"),
    "pitch_range": (0.75, "flat", 1.3, "lively"),
    "brightness": (-0.5, "dull", 0.4, "bright"),
    "breath": (-1.0, "", 0.12, "breathy"),
    "tremor": (-1.0, "", 0.03, "trembling"),
    "creak": (-1.0, "", 0.35, "creaky"),
    "nasal": (-1.0, "", 0.35, "nasal"),
}


def describe(motion: np.ndarray) -> list[str]:
    """Sentences about this very clip, strongest action unit first; medians, so that blinks do not count."""
    phrases, degree = _phrases(motion)
    if not phrases:
        return ["a person talking with a relaxed face", "talking with no expression"]
    texts = [f"a person talking with {degree}{' and '.join(phrases[:2])}", ", ".join(degree + p for p in phrases[:3])]
    return texts + ([f"{phrases[0]} while talking"] if len(phrases) > 1 else [])


def describe_all(motion: np.ndarray, manner: Manner) -> list[str]:
    """Longer sentences: every action unit that shows, each with its degree, and the voice."""
    shown = _shown(motion)
    face = ", ".join(("slightly " if value < SLIGHT else "") + phrase for phrase, value in shown) or "a relaxed face"
    voice = describe_voice(manner)
    return [f"{face}, {voice}", f"talking in {voice}, with {face}"]


def describe_voice(manner: Manner) -> str:
    """Such as "a high, loud and lively voice"."""
    words = []
    for name, (low, low_word, high, high_word) in VOICE.items():
        value = getattr(manner, name)
        words += [low_word] if value < low else [high_word] if value > high else []
    return f"a {', '.join(words)} voice" if words else "a plain voice"


def _phrases(motion: np.ndarray) -> tuple[list[str], str]:
    """Phrases for the actions that show, and "slightly " if all of them are weak."""
    shown = _shown(motion)
    degree = "slightly " if shown and max(value for _, value in shown) < SLIGHT else ""
    return [phrase for phrase, _ in shown], degree


def _shown(motion: np.ndarray) -> list[tuple[str, float]]:
    """The actions that show, each with its strength: lip corners if both are up, then the rest, strongest first."""
    typical = np.median(motion[:, : len(ACTION_UNITS)], axis=0)
    typical[AU["lip_press"]] *= 0.8
    shown = {name: float(typical[AU[name]]) for name in ACTION_WORDS if typical[AU[name]] > SHOWS}
    found = []
    if shown.keys() >= CORNERS:
        found.append(("lip corners raised", max(shown.pop(name) for name in CORNERS)))
    return found + [(ACTION_WORDS[name], value) for name, value in sorted(shown.items(), key=lambda item: -item[1])]
