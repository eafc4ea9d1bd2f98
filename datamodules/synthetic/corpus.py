"""The synthetic corpus: drawn people who speak with eight emotions, everything about them known exactly.

Every random choice comes from (seed, identity, clip), so a corpus is the same whatever the number of workers.
T frames, K = 18 action units, D = K + 6 values of motion (see `models/face_model.py`).
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch

from ...models.errors import UserError
from ...models.versions import version_of
from ..dataset.manifest import Manifest
from ..dataset.writer import ShardWriter, encode_members
from ..jobs import Progress, no_progress
from ..sample import EMOTIONS, FPS, LEVELS, Clip, ClipInfo
from .acting import AFFECTS, duration, phonemes_of, word_stream
from .actions import ACTS, affect_of, held_out
from .drawing import FacePainter, Look
from .face import ACTION_UNITS, IDENTITY_TRAITS, synthetic_face_model
from .movement import perform
from .voice import Manner, Utterance, Voice, speak
from .words import describe, describe_all

Made = TypeVar("Made")

STRENGTH = {1: 0.6, 2: 0.8, 3: 1.0}
COMBINATIONS = [(e, level if e != "neutral" else 1) for e in EMOTIONS for level in LEVELS]  # no emotion is rare


@dataclass(kw_only=True)
class SyntheticConfig:
    """The corpus to make. Whole identities are held out: the last ones are for test, the ones before for validation."""

    identities: int = 20
    clips: int = 160  # in all; each identity cycles through the 24 of COMBINATIONS, shuffled
    frames: int = 60
    size: int = 128
    seed: int = 0
    val_identities: int | None = None  # None: a tenth, at least one
    test_identities: int | None = None
    workers: int = 1
    acted: float = 0.0  # share of each person's clips that show facial actions without an emotion (actions.py)


@dataclass(frozen=True)
class Person:
    """Everything that stays the same over the clips of one identity."""

    shape: np.ndarray  # (I,) identity coefficients
    look: Look
    voice: Voice
    expressiveness: np.ndarray  # (K,) factors on the emotion's action units


@dataclass(frozen=True)
class Script:
    """One clip to be made, small enough to send to a worker."""

    config: SyntheticConfig
    identity: int
    number: int  # of the clip within its identity
    emotion: str | None
    level: int | None
    split: str
    act: tuple[int, int] | None = None  # in place of the emotion

    @property
    def key(self) -> str:
        return f"syn{self.identity:03d}_{self.number:03d}"


# ---------------------------------------------------------------------- the corpus
def prepare_synthetic(
    out: Path | str,
    config: SyntheticConfig,
    codec: str = "mjpeg",
    progress: Progress = no_progress,
) -> Manifest:
    """Write the corpus as a data set folder; raises UserError if `out` holds one already."""
    scripts = synthetic_scripts(config)
    with ShardWriter(out, size=config.size, codec=codec) as writer:
        packed = _in_order(partial(_pack, codec=codec), scripts, config.workers)
        for done, (script, members) in enumerate(zip(scripts, packed, strict=True), start=1):
            writer.write_members(script.key, members)
            progress(done, len(scripts), "draw")
        return writer.close(synthetic_face_model())


def _pack(script: Script, codec: str) -> dict[str, bytes]:
    return encode_members(make_clip(script), codec=codec)


def _in_order(make: Callable[[Script], Made], scripts: list[Script], workers: int) -> Iterator[Made]:
    """`make` of every script, in order, in this process or in a pool."""
    if workers <= 1:
        yield from map(make, scripts)
        return
    context = multiprocessing.get_context("spawn")  # forking after torch has started threads can hang
    with ProcessPoolExecutor(min(workers, len(scripts)), mp_context=context) as pool:
        with _children_without_interrupts():
            made = pool.map(make, scripts, chunksize=2)  # starts them
        yield from made


@contextmanager
def _children_without_interrupts() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, even while they import: the parent hears it and ends them."""
    if threading.current_thread() is not threading.main_thread():  # there Python sets no handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def synthetic_scripts(config: SyntheticConfig) -> list[Script]:
    """Who says what, how, and in which split; raises UserError if the numbers do not fit."""
    tenth = max(1, config.identities // 10)
    val = tenth if config.val_identities is None else config.val_identities
    test = tenth if config.test_identities is None else config.test_identities
    train = config.identities - val - test
    if train < 1:
        raise UserError(
            f"identities={config.identities}",
            f"no one is left to train on beside {val} for validation and {test} for the test",
            "ask for more identities",
        )
    if config.clips < config.identities:
        raise UserError(f"clips={config.clips}", f"fewer than identities={config.identities}", "ask for more clips")
    scripts = []
    for identity in range(config.identities):
        num = config.clips // config.identities + (identity < config.clips % config.identities)
        order = np.random.default_rng([config.seed, identity, 1]).permutation(len(COMBINATIONS))
        split = "train" if identity < train else "val" if identity < train + val else "test"
        acts = [act for act in ACTS if split == "test" or not held_out(act)]
        chosen = np.random.default_rng([config.seed, identity, 3]).permutation(len(acts))
        labelled = num - round(config.acted * num)
        one = replace(config, workers=1)
        for number in range(labelled):
            emotion, level = COMBINATIONS[order[number % len(COMBINATIONS)]]
            scripts.append(Script(one, identity, number, emotion, level, split))
        for number in range(labelled, num):
            act = acts[chosen[number % len(acts)]]
            scripts.append(Script(one, identity, number, None, None, split, act))
    return scripts


def make_clip(script: Script) -> Clip:
    """One clip from its script alone."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)  # bytes do not depend on the machine's cores
    cv2.setNumThreads(1)
    try:
        return _make_clip(script)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _make_clip(script: Script) -> Clip:
    config = script.config
    person = person_of(config.seed, script.identity)
    rng = np.random.default_rng([config.seed, script.identity, 2, script.number])
    if script.act is not None:
        affect, strength = affect_of(script.act, rng), 1.0
    else:
        assert script.emotion is not None
        assert script.level is not None
        affect, strength = AFFECTS[script.emotion], STRENGTH[script.level] * rng.uniform(0.93, 1.07)
    sentence, utterance = _utter(person.voice, affect.manner, strength, config.frames, rng)
    motion = perform(affect, strength, utterance, person.expressiveness, rng)

    model = synthetic_face_model()
    shape, moves = torch.from_numpy(person.shape), torch.from_numpy(motion)
    units, pose = moves[:, : len(ACTION_UNITS)], moves[:, len(ACTION_UNITS) :]
    points = model.project(model.vertices(shape, units), pose).numpy()
    painter = FacePainter(person.look, config.size)
    frames = np.stack([painter(*row) for row in zip(points, units.numpy(), pose.numpy(), strict=True)])
    landmarks = (model.landmarks(shape, moves).numpy() + 1) / 2 * config.size
    info = ClipInfo(
        key=script.key,
        dataset="synthetic",
        identity=f"syn{script.identity:03d}",
        split=script.split,
        frames=config.frames,
        size=config.size,
        emotion=script.emotion,
        level=script.level,
        sentence=sentence,
        prompts=describe(motion) + (describe_all(motion, affect.manner.at(strength**0.6)) if config.acted else []),
        end=config.frames / FPS,
        crop=(0.0, 0.0, float(config.size)),
        tracking_residual=0.0,
        av_offset=0,
        tools={"emohead": version_of("emohead")},
    )
    return Clip(info, frames, utterance.speech, motion, person.shape, landmarks.astype(np.float16))


@cache
def person_of(seed: int, identity: int) -> Person:
    """Shape, look and voice of one identity."""
    rng = np.random.default_rng([seed, identity, 0])
    shape = np.clip(rng.normal(size=len(IDENTITY_TRAITS)), -2, 2).astype(np.float32)
    look = Look.draw(rng)
    male = look.beard or (look.hair_style not in ("long", "bob", "bun") and rng.random() < 0.6)
    pitch = rng.uniform(95, 145) if male else rng.uniform(165, 225)
    tract = rng.uniform(0.94, 1.04) if male else rng.uniform(1.08, 1.2)
    return Person(shape, look, Voice(float(pitch), float(tract)), rng.uniform(0.88, 1.12, size=len(ACTION_UNITS)))


# ---------------------------------------------------------------------- what is said
def _utter(
    voice: Voice, manner: Manner, strength: float, num_frames: int, rng: np.random.Generator
) -> tuple[str, Utterance]:
    """A sentence that fills the clip but for some silence at both ends, and its sound and mouth."""
    manner = manner.at(strength**0.6)  # a voice tells even a weak emotion, the face shows it less
    lead = float(rng.uniform(0.14, 0.28))
    room = num_frames / FPS - lead - float(rng.uniform(0.18, 0.30))
    words: list[str] = []
    phonemes: list[tuple[str, bool]] = []
    for word in word_stream(rng):
        sounds = phonemes_of(word)
        if duration(phonemes + sounds, manner.tempo) > room:
            break
        phonemes += sounds
        if word != ",":
            words.append(word)
    return " ".join(words), speak(phonemes, voice, manner, num_frames, lead, rng)
