"""A stage that is saved in the background and gone on with: what is written, when, and what comes back."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from emohead.models.errors import UserError
from emohead.trainers.emotion import EmotionStage, EmotionStageConfig
from emohead.trainers.engines.plain import LossScale, PlainEngine
from emohead.trainers.run.checkpoints import Checkpoints
from emohead.trainers.run.preemption import Notice
from emohead.trainers.run.save_and_resume import Saver
from torch import Tensor

from .stages import SPACE


def emotion_stage(seed: int) -> EmotionStage:
    torch.manual_seed(seed)
    return EmotionStage(EmotionStageConfig(network=replace(SPACE, trainable="adapters")), SimpleNamespace())


@pytest.fixture
def folder(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep_last=2, keep_best=1)


def begin(stage: EmotionStage, folder: Checkpoints) -> Saver:
    """As a run does: weights, engines, the rest."""
    notice = Notice()
    notice.close(leaving=False)
    saver = Saver(folder, notice, pytest.fail)
    saver.load_weights(stage)
    (module,), (optimizer,) = stage.trained().values(), stage.configure_optimizers()
    stage.engines = {"network": PlainEngine(module, optimizer, clip_norm=1.0, scale=LossScale(False))}
    saver.restore(stage)
    return saver


def step(stage: EmotionStage) -> None:
    engine = stage.engines["network"]
    engine.backward(torch.stack([p.square().sum() for p in engine.parameters]).sum())
    engine.step()
    stage.num_batches += 1


def copied(stage: EmotionStage) -> dict[str, Tensor]:
    """Weights and what the optimizer remembers, as they are now."""
    engine = stage.engines["network"]
    held = {name: share.values.clone() for name, share in engine.shares().items()}
    return held | {name: weights.clone() for name, weights in engine.frozen()}


def test_a_checkpoint_is_of_the_moment_at_which_it_was_saved(folder: Checkpoints) -> None:
    stage = emotion_stage(seed=0)
    saver = begin(stage, folder)
    step(stage)
    wanted = copied(stage)
    saver.save(stage)
    step(stage)  # while it is written
    saver.finish()
    other = emotion_stage(seed=1)
    begin(other, folder)
    found = copied(other)
    assert other.num_batches == 1
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_towers_that_are_not_trained_are_written_once_and_by_no_run_that_goes_on(folder: Checkpoints) -> None:
    stage = emotion_stage(seed=0)
    towers = [parameter for tower in stage.network.frozen_towers() for parameter in tower.parameters()]
    saver = begin(stage, folder)
    files = []
    for _ in range(3):
        step(stage)
        saver.save(stage)
        saver.finish()
        files.append([(path.name, path.stat().st_ino) for path in (folder.folder / "frozen").iterdir()])
    stage = emotion_stage(seed=1)
    saver = begin(stage, folder)
    step(stage)
    saver.save(stage)
    saver.finish()
    files.append([(path.name, path.stat().st_ino) for path in (folder.folder / "frozen").iterdir()])
    assert len(files[0]) == 1
    assert files == 4 * [files[0]]
    frozen, part = (folder.path(4) / file["name"] for file in folder.newest(pytest.fail).files)
    assert frozen.stat().st_size == pytest.approx(sum(p.nbytes for p in towers), rel=0.1)
    assert part.stat().st_size < 3.2 * sum(p.nbytes for p in stage.engines["network"].parameters) + 200_000


def test_a_step_is_written_once_and_the_end_of_a_run_leaves_no_checkpoint_too_many(folder: Checkpoints) -> None:
    stage = emotion_stage(seed=0)
    saver = begin(stage, folder)
    for score in (0.5, 0.9, 0.7, 0.8, 0.1):
        step(stage)
        saver.save(stage)
        saver.background.finish()
        before = folder.path(stage.num_batches).stat()
        saver.keep_if_best(stage, {"val/loss": score})
        saver.background.finish()
        assert folder.path(stage.num_batches).stat().st_ino == before.st_ino
    assert folder.steps() == [1, 4, 5]
    assert folder.best() == [(-0.1, 5)]
    saver.finish()
    assert folder.steps() == [4, 5]


def test_a_checkpoint_of_another_network_is_refused(folder: Checkpoints) -> None:
    stage = emotion_stage(seed=0)
    saver = begin(stage, folder)
    step(stage)
    saver.save(stage)
    saver.finish()
    larger = replace(SPACE, audio_layers=2, trainable="adapters")
    with pytest.raises(UserError, match=r"step-00000001.*does not fit the network.*blocks\.1"):
        begin(EmotionStage(EmotionStageConfig(network=larger), SimpleNamespace()), folder)
