"""Acting and speech of the synthetic corpus: emotions as action units, posture and voice; a tiny language."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .voice import PHONEMES, Manner


@dataclass(frozen=True)
class Affect:
    """How an emotion looks and sounds at full strength."""

    units: dict[str, float]
    manner: Manner
    pose: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # pitch (down is positive), roll, y, log scale
    liveliness: float = 1.0  # factor on head motion
    articulation: float = 1.0  # factor on the jaw


# Action units after the emotion prototypes of Ekman & Friesen (FACS); voices after Scherer (2003), table 4.
AFFECTS = {
    "angry": Affect(
        {"brow_lower": 1.0, "lid_wide": 0.45, "lip_press": 0.5, "nose_wrinkle": 0.2, "corner_down": 0.25},
        Manner(pitch=1.22, pitch_range=1.5, slope=-0.25, energy=6.0, tempo=1.12, brightness=1.0, tract=0.97),
        pose=(0.07, 0.0, 0.01, 0.03),
        liveliness=1.4,
        articulation=1.12,
    ),
    "contempt": Affect(
        {"corner_up_right": 0.95, "lid_close": 0.24, "brow_lower": 0.12, "gaze_y": 0.25, "lip_press": 0.2},
        Manner(pitch=0.9, pitch_range=0.5, slope=-0.4, energy=-2.5, tempo=0.84, brightness=0.3, creak=0.1, nasal=0.8),
        pose=(-0.11, 0.07, -0.01, 0.0),
        liveliness=0.7,
        articulation=0.92,
    ),
    "disgusted": Affect(
        {"nose_wrinkle": 1.0, "upper_lip_raise": 0.75, "brow_lower": 0.4, "corner_down": 0.35, "cheek_raise": 0.4},
        Manner(pitch=0.82, pitch_range=0.8, slope=-0.25, energy=-0.5, tempo=0.84, creak=1.0, tract=0.93),
        pose=(-0.05, -0.05, 0.0, -0.04),
        liveliness=0.8,
        articulation=0.95,
    ),
    "fear": Affect(
        {"inner_brow_raise": 1.0, "outer_brow_raise": 0.35, "brow_lower": 0.3, "lid_wide": 0.95, "lips_wide": 0.5,
         "lower_lip_depress": 0.4},
        Manner(pitch=1.5, pitch_range=0.8, slope=0.1, energy=-2.0, tempo=1.25, breath=0.3, tremor=0.08, tract=1.04),
        pose=(-0.03, 0.0, -0.01, -0.08),
        liveliness=1.1,
    ),
    "happy": Affect(
        {"corner_up_left": 0.95, "corner_up_right": 0.95, "cheek_raise": 0.85, "lips_wide": 0.3,
         "outer_brow_raise": 0.15},
        Manner(pitch=1.28, pitch_range=1.7, final_rise=0.2, energy=3.5, tempo=1.08, brightness=0.45, tract=1.1),
        pose=(-0.03, 0.05, 0.0, 0.02),
        liveliness=1.4,
        articulation=1.08,
    ),
    "neutral": Affect({}, Manner()),
    "sad": Affect(
        {"inner_brow_raise": 0.95, "corner_down": 0.9, "lid_close": 0.32, "brow_lower": 0.15, "gaze_y": 0.35},
        Manner(pitch=0.88, pitch_range=0.35, slope=-0.35, energy=-7.0, tempo=0.78, brightness=-0.9, breath=0.3),
        pose=(0.13, 0.04, 0.03, -0.02),
        liveliness=0.5,
        articulation=0.85,
    ),
    "surprised": Affect(
        {"inner_brow_raise": 0.8, "outer_brow_raise": 1.0, "lid_wide": 0.85, "lips_round": 0.25,
         "upper_lip_raise": 0.1},
        Manner(pitch=1.42, pitch_range=2.0, slope=0.2, final_rise=0.7, energy=2.0, breath=0.15, tract=0.94),
        pose=(-0.04, 0.0, -0.02, -0.03),
        liveliness=1.1,
        articulation=1.1,
    ),
}  # fmt: skip

# Spelling -> phonemes; ' stands before a stressed vowel.
LEXICON = dict(
    pair.split("=")
    for pair in (
        "a=@ the=th_@ we=w_i you=y_u they=d_e i='a_i he=h_i our='a_r my=m_a_i and=@_n_d to=t_u in=i_n on=o_n of=o_v "
        "is=i_z are='a_r no=n_'o so=s_'o now=n_'a_u saw=s_'o see=s_'i go=g_'o come=k_'a_m know=n_'o make=m_'e_k "
        "take=t_'e_k want=w_'o_n_t keep=k_'i_p open='o_p_@_n move=m_'u_v bring=b_r_'i_n show=sh_'o boat=b_'o_t "
        "road=r_'o_d moon=m_'u_n lamp=l_'a_m_p paper=p_'e_p_@ summer=s_'a_m_@ water=w_'o_t_@ window=w_'i_n_d_o "
        "money=m_'a_n_i father=f_'a_d_@ mother=m_'a_d_@ baby=b_'e_b_i people=p_'i_p_@_l garden=g_'a_d_@_n "
        "music=m_'u_z_i_k valley=v_'a_l_i shadow=sh_'a_d_o coffee=k_'o_f_i table=t_'e_b_@_l river=r_'i_v_@ "
        "big=b_'i_g old='o_l_d new=n_'u red=r_'e_d warm=w_'o_m blue=b_l_'u happy=h_'a_p_i sunny=s_'a_n_i "
        "always='o_l_w_e_z maybe=m_'e_b_i away=@_w_'e today=t_u_d_'e again=@_g_'e_n home=h_'o_m"
    ).replace("th_", "d_").split()
)  # fmt: skip
SUBJECTS = ["we", "you", "they", "he", "people", "my_mother", "my_father", "the_baby", "i"]
VERBS = ["saw", "see", "know", "make", "take", "want", "keep", "open", "move", "bring", "show"]
ARTICLES = ["the", "a", "our", "my"]
ADJECTIVES = ["big", "old", "new", "red", "warm", "blue", "happy", "sunny"]
NOUNS = ["boat", "road", "moon", "lamp", "paper", "summer", "water", "window", "money", "garden", "music", "valley"]
NOUNS += ["shadow", "coffee", "table", "river", "people"]
TAILS = ["today", "again", "away", "now", "always", "maybe", "home"]


def word_stream(rng: np.random.Generator) -> Iterator[str]:
    """Words of simple sentences without end; a comma is a pause."""
    pick = lambda table: table[rng.integers(len(table))].split("_")  # noqa: E731
    while True:
        yield from pick(SUBJECTS)
        yield from pick(VERBS)
        yield from pick(ARTICLES)
        if rng.random() < 0.6:
            yield from pick(ADJECTIVES)
        yield from pick(NOUNS)
        if rng.random() < 0.5:
            yield from pick(TAILS)
        yield ","


def phonemes_of(word: str) -> list[tuple[str, bool]]:
    """A word as (phoneme, stressed)."""
    if word == ",":
        return [("_", False)]
    return [(sound.lstrip("'"), sound.startswith("'")) for sound in LEXICON[word].split("_")]


def duration(phonemes: list[tuple[str, bool]], tempo: float) -> float:
    """Expected seconds of speech."""
    return sum(PHONEMES[name].seconds * (1.25 if stressed else 1.0) for name, stressed in phonemes) * 1.03 / tempo
