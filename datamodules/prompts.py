"""Descriptions of an emotion in words, in three tiers: its label, everyday synonyms, and what the face does.

The third tier follows the facial action coding system: brows, lids, cheeks, nose, lips and jaw. MEAD names emotion and
level only, so all wording here is this project's own. Levels 1, 2, 3 are worded slightly, plainly and extremely.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from ..models.errors import UserError
from .sample import EMOTIONS, ClipInfo

Item = TypeVar("Item")

UNLABELLED = "a person talking"

LABELS = {
    "angry": ("angry", "anger"),
    "contempt": ("contemptuous", "contempt"),
    "disgusted": ("disgusted", "disgust"),
    "fear": ("fearful", "fear"),
    "happy": ("happy", "happiness"),
    "neutral": ("neutral", "calm"),
    "sad": ("sad", "sadness"),
    "surprised": ("surprised", "surprise"),
}
SYNONYMS = {  # by level, weakest first
    "angry": (("annoyed", "irritated", "displeased"), ("mad", "cross", "hostile"), ("furious", "enraged", "raging")),
    "contempt": (
        ("dismissive", "smug", "aloof"),
        ("scornful", "disdainful", "sneering"),
        ("deeply scornful", "utterly disdainful", "openly despising"),
    ),
    "disgusted": (
        ("put off", "averse", "squeamish"),
        ("grossed out", "repelled", "sickened"),
        ("revolted", "nauseated", "utterly repulsed"),
    ),
    "fear": (
        ("uneasy", "nervous", "worried"),
        ("afraid", "scared", "frightened"),
        ("terrified", "panicked", "horrified"),
    ),
    "happy": (("content", "pleased", "amused"), ("cheerful", "joyful", "smiling"), ("overjoyed", "ecstatic", "elated")),
    "neutral": (("calm", "composed", "expressionless", "relaxed", "unemotional"),) * 3,
    "sad": (
        ("gloomy", "downcast", "wistful"),
        ("unhappy", "sorrowful", "dejected"),
        ("heartbroken", "miserable", "grieving"),
    ),
    "surprised": (
        ("mildly startled", "curious", "taken aback"),
        ("startled", "amazed", "astonished"),
        ("shocked", "stunned", "flabbergasted"),
    ),
}
ACTIONS = {  # each takes an adverb of strength in front
    "angry": (
        "lowered brows drawn together",
        "tightened lower lids and a hard stare",
        "flared nostrils",
        "pressed lips with the teeth set",
        "clenched jaw",
    ),
    "contempt": (
        "tightened lip corner, raised on one side",
        "dimpled cheek on one side only",
        "lowered eyelids, looking down the nose",
        "raised chin",
        "raised single brow",
    ),
    "disgusted": (
        "wrinkled nose",
        "raised upper lip that bares the teeth",
        "lowered brows and narrowed eyes",
        "raised cheeks pushed up under the eyes",
        "lowered lip corners and a protruding lower lip",
    ),
    "fear": (
        "raised brows drawn together",
        "raised upper lids that show the white of the eyes",
        "tensed lower lids",
        "stretched lips pulled back towards the ears",
        "dropped jaw with trembling lips",
    ),
    "happy": (
        "raised lip corners in a smile",
        "raised cheeks and crinkled eye corners",
        "narrowed lower lids over smiling eyes",
        "parted lips that show the upper teeth",
        "lifted cheeks under calm brows",
    ),
    "neutral": (
        "relaxed brows",
        "relaxed eyelids and a steady gaze",
        "relaxed cheeks",
        "relaxed lips, neither raised nor lowered",
        "loose jaw that moves with speech only",
    ),
    "sad": (
        "raised inner brows drawn together",
        "drooping upper lids and a lowered gaze",
        "lowered lip corners",
        "raised chin that pushes up the lower lip",
        "slackened cheeks and jaw",
    ),
    "surprised": (
        "raised brows, curved and high",
        "widened eyes with raised upper lids",
        "dropped jaw and parted lips",
        "wrinkled forehead above raised brows",
        "opened mouth with rounded lips",
    ),
}
LABEL_ADVERBS = (("slightly", "mildly", "faintly"), ("", "clearly"), ("extremely", "very", "intensely"))
ACTION_ADVERBS = ("slightly", "", "strongly")
NOUN_STRENGTHS = ("a hint of", "", "intense")
# Of evaluation alone: a text that training has shown would say nothing of how well an emotion's name is understood.
EVALUATION_FRAMES = (
    "{a_adjective} person who talks",
    "talking with {a_adjective} expression",
    "someone talking, whose face shows {noun}",
    "a voice and a face of {noun}",
    "the speaker feels {noun}",
    "this speaker is {adjective}",
)


def class_prompt(emotion: str | None, level: int | None = None) -> str:
    """The one canonical description: "a person talking with a happy face", at levels 1 and 3 with an adverb."""
    if emotion is None:
        return UNLABELLED
    adverb = _at(LABEL_ADVERBS, emotion, level)[0]
    return f"a person talking with {with_article(_join(adverb, _label(emotion)[0]))} face"


def label_prompts() -> list[str]:
    """The canonical description of every emotion, in the order of EMOTIONS: the classes of a zero-shot classifier."""
    return [class_prompt(emotion) for emotion in EMOTIONS]


def evaluation_prompts(emotion: str) -> list[str]:
    """The name of an emotion in wordings that no training text has: their mean stands for it in evaluations."""
    adjective, noun = _label(emotion)
    words = {"adjective": adjective, "noun": noun, "a_adjective": with_article(adjective)}
    return [frame.format(**words) for frame in EVALUATION_FRAMES]


def prompts_for(emotion: str | None, level: int | None = None) -> list[str]:
    """All descriptions of an emotion at a level; without a level those of level 2, without an emotion a single one.

    Raises UserError for an emotion that is not one of EMOTIONS.
    """
    return [prompt for tier in tiers(emotion, level) for prompt in tier]


def tiers(emotion: str | None, level: int | None = None) -> list[list[str]]:
    """The same by tier: label, synonyms, facial actions; without an emotion a single one."""
    if emotion is None:
        return [[UNLABELLED]]
    return [_by_label(emotion, level), _by_synonym(emotion, level), _by_action(emotion, level)]


def draw_prompt(info: ClipInfo, rng: np.random.Generator, hidden: Callable[[str], bool] = lambda text: False) -> str:
    """One description of a clip: of its label and level, each tier as often, or one of its own if it has any.

    hidden: which texts are never drawn; some of each emotion that is trained must be left.
    """
    found = [tier for every in tiers(info.emotion, info.level) if (tier := [t for t in every if not hidden(t)])]
    choices, own = found[rng.integers(len(found))], [text for text in info.prompts if not hidden(text)]
    if own and (info.emotion is None or rng.random() < 0.5):  # few, but they describe this very clip
        choices = own
    return choices[rng.integers(len(choices))]


def _by_label(emotion: str, level: int | None) -> list[str]:
    adjective, noun = _label(emotion)
    adverbs = _at(LABEL_ADVERBS, emotion, level)
    strength = _at(NOUN_STRENGTHS, emotion, level)
    faces = [f"a person talking with {with_article(_join(adverb, adjective))} face" for adverb in adverbs]
    return [*faces, f"the speaker looks {_join(adverbs[0], adjective)}", f"a face that shows {_join(strength, noun)}"]


def _by_synonym(emotion: str, level: int | None) -> list[str]:
    words = SYNONYMS[emotion][_index(level)]
    frames = ("a person who looks {} while talking", "the face of someone {}", "talking, {} in expression")
    return [frames[i % len(frames)].format(word) for i, word in enumerate(words)]


def _by_action(emotion: str, level: int | None) -> list[str]:
    adverb = _at(ACTION_ADVERBS, emotion, level)
    actions = [_join(adverb, action) for action in ACTIONS[emotion]]
    pairs = [f"{first}, and {second}" for first, second in zip(actions, actions[2:], strict=False)]
    return [f"a talking face with {action}" for action in [*actions, *pairs]]


def _label(emotion: str) -> tuple[str, str]:
    if emotion not in LABELS:
        raise UserError(f"emotion {emotion!r}", f"choose one of {', '.join(EMOTIONS)}")
    return LABELS[emotion]


def _index(level: int | None) -> int:
    return 1 if level is None else level - 1


def _at(words: Sequence[Item], emotion: str, level: int | None) -> Item:
    """The item of a level; neutral has no strength."""
    return words[1 if emotion == "neutral" else _index(level)]


def _join(adverb: str, words: str) -> str:
    return f"{adverb} {words}".strip()


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
