"""Whether lips close where the sound says that they must: in P, B and M.

    pip install pocketsphinx

Its acoustic model and its dictionary of US English (CMU, BSD) say when each sound of a sentence is spoken, if the
sentence is known. Nothing of it is shipped here. Lips that never open close in every P, too: the figure says something
only beside its two controls. How far it can be believed on films of people is measured by benchmarks/judges.py.

Shapes: T frames, N samples.
"""

import functools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.tracking.tracker import EYE_CORNERS, FaceTracker
from ...models.errors import UserError
from ...models.timing import FPS, SAMPLE_RATE

PACKAGE = "pocketsphinx"
LIP_SOUNDS = ("P", "B", "M")
INNER_LIPS = (13, 14)  # middle of the upper and of the lower one, among the tracked points
CLOSED = 0.03  # their distance over that of the outer corners of the eyes
LEAD = 0.04  # seconds by which lips are ahead of the sound: on GRID all close, so early and up to as much after it
FOREIGN = 8  # clips whose sounds are held against the pictures of another
NOISE_SECONDS, NOISE = 0.3, 1e-3  # before and after the speech, whose peak is 1: the aligner looks for silence there
ALIGNER_FPS = 100


class Phone(NamedTuple):
    """One sound of speech, as CMU's dictionary calls it, without stress; seconds."""

    name: str
    start: float
    end: float


def lip_closure(
    points: np.ndarray,  # (T, 468 or more, 3) as the tracker numbers them, NaN where no face is found
    phones: Sequence[Phone],
    foreign: Sequence[Phone] = (),
    *,
    lead: float = LEAD,
) -> dict[str, float]:
    """How often lips close, from tracked points and what is said meanwhile; nothing if there is no P, B or M in it.

    `lips_closed`: share of P, B and M in whose time, `lead` seconds earlier, the inner lips meet.
    `lips_closed_other_phones`: the same of all other sounds. `lips_closed_foreign`: the same of P, B and M of
    `foreign`, the phones of other clips, which these pictures know nothing of.
    """
    groups = {
        "lips_closed": closures(points, lip_sounds(phones), lead),
        "lips_closed_other_phones": closures(points, other_sounds(phones), lead),
        "lips_closed_foreign": closures(points, lip_sounds(foreign), lead),
    }
    return {name: float(np.mean(found)) for name, found in groups.items() if found and groups["lips_closed"]}


def lip_sounds(phones: Sequence[Phone]) -> list[Phone]:
    return [phone for phone in phones if phone.name in LIP_SOUNDS]


def other_sounds(phones: Sequence[Phone]) -> list[Phone]:
    """Silence and noise, which are written SIL and +NSN+, left out."""
    return [phone for phone in phones if phone.name not in LIP_SOUNDS and phone.name.isalpha() and phone.name != "SIL"]


def closures(points: np.ndarray, phones: Sequence[Phone], lead: float = LEAD) -> list[bool]:
    """Whether the inner lips meet in any frame that shows a phone, for each that the points (T, 468, 3) show."""
    upper, lower, left, right = (points[:, at] for at in (*INNER_LIPS, *EYE_CORNERS))
    gap = np.linalg.norm(upper - lower, axis=1) / np.linalg.norm(left - right, axis=1)  # (T,)
    found = []
    for _, start, end in phones:
        first, last = (round((time - lead) * FPS, 6) for time in (start, end))  # of frames, which cover [i, i + 1)
        shown = gap[max(0, math.floor(first)) : max(0, math.ceil(last))]
        shown = shown[~np.isnan(shown)]
        if len(shown):
            found.append(bool(shown.min() < CLOSED))
    return found


# -- what is said, and when --------------------------------------------------------------------------------------------


