"""Videos of drawn people who talk: the face tracker finds them, and their mouths follow the sound."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from emohead.datamodules.corpora.folder import read_folder
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.jobs import Progress, no_progress
from emohead.datamodules.media.write import write_video
from emohead.datamodules.prepare.run import PrepareReport, prepare_sources
from emohead.datamodules.prepare.work import PrepareConfig
from emohead.datamodules.sample import SAMPLES_PER_FRAME
from emohead.datamodules.synthetic.corpus import SyntheticConfig, prepare_synthetic

Talk = tuple[np.ndarray, np.ndarray]  # frames uint8 (T, 192, 192, 3), speech (T * 640,)

SMALL = PrepareConfig(size=64, codec="mjpeg", clips_per_shard=1)


def talks(folder: Path, frames: int = 75) -> list[Talk]:
    """Two clips each of four people."""
    config = SyntheticConfig(identities=4, clips=8, seed=1, size=192, frames=frames, workers=1)
    prepare_synthetic(folder, config, codec="mjpeg")
    reader = ClipReader(folder)
    keys = reader.keys(None)
    return [(reader.frames(key).transpose(0, 2, 3, 1), reader.speech(key)) for key in sorted(keys)]


def prepare_folder(source: Path, out: Path, *, progress: Progress = no_progress, **options: Any) -> PrepareReport:
    """Prepare a folder of videos as small pictures; `options` are PrepareConfig's."""
    return prepare_sources(read_folder(source), out, PrepareConfig(**{"size": 64, **options}), progress=progress)


def shifted(speech: np.ndarray, frames: int) -> np.ndarray:
    """The same sound, later by so many frames."""
    return np.roll(speech, frames * SAMPLES_PER_FRAME)


def snapshot(out: Path) -> dict[str, bytes]:
    """All visible files of a data set and their bytes."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


def write_talks(folder: Path, named: Iterable[tuple[str, Talk]]) -> Iterator[Path]:
    for name, (frames, speech) in named:
        write_video(folder / f"{name}.mp4", frames, speech)
        os.utime(folder / f"{name}.mp4", (1_700_000_000, 1_700_000_000))
        yield folder / f"{name}.mp4"
