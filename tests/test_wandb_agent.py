"""Trials that `wandb agent` starts: where they are kept, what they are called, and what they refuse."""

import json
from pathlib import Path

import pytest
from emohead.models.errors import UserError
from emohead.trainers.config import load_config
from emohead.trainers.emotion import EmotionStageConfig
from emohead.trainers.run.settings import run_folder
from emohead.trainers.run.wandb_run import leave_wandb, start_run, wandb_settings
from emohead.trainers.tracking import TrackingConfig, wrong_tracking

from .wandb_legs import legs

AGENT = {"WANDB_SWEEP_ID": "swp", "WANDB_RUN_ID": "trial1"}


def test_each_trial_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EmotionStageConfig(run="runs/lr")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    monkeypatch.setenv("WANDB_RUN_ID", "alone")
    assert run_folder(config, "emotion") == Path("runs/lr")
    for trial in ("trial1", "trial2"):
        monkeypatch.setenv("WANDB_SWEEP_ID", "swp")
        monkeypatch.setenv("WANDB_RUN_ID", trial)
        assert run_folder(config, "emotion") == Path("runs/lr") / trial


def test_a_trial_is_online_and_in_the_group_of_its_sweep() -> None:
    given, told = wandb_settings(TrackingConfig(), Path("runs/lr/trial1"), AGENT, stage="emotion")
    assert (given["mode"], given["resume"], given["group"], given["name"]) == ("online", "allow", "lr", "trial1")
    assert not told


@pytest.mark.parametrize(
    ("config", "environ", "where"),
    [
        (TrackingConfig(wandb="offline"), AGENT, "tracking.wandb=offline"),
        (TrackingConfig(wandb="disabled"), AGENT, "tracking.wandb=disabled"),
        (TrackingConfig(), AGENT | {"WANDB_MODE": "offline"}, "WANDB_MODE=offline"),
    ],
)
def test_a_trial_that_tells_nobody_is_refused(config: TrackingConfig, environ: dict[str, str], where: str) -> None:
    (error,) = wrong_tracking(config, environ)
    assert error.where == where
    assert "tracking.wandb=online" in error.remedy
    assert not wrong_tracking(TrackingConfig(), AGENT | {"WANDB_MODE": "online"})


def test_a_trial_goes_by_the_id_that_the_agent_gave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AGENT.items():
        monkeypatch.setenv(name, value)
    run = start_run(tmp_path, TrackingConfig(wandb="offline"), {}, stage="emotion")
    run.finish()
    leave_wandb()  # which waits until the file is written
    assert (tmp_path / "wandb" / "id").read_text() == "trial1"
    assert [leg.run.run_id for leg in legs(tmp_path)] == ["trial1"]


def test_values_as_a_sweep_writes_them() -> None:
    """`${args_no_hyphens}` writes a nested value as Python's dict, and names with dots as they are."""
    given = ["optimizer={'lr': 0.001, 'warmup_steps': 3}", "loss.prior_loss=0.5", "data.shards=['a', 'b']"]
    config = load_config(EmotionStageConfig, [], given)
    assert (config.optimizer.lr, config.optimizer.warmup_steps, config.loss.prior_loss) == (0.001, 3, 0.5)
    assert config.data.shards == ["a", "b"]


@pytest.mark.parametrize("override", ["run=None", "optimizer={'lr': None}", "data.shards=[None]"])
def test_none_is_refused(override: str) -> None:
    with pytest.raises(UserError, match="Python's word") as caught:
        load_config(EmotionStageConfig, [], [override])
    assert json.dumps(override)[1:-1] in caught.value.where
