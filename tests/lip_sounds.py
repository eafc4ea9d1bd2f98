"""A pocketsphinx that is made up: it knows a few words, and every sound takes a tenth of a second."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from emohead.trainers.evaluation import lips

WORDS = {"bob": "B AA B", "sees": "S IY Z", "mum's": "M AH M Z", "ill": "IH L"}
TENTH = 10  # of the aligner's frames
LONGEST = 3.0  # seconds of sound that it bears


class Decoder:
    """The sentence begins after 0.5 s of the sound that it is given."""

    def __init__(self, **_: object) -> None:
        self.text: list[str] = []
        self.heard: list[np.ndarray] = []

    def lookup_word(self, word: str) -> str | None:
        return WORDS.get(word)

    def reinit_feat(self) -> None:
        self.heard = []

    def set_align_text(self, text: str) -> None:
        self.text = text.split()

    def set_alignment(self) -> None: ...

    def start_utt(self) -> None: ...

    def process_raw(self, data: bytes, full_utt: bool) -> None:
        assert full_utt
        self.heard.append(np.frombuffer(data, "<i2"))

    def end_utt(self) -> None:
        if len(self.heard[-1]) > LONGEST * 16_000:
            raise RuntimeError("lost")

    def hyp(self) -> str | None:
        return None if self.text == ["ill"] else "heard"

    def get_alignment(self) -> SimpleNamespace:
        names = " ".join(WORDS[word] for word in self.text).split()
        entries = [SimpleNamespace(name="SIL", start=0, duration=50)]
        entries += [SimpleNamespace(name=n, start=50 + i * TENTH, duration=TENTH) for i, n in enumerate(names)]
        return SimpleNamespace(phones=lambda: iter(entries))


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(lips.PACKAGE)
    module.__spec__ = ModuleSpec(lips.PACKAGE, None)
    module.Decoder = Decoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, lips.PACKAGE, module)
    lips._decoder.cache_clear()
