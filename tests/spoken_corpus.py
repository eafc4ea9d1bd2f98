"""The synthetic corpus without its pictures, in memory: speech and motion of people who act, as a reader has them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from emohead.datamodules.sample import Clip, ClipInfo
from emohead.datamodules.synthetic import corpus
from emohead.datamodules.synthetic.corpus import SyntheticConfig, make_clip, synthetic_scripts


class NoPainter:
    def __init__(self, look: object, size: int) -> None:
        self.size = size

    def __call__(self, *row: np.ndarray) -> np.ndarray:
        return np.zeros((self.size, self.size, 3), np.uint8)


@dataclass
class Spoken:
    """What ClipReader says of its clips."""

    clips: dict[str, Clip]

    def keys(self, split: str | None = None, *, heard: bool = False) -> list[str]:
        infos = [clip.info for clip in self.clips.values() if split in (None, clip.info.split)]
        return [info.key for info in infos if not (heard and info.silent)]

    def info(self, key: str) -> ClipInfo:
        return self.clips[key].info

    def speech(self, key: str) -> np.ndarray:
        return self.clips[key].speech

    def motion(self, key: str) -> np.ndarray:
        return self.clips[key].motion

    def changed(self, change: Callable[[Clip], Clip]) -> "Spoken":
        return Spoken({key: change(clip) for key, clip in self.clips.items()})

    def labelled(self, emotions: dict[str, str | None]) -> "Spoken":
        return self.changed(lambda clip: replace(clip, info=replace(clip.info, emotion=emotions[clip.info.key])))


def spoken_corpus(monkeypatch: pytest.MonkeyPatch, **settings: int) -> Spoken:
    monkeypatch.setattr(corpus, "FacePainter", NoPainter)
    scripts = synthetic_scripts(SyntheticConfig(size=16, **settings))
    return Spoken({script.key: make_clip(script) for script in scripts})
