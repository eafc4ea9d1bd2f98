"""Damaged and odd media files: each is read, in step, or refused in one line; none crashes, hangs or grows without end.

With EMOHEAD_SOAK=1 540 of them, else a few of each kind. Every one is a function of its number.
"""

import contextlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
from emohead.datamodules.media.read import iterate_video, probe
from emohead.datamodules.media.sound import read_audio
from emohead.datamodules.media.write import write_video
from emohead.datamodules.sample import FPS, SAMPLE_RATE
from emohead.models.errors import UserError

from .damaged_media import DAMAGE, ODD, changed
from .sounds import CLICKS, clicks, heard

SOAK = bool(os.environ.get("EMOHEAD_SOAK"))
EACH = 60 if SOAK else 4  # files of each kind
SECONDS = 4
LONGEST = 90.0  # seconds that may come out of any of them: the gaps that are filled are bounded


def flashes() -> np.ndarray:
    """Frames (T, 64, 64, 3), white for a fifth of a second from each click on."""
    frames = np.full((SECONDS * FPS, 64, 64, 3), 40, np.uint8)
    for at in CLICKS:
        frames[round(at * FPS) :][:5] = 220
    return frames


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The undamaged clip in three containers."""
    folder = tmp_path_factory.mktemp("whole")
    write_video(folder / "a.mp4", flashes(), clicks(SECONDS))
    for suffix in ("mkv", "ts"):
        changed(folder / "a.mp4", folder / f"a.{suffix}", lambda packet, n: packet)
    return {path.suffix[1:]: path for path in folder.iterdir()}


# -- damage: a file comes out that is read or refused ----------------------------------------------------------------


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_read_or_refused(kind: str, whole: dict[str, Path], tmp_path: Path) -> None:
    kept = 0
    for number in range(EACH):
        rng = np.random.default_rng([number, len(kind)])
        suffix = ("mp4", "mkv", "ts")[number % 3]
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(DAMAGE[kind](whole[suffix].read_bytes(), rng))
        started = time.monotonic()
        for read in (probe, length_of_video, length_of_sound):
            with contextlib.suppress(UserError):
                seconds = read(path)
                assert read is probe or seconds < LONGEST, f"{path.name}: {seconds} s"
                kept += 1
        assert time.monotonic() - started < 60, path.name
    assert kept, "some have to be readable, or nothing was tried"


def length_of_video(path: Path) -> float:
    return sum(1 for _ in iterate_video(path)) / FPS


def length_of_sound(path: Path) -> float:
    sound = read_audio(path, aligned=True)
    assert np.isfinite(sound).all()
    return len(sound) / SAMPLE_RATE


# -- oddities: what the file says is known, and sound and picture keep step ------------------------------------------


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", ODD)
def test_odd_files_keep_sound_and_picture_in_step(kind: str, whole: dict[str, Path], tmp_path: Path) -> None:
    for number in range(EACH):
        rng = np.random.default_rng([number, len(kind)])
        path = tmp_path / f"{number}.mkv"
        changed(whole["mp4"], path, lambda packet, n, rng=rng: ODD[kind](packet, n, rng))
        light = np.array([frame.mean() > 130 for frame in iterate_video(path)])
        seen = (np.flatnonzero(np.diff(light.astype(int)) == 1) + 1) / FPS
        for click in heard(read_audio(path, aligned=True)):
            assert np.abs(seen - click).min() <= 1 / FPS, f"{path.name}: {click} among {seen}"
        assert len(seen) == 4
