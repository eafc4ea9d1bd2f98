"""Made-up pictures, sounds and videos, from which sources are made."""

import numpy as np
from emohead.datamodules.sample import SAMPLE_RATE


def picture(size: int = 64, frames: int = 30) -> np.ndarray:
    """A smooth colour gradient with a bright bar that moves right by two pixels a frame, uint8 (T, S, S, 3)."""
    y, x = np.mgrid[:size, :size]
    base = np.stack([x, y, (x + y) / 2], axis=-1) * (200 / size)
    video = np.repeat(base[None], frames, axis=0)
    for index in range(frames):
        video[index, :, (2 * index) % size : (2 * index) % size + 4] = 255
    return video.astype(np.uint8)


def tone(seconds: float, rate: int = SAMPLE_RATE, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
