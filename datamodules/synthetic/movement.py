"""How a synthetic person moves: the emotion's action units, speech, blinks, gaze and the head.

T frames, K action units, D = K + 6 values of motion.
"""

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ..sample import FPS
from .acting import Affect
from .face import ACTION_UNITS, AU
from .voice import Utterance

BASE_SCALE, BASE_Y = np.log(0.76), -0.01
# Head movement, a standard deviation for each pose value: between people in a laboratory and the speakers of HDTF,
# whose pose (our tracking) strays by 0.070, 0.082, 0.037 rad, 0.048, 0.044 crop units and 0.009 within two seconds.
SWAY = np.array((0.045, 0.11, 0.04, 0.025, 0.02, 0.012))


def perform(
    affect: Affect, strength: float, utterance: Utterance, expressiveness: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Motion float32 (T, D): the emotion's action units, speech, blinks, gaze and the head."""
    num = len(utterance.jaw)
    units = np.zeros((num, len(ACTION_UNITS)))
    fade = 0.8 + 0.2 * np.clip(np.arange(num) / (0.5 * FPS), 0, 1)
    for name, value in affect.units.items():
        sway = 1 + 0.07 * _smooth_noise(num, 0.5, rng)
        units[:, AU[name]] += value * strength * fade * sway * expressiveness[AU[name]] * rng.uniform(0.92, 1.08)
    _articulate(units, utterance, 1 + strength * (affect.articulation - 1))
    _blink_and_gaze(units, rng)
    pose = _head(affect, strength, utterance, rng)
    return np.concatenate([units, pose], axis=1).astype(np.float32)


def _articulate(units: np.ndarray, utterance: Utterance, articulation: float) -> None:
    """Speech on top of the emotion: lips that must meet do, whatever the emotion does to them."""
    shut = np.clip(utterance.closure, 0, 1)
    units[:, AU["jaw_open"]] += 0.8 * articulation * utterance.jaw * (1 - 0.85 * shut)
    units[:, AU["lips_wide"]] += 0.55 * utterance.wide
    units[:, AU["lips_round"]] += 0.9 * utterance.round
    units[:, AU["lip_press"]] *= 1 - 0.7 * np.clip(utterance.jaw * 1.5, 0, 1)
    units[:, AU["lip_press"]] += 0.35 * shut
    for name in ("upper_lip_raise", "lower_lip_depress"):
        units[:, AU[name]] *= 1 - 0.5 * shut


def _blink_and_gaze(units: np.ndarray, rng: np.random.Generator) -> None:
    num = len(units)
    time = np.arange(num)
    centre = rng.uniform(0.2, 1.6) * FPS
    while centre < num:
        closing = np.exp(-0.5 * ((time - centre) / 1.5) ** 2)
        units[:, AU["lid_close"]] += closing * (1 - units[:, AU["lid_close"]])
        units[:, AU["lid_wide"]] *= 1 - closing
        centre += rng.uniform(1.4, 3.2) * FPS
    jumps = np.repeat(rng.normal(size=(num // 15 + 1, 2)) * (0.28, 0.14), 15, axis=0)[:num]
    units[:, [AU["gaze_x"], AU["gaze_y"]]] += gaussian_filter1d(jumps, 0.8, axis=0)


def _head(affect: Affect, strength: float, utterance: Utterance, rng: np.random.Generator) -> np.ndarray:
    """Pose (T, 6): slow drift, nods on accents (down is positive pitch), the emotion's posture."""
    num = len(utterance.jaw)
    lively = 1 + strength * (affect.liveliness - 1)
    nod = gaussian_filter1d(utterance.stress, 2.0) * 0.09 * lively
    start = rng.normal(size=6) * (0.025, 0.06, 0.02, 0.02, 0.012, 0.015)
    sway = np.stack([_smooth_noise(num, 0.55, rng) for _ in range(6)], axis=1)
    pose = start + sway * SWAY * lively
    pitch, roll, y, log_scale = np.array(affect.pose) * strength
    pose += (pitch, 0, roll, 0, BASE_Y + y, BASE_SCALE + log_scale)
    pose[:, 0] += nod
    pose[:, 4] += 0.12 * nod
    return pose


def _smooth_noise(num: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Unit-variance noise (num,) with the given correlation time."""
    sigma = seconds * FPS
    margin = int(4 * sigma)
    noise = gaussian_filter1d(rng.normal(size=num + 2 * margin), sigma)[margin : margin + num]
    return noise * np.sqrt(2 * sigma * np.sqrt(np.pi))
