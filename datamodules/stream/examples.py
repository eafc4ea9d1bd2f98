"""From a stored clip to a sample of each stage. Random choices come from the generator that is passed in.

Pictures are decoded into their final place, a row of the batch: a sample asks its `Room` for the place of each.
S pixels a side, T = window_frames, D values of motion, I identity coefficients, W = 27 frames around a target frame.
motion[t] belongs to speech[640 t : 640 (t + 1)].
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..batch import EMOTION, FACE, MOTION
from ..dataset.clip import StoredClip
from ..emotion_words import mentions
from ..prompts import draw_prompt
from ..sample import EMOTIONS, MOTION_WINDOW, NO_LABEL, SAMPLES_PER_FRAME, ClipInfo
from .memory import Slot

Sample = dict[str, Any]
Room = Callable[[str], np.ndarray]  # the name of a picture in the batch -> uint8 (S, S, 3) to decode it into
ACTED = 3 / 5  # the middle share of a clip in which its emotion shows: actors, those of MEAD too, begin and end neutral


class Pictures:
    """Room for the pictures of a batch: copying them together would take half as long again as decoding them."""

    def __init__(self, slot: Slot, batch_size: int, size: int) -> None:
        self.slot, self.batch_size, self.size = slot, batch_size, size
        self.arrays: dict[str, np.ndarray] = {}  # uint8 (B, S, S, 3)

    def of_row(self, row: int) -> Room:
        return partial(self._place, row)

    def _place(self, row: int, name: str) -> np.ndarray:
        if name not in self.arrays:
            self.arrays[name] = self.slot.array(name, (self.batch_size, self.size, self.size, 3), np.uint8)
        return self.arrays[name][row]


def draw_sample(
    fields: Iterable[str],
    clip: StoredClip,
    rng: np.random.Generator,
    *,
    window_frames: int,
    cross_clip: float,
    room: Room,
    held_out: Sequence[str] = (),
) -> Sample:
    """A sample of a clip with the keys of a stage's batch: a union of EMOTION, MOTION and FACE of batch.py.

    held_out: emotions of which its description must not tell.
    """
    wanted, sample = set(fields), Sample()
    told: dict[str, Any] = {"window_frames": window_frames, "room": room, "held_out": held_out}
    if MOTION.keys() <= wanted:
        sample |= motion_sample(clip, rng, **told)
    elif EMOTION.keys() <= wanted:
        sample |= emotion_sample(clip, rng, **told)
    if FACE.keys() <= wanted:
        sample |= face_sample(clip, rng, cross_clip=cross_clip, room=room)
    assert sample.keys() == wanted, f"no sample has the keys {sorted(wanted)}"
    return sample


def emotion_sample(
    clip: StoredClip, rng: np.random.Generator, *, window_frames: int, room: Room, held_out: Sequence[str] = ()
) -> Sample:
    """A frame that shows the clip's emotion, a window of its speech, its label and a description."""
    start = draw_start(clip.num_frames, window_frames, rng)
    return _condition(clip, rng, start, window_frames, room, held_out)


def motion_sample(
    clip: StoredClip, rng: np.random.Generator, *, window_frames: int, room: Room, held_out: Sequence[str] = ()
) -> Sample:
    """The keys of `emotion_sample`, and the motion of the same window."""
    start = draw_start(clip.num_frames, window_frames, rng)
    frames = np.arange(start, start + window_frames).clip(max=clip.num_frames - 1)
    return _condition(clip, rng, start, window_frames, room, held_out) | {
        "motion": clip.motion()[frames],  # (T, D)
        "identity": clip.identity(),  # (I,)
    }


