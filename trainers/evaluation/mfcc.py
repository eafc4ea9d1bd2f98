"""Mel-frequency cepstra of speech as SyncNet was trained on them: those of python_speech_features with its defaults.

Shapes: N samples at 16 kHz, M frames of 25 ms, 100 a second.
"""

import numpy as np
from scipy.fft import dct

from ...models.timing import SAMPLE_RATE

NUM_MFCC = 13
NUM_MELS = 26
FFT = 512
WINDOW, HOP = SAMPLE_RATE // 40, SAMPLE_RATE // 100
PREEMPHASIS = 0.97
LIFTER = 22


def mfcc(speech: np.ndarray) -> np.ndarray:
    """Speech (N,) in [-1, 1], taken as 16-bit samples -> float32 (M, 13), the first of them the log energy."""
    samples = np.clip(np.round(speech.astype(np.float64) * 2**15), -(2**15), 2**15 - 1)
    samples = np.append(samples[:1], samples[1:] - PREEMPHASIS * samples[:-1])
    missing = WINDOW - len(samples)
    samples = np.pad(samples, (0, max(missing, missing % HOP)))  # silence fills the last window
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]  # (M, 400), not tapered
    power = np.abs(np.fft.rfft(windows, FFT)) ** 2 / FFT  # (M, 257)
    lifter = 1 + LIFTER / 2 * np.sin(np.pi * np.arange(NUM_MFCC) / LIFTER)
    cepstra = dct(_log(power @ _triangles()), norm="ortho")[:, :NUM_MFCC] * lifter
    cepstra[:, 0] = _log(power.sum(axis=1))
    return cepstra.astype(np.float32)


def _log(power: np.ndarray) -> np.ndarray:
    return np.log(np.where(power == 0, np.finfo(np.float64).eps, power))


def _triangles() -> np.ndarray:
    """Filters (257, 26) evenly spaced on the HTK mel scale up to 8 kHz, their corners rounded down to bins."""
    edges_mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), NUM_MELS + 2)
    edges = np.floor((FFT + 1) * 700 * (10 ** (edges_mel / 2595) - 1) / SAMPLE_RATE)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(FFT // 2 + 1)[:, None]
    return np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(min=0)
