"""The way from MEAD to a talker, on the public samples of it that a user has laid out as MEAD does."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from emohead.apps.demo_plan import TINY, stage_overrides
from emohead.datamodules.dataset.reader import ClipReader
from emohead.models.talker import Talker
from emohead.trainers.all_stages import STAGES
from emohead.trainers.run.train import train

from .conftest import emohead


@pytest.fixture(scope="module")
def mead() -> Path:
    """A folder with ACTOR/video/front/EMOTION/level_K/NNN.mp4, most of them without sound."""
    folder = Path(os.environ.get("EMOHEAD_MEAD", "none"))
    if not folder.is_dir():
        pytest.skip("no samples of MEAD; set EMOHEAD_MEAD to a folder of actors")
    return folder


@pytest.fixture(scope="module")
def data(mead: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mead") / "data"
    done = emohead("prepare", "mead", mead, out, "--size", 64, "--split", "random", "--workers", 2)
    assert done.returncode == 0, done.stderr
    return out


def test_everybody_has_one_identity(data: Path) -> None:
    reader = ClipReader(data)
    for person in {reader.info(key).identity for key in reader.keys(None)}:
        own = [reader.identity(key) for key in reader.keys(None) if reader.info(key).identity == person]
        for identity in own[1:]:
            np.testing.assert_array_equal(identity, own[0])


def test_four_stages_are_trained_on_it(data: Path, tmp_path: Path) -> None:
    """The face stage on all of it, the others on what has sound; and the talker talks."""
    reader, exports = ClipReader(data), {}
    assert any(reader.info(key).silent for key in reader.keys("train"))
    for stage in STAGES:
        given = [*stage_overrides(tmp_path, stage, exports, seed=0), *TINY.overrides(stage)]
        given += [f"data.shards=[{data}]", "data.batch_size=2", "data.window_frames=20", "tracking.wandb=disabled"]
        exports[stage] = train(stage, [Path(f"{stage}-debug")], given)
        assert exports[stage] is not None, stage
    talker = Talker.load(exports["distill"])
    portrait = torch.from_numpy(reader.frames(reader.keys(None)[0], [0]))
    emotion = talker.emotion_from_text("a very happy face")
    frames = torch.cat(list(talker.animate(portrait, torch.zeros(1, 16000), emotion)))
    assert frames.shape == (25, 3, 64, 64)