def face_sample(clip: StoredClip, rng: np.random.Generator, *, cross_clip: float, room: Room) -> Sample:
    """A portrait and a target, different frames, and the motion that belongs to them.

    The target is of the clip, the portrait too or, for a share `cross_clip` of the pairs, of a relative.
    """
    lender = draw_lender(clip, rng, cross_clip)
    images = [room("portrait"), room("target")]
    if lender is clip:
        portrait, target = draw_pair(clip.num_frames, rng)
        clip.decode_frames([portrait, target], images)
    else:
        portrait, target = (int(rng.integers(each.num_frames)) for each in (lender, clip))
        lender.decode_frames([portrait], images[:1])
        clip.decode_frames([target], images[1:])
    motion, identity = clip.motion(), clip.identity()  # (clip's T, D), (I,)
    lent = (motion, identity) if lender is clip else (lender.motion(), lender.identity())
    return {
        "key": clip.key,
        "portrait": images[0],  # (S, S, 3)
        "portrait_motion": lent[0][portrait],  # (D,)
        "portrait_identity": lent[1],  # (I,)
        "target": images[1],
        "target_motion": motion_window(motion, target),  # (W, D)
        "target_landmarks": clip.landmarks_at(target).astype(np.float32) * (2 / clip.size) - 1,  # (68, 2), crop units
        "identity": identity,
    }


def draw_lender(clip: StoredClip, rng: np.random.Generator, share: float) -> StoredClip:
    """The clip that a portrait is taken from: for a share of the draws a relative if there is one, else its own.

    A share of 0 draws nothing, so that all other draws are the same with and without it.
    """
    if not share or not clip.relatives or rng.random() >= share:
        return clip
    return replace(clip, row=clip.relatives[int(rng.integers(len(clip.relatives)))], relatives=())


def draw_start(num_frames: int, window_frames: int, rng: np.random.Generator) -> int:
    """The first frame of a window; 0 if the clip is no longer than the window."""
    return int(rng.integers(max(0, num_frames - window_frames) + 1))


def draw_acted(info: ClipInfo, num_frames: int, rng: np.random.Generator) -> int:
    """A frame that shows the emotion of a clip: of its middle part, or of all of it if it is neutral or unlabelled."""
    outside = 0 if info.emotion in (None, "neutral") else int(num_frames * (1 - ACTED) / 2)
    return int(rng.integers(outside, num_frames - outside))


def draw_pair(num_frames: int, rng: np.random.Generator) -> tuple[int, int]:
    """Two different frames; the same one twice if there is only one."""
    first = int(rng.integers(num_frames))
    return first, (first + int(rng.integers(1, num_frames))) % num_frames if num_frames > 1 else first


def motion_window(motion: np.ndarray, centre: int, width: int = MOTION_WINDOW) -> np.ndarray:
    """Motion (T, D) -> (width, D) centred on a frame, the clip's first and last frame repeated beyond its ends."""
    first = centre - width // 2
    if 0 <= first <= len(motion) - width:
        return motion[first : first + width]
    return motion[np.arange(first, first + width).clip(0, len(motion) - 1)]


def collate(samples: Sequence[Sample], slot: Slot) -> None:
    """Put together what is not yet in the slot of the batch: arrays and numbers are stacked, strings are listed."""
    for name, value in samples[0].items():
        if name in slot.made:
            continue
        values = [sample[name] for sample in samples]
        if isinstance(value, str):
            slot.keep(name, values)
        else:
            slot.stack(name, values)


def _condition(
    clip: StoredClip, rng: np.random.Generator, start: int, window_frames: int, room: Room, held_out: Sequence[str]
) -> Sample:
    info = clip.info()
    image = room("image")
    clip.decode_frames([draw_acted(info, clip.num_frames, rng)], [image])
    speech = clip.speech(start, min(window_frames, clip.num_frames - start))
    return {
        "key": clip.key,
        "image": image,  # (S, S, 3)
        "speech": np.pad(speech, (0, window_frames * SAMPLES_PER_FRAME - len(speech))),  # (640 T,)
        "emotion": np.int64(NO_LABEL if info.emotion is None else EMOTIONS.index(info.emotion)),
        "level": np.int64(NO_LABEL if info.level is None else info.level),
        "prompt": draw_prompt(info, rng, partial(mentions, emotions=held_out)),
    }
