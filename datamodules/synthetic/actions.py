"""Facial actions without an emotion: combinations of the upper and the lower face, with any manner of speaking.

They teach what the words for single actions mean, so that these words can describe an emotion that was never seen.
People of the train and val splits never show those that look like an emotion, nor a quarter of all.
"""

import math
from functools import cache

import numpy as np

from .acting import AFFECTS, Affect
from .voice import Manner

UPPER: tuple[dict[str, float], ...] = (
    {},
    {"brow_lower": 1.0},
    {"inner_brow_raise": 1.0},
    {"inner_brow_raise": 0.8, "outer_brow_raise": 1.0},
    {"lid_wide": 0.95},
    {"lid_close": 0.35},
    {"inner_brow_raise": 1.0, "lid_wide": 0.9},  # with the last of LOWER: fear
    {"brow_lower": 0.9, "lid_wide": 0.5},
    {"outer_brow_raise": 0.9},
    {"inner_brow_raise": 0.9, "brow_lower": 0.5},
    {"inner_brow_raise": 0.9, "outer_brow_raise": 0.5, "lid_wide": 0.6},
    {"brow_lower": 0.6, "lid_close": 0.3},
)
LOWER: tuple[dict[str, float], ...] = (
    {},
    {"corner_up_left": 0.95, "corner_up_right": 0.95, "cheek_raise": 0.85},
    {"nose_wrinkle": 0.9},
    {"corner_down": 0.9},
    {"corner_up_right": 0.95},
    {"upper_lip_raise": 0.8, "cheek_raise": 0.4},
    {"nose_wrinkle": 1.0, "upper_lip_raise": 0.75},  # with lowered brows: disgust
    {"lips_wide": 0.5, "lower_lip_depress": 0.45},
    {"lower_lip_depress": 0.8, "corner_down": 0.4},
    {"corner_up_left": 0.95},
    {"nose_wrinkle": 0.6, "corner_down": 0.5, "cheek_raise": 0.4},
    {"lip_press": 0.6},
)
ALIKE = 0.9  # cosine of action units from which on a combination looks like an emotion
ACTS = [(upper, lower) for upper in range(len(UPPER)) for lower in range(len(LOWER))]
MANNERS = {  # the values that a voice is put together from
    "pitch": (0.82, 1.0, 1.0, 1.25, 1.5),
    "energy": (-7.0, -2.0, 0.0, 3.5, 6.0),
    "tempo": (0.8, 1.0, 1.0, 1.2),
    "pitch_range": (0.5, 1.0, 1.7),
    "brightness": (-0.8, 0.0, 0.0, 0.8),
    "breath": (0.05, 0.05, 0.3),
    "tremor": (0.0, 0.0, 0.0, 0.08),
    "creak": (0.0, 0.0, 0.0, 0.8),
    "nasal": (0.0, 0.0, 0.0, 0.8),
    "tract": (0.94, 1.0, 1.0, 1.08),
}


def held_out(act: tuple[int, int]) -> bool:
    """Whether only people of the test split show this combination."""
    upper, lower = act
    return (upper + 3 * lower) % 4 == 3 or act in emotional()


@cache
def emotional() -> frozenset[tuple[int, int]]:
    """The combinations that look like an emotion: of each the nearest, and all that are near."""
    found: set[tuple[int, int]] = set()
    for affect in AFFECTS.values():
        if affect.units:
            near = {act: likeness(UPPER[act[0]] | LOWER[act[1]], affect.units) for act in ACTS}
            found |= {act for act, value in near.items() if value >= min(ALIKE, max(near.values()))}
    return frozenset(found)


def likeness(a: dict[str, float], b: dict[str, float]) -> float:
    """Cosine of two faces' action units; 0 if one is at rest."""
    lengths = [math.hypot(*units.values()) for units in (a, b)]
    return sum(a[name] * b.get(name, 0.0) for name in a) / math.prod(lengths) if all(lengths) else 0.0


def affect_of(act: tuple[int, int], rng: np.random.Generator) -> Affect:
    """The combination's action units, in a voice and with a head movement drawn at random."""
    manner = Manner(**{name: float(rng.choice(values)) for name, values in MANNERS.items()})
    pose = tuple(float(value) for value in rng.normal(size=4) * (0.07, 0.04, 0.01, 0.03))
    units = {name: value * float(rng.uniform(0.4, 1.0)) for name, value in (UPPER[act[0]] | LOWER[act[1]]).items()}
    return Affect(units, manner, pose=pose, liveliness=float(rng.uniform(0.6, 1.4)))  # type: ignore[arg-type]
