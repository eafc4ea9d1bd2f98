"""Damaged and odd files through the commands: `prepare` keeps no clip out of step, `infer` ends in a video or a line.

With EMOHEAD_SOAK=1 through 504 files, else through a few of each kind.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from emohead.apps import cli
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.media.write import write_video
from emohead.datamodules.prepare.gates import parse_gates
from emohead.datamodules.sample import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

from .damaged_media import DAMAGE, ODD, changed
from .sounds import CLICKS, clicks, heard
from .talking_clips import Talk, prepare_folder

KINDS = DAMAGE | ODD
EACH = 56 if os.environ.get("EMOHEAD_SOAK") else 3  # files of each kind
WITHIN = 1 / FPS + 0.005  # seconds that sound and picture may be apart
SECONDS = 4


def blinking(frames: np.ndarray) -> np.ndarray:
    """The frames of a face, brighter for a fifth of a second from each click on."""
    shown = np.minimum(frames[np.arange(SECONDS * FPS) % len(frames)], 185)
    for at in CLICKS:
        shown[round(at * FPS) :][:5] += 70
    return shown


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, spoken: list[Talk]) -> Path:
    """A folder of damaged and odd copies of one clip, in which clicks are heard and blinks are seen together."""
    folder, files = tmp_path_factory.mktemp("odd"), tmp_path_factory.mktemp("whole")
    noise = np.random.default_rng(0).normal(0, 0.005, SECONDS * SAMPLE_RATE).astype(np.float32)
    write_video(files / "a.mp4", blinking(spoken[0][0]), clicks(SECONDS) + noise)
    for suffix in ("mkv", "ts"):
        changed(files / "a.mp4", files / f"a.{suffix}", lambda packet, n: packet)
    for name, kind in KINDS.items():
        for number in range(EACH):
            rng, suffix = np.random.default_rng([number, len(name)]), ("mp4", "mkv", "ts")[number % 3]
            if name in DAMAGE:
                (folder / f"{name}{number}.{suffix}").write_bytes(kind((files / f"a.{suffix}").read_bytes(), rng))
            else:
                target = folder / f"{name}{number}.mkv"
                changed(files / "a.mp4", target, lambda packet, n, kind=kind, rng=rng: kind(packet, n, rng))
    return folder


def steps(reader: ClipReader, key: str) -> Iterator[tuple[float, np.ndarray]]:
    """When each click of a clip is heard, and the times at which a blink is seen, in seconds."""
    light = reader.frames(key).mean(axis=(1, 2, 3))
    seen = (np.flatnonzero(np.diff(light) > 30) + 1) / FPS
    for click in heard(reader.speech(key)):
        yield click, seen


@pytest.mark.timeout(3600)
def test_no_clip_is_kept_out_of_step(odd: Path, tmp_path: Path) -> None:
    # The drawn mouth does not follow the clicks: nothing is to be concluded from it.
    report = prepare_folder(odd, tmp_path / "out", gates=parse_gates(["min_av_confidence=99"]))
    assert len({info.source for info in report.kept} | {clip.source for clip in report.rejected}) == EACH * len(KINDS)
    assert all("\n" not in clip.reason and "Error" not in clip.reason for clip in report.rejected), report.rejected
    assert len(report.kept) > EACH
    reader, apart = ClipReader(tmp_path / "out"), {}
    for info in report.kept:
        assert abs(len(reader.speech(info.key)) - info.frames * SAMPLES_PER_FRAME) < SAMPLES_PER_FRAME
        off = [np.abs(seen - click).min(initial=9) for click, seen in steps(reader, info.key)]
        if off and max(off) > WITHIN:
            apart[info.source] = round(max(off), 3)
    # Flipped bits of time stamps say another time, and nothing in the file says otherwise.
    known = {name: off for name, off in apart.items() if not name.startswith(("flipped", "header", "tables"))}
    assert known == {}, f"of {len(report.kept)} kept, {len(report.rejected)} left out"
    assert len(apart) <= 0.01 * len(report.kept), apart


@pytest.mark.timeout(3600)
def test_infer_ends_in_a_video_or_in_a_line(
    odd: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made, short = 0, tmp_path / "short.wav"
    soundfile.write(short, soundfile.read(demo / "speech.wav", frames=SAMPLE_RATE // 2)[0], SAMPLE_RATE)
    for number, path in enumerate(sorted(odd.iterdir())[:: 3 if EACH < 9 else 1]):
        out = tmp_path / f"{number}.mp4"
        emotion = ["--text", "sad"] if number % 2 else ["--audio", path]
        speech = path if number % 2 else short
        words = ["infer", demo / "talker.safetensors", "--portrait", demo / "portrait.png", "--no-crop", *emotion]
        monkeypatch.setattr(sys, "argv", ["emohead", *map(str, [*words, "--speech", speech, "--out", out])])
        with contextlib.suppress(SystemExit):
            cli.main()
        told = capfd.readouterr().err.strip().splitlines()
        if out.exists():
            made += 1
        else:
            assert told[-1].startswith("emohead: "), path.name
            assert "Traceback" not in "".join(told), path.name
    assert made > EACH
