"""Sound in which a moment can be found again."""

import numpy as np
from emohead.datamodules.sample import SAMPLE_RATE

CLICKS = (0.5, 1.5, 2.5, 3.5)  # seconds


def clicks(seconds: float = 4.0) -> np.ndarray:
    """Speech (N,) that is silent but for clicks of 10 ms."""
    sound = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    for at in CLICKS:
        sound[round(at * SAMPLE_RATE) :][:160] = 0.5
    return sound


def heard(sound: np.ndarray) -> list[float]:
    """The times of the clicks in seconds."""
    loud = np.flatnonzero(np.abs(sound) > 0.15)
    first = [n for i, n in enumerate(loud) if i == 0 or n - loud[i - 1] > SAMPLE_RATE // 10]
    return [n / SAMPLE_RATE for n in first]