def align(speech: np.ndarray, words: str) -> list[Phone] | None:
    """When each sound of `words` is spoken in speech (N,) at 16 kHz; silence is a phone, too.

    None if a word is not in the dictionary, such as a number in digits, or if the speech cannot be heard as these
    words. Other words than those spoken are often aligned nevertheless. Raises UserError if the package is missing.
    """
    decoder, spoken = _decoder(), re.findall(r"[\w']+", words.lower().replace("’", "'"))
    spoken = [word if decoder.lookup_word(word) else word.strip("'") for word in spoken]
    if not spoken or not np.any(speech) or not all(decoder.lookup_word(word) for word in spoken):
        return None
    noise = np.random.default_rng(0).normal(size=(2, round(NOISE_SECONDS * SAMPLE_RATE))) * NOISE
    sound = np.concatenate([noise[0], speech / np.abs(speech).max(), noise[1]])
    data = (sound * 32767).astype("<i2").tobytes()
    decoder.reinit_feat()  # else it hears less of the noise that it heard in clips before
    try:
        decoder.set_align_text(" ".join(spoken))
        _listen(decoder, data)
        if decoder.hyp() is None:
            return None
        decoder.set_alignment()  # from words to their phones
        _listen(decoder, data)
        entries = list(decoder.get_alignment().phones())
    except RuntimeError:  # a text that it cannot find in the sound
        return None
    if any(entry.duration <= 0 for entry in entries):
        return None
    times = [(entry.start / ALIGNER_FPS - NOISE_SECONDS, entry.duration / ALIGNER_FPS) for entry in entries]
    return [Phone(entry.name, start, start + long) for entry, (start, long) in zip(entries, times, strict=True)]


def _listen(decoder: Any, data: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(data, full_utt=True)
    decoder.end_utt()


@functools.cache
def _decoder() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise UserError(PACKAGE, "is needed to align words with speech", f"pip install {PACKAGE}") from None
    return Decoder(lm=None, samprate=float(SAMPLE_RATE), loglevel="FATAL")


# -- videos of a data set ----------------------------------------------------------------------------------------------


class LipJudge:
    """Lips in videos of those clips of a data set whose sentence is known in words."""

    def __init__(self) -> None:
        self.phones: dict[str, list[Phone]] = {}  # by key, of clips whose words are known
        self.clips = 0  # that it was asked about

    @property
    def idle(self) -> bool:
        """Whether it was asked about clips and can say nothing of any."""
        return self.clips > 0 and not self.phones

    @property
    def heard(self) -> str:
        return f"{len(self.phones)} of {self.clips} clips, whose words it knows"

    def listen(self, reader: ClipReader, keys: Sequence[str]) -> None:
        """Find out when each sound of these clips is spoken."""
        found = {key: align(reader.speech(key), reader.info(key).sentence or "") for key in keys}
        self.phones, self.clips = {key: phones for key, phones in found.items() if phones}, len(keys)

    def figures(self, key: str, points: np.ndarray) -> dict[str, float]:
        """Those of `lip_closure` for points (T, 468, 3) of a video of a clip; the foreign phones are of other clips."""
        return lip_closure(points, self.phones[key], self._foreign(key)) if key in self.phones else {}

    def _foreign(self, key: str) -> list[Phone]:
        """Phones of the next clips in which something else is said; those after the last are the first."""
        keys = list(self.phones)
        after = keys[keys.index(key) + 1 :] + keys[: keys.index(key)]
        names = lambda key: [phone.name for phone in self.phones[key]]  # noqa: E731
        others = [other for other in after if names(other) != names(key)][:FOREIGN]
        return [phone for other in others for phone in self.phones[other]]


def follow(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """The face in each frame of a video, uint8 (H, W, 3) -> points (T, 468, 3) in pixels, NaN where none is found."""
    tracker = FaceTracker(video=True, max_faces=1)
    found = [tracker.faces(np.ascontiguousarray(picture)) for picture in pictures]
    return np.stack([faces[0] if faces else np.full((468, 3), np.nan, np.float32) for faces in found])
