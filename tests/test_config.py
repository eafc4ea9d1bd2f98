"""Configuration: what wins over what, and what a user hears of a mistake."""

from pathlib import Path

import pytest
import torch
from emohead.models.errors import UserError
from emohead.models.ranges import out_of_range
from emohead.trainers.all_stages import STAGES
from emohead.trainers.config import as_dict, load_config, save_config
from emohead.trainers.motion import MotionStageConfig
from emohead.trainers.run.settings import settle_devices, wrong_settings


def test_later_wins(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 3\noptimizer: {lr: 0.1, warmup_steps: 7}\n")
    config = load_config(MotionStageConfig, [file], ["optimizer.lr=0.2"])
    assert (config.seed, config.optimizer.lr, config.optimizer.warmup_steps) == (3, 0.2, 7)
    assert config.trainer == MotionStageConfig().trainer


def test_saved_config_reproduces_itself(tmp_path: Path):
    config = load_config(MotionStageConfig, [Path("motion-debug")], ["data.shards=[a,b]", "seed=5"])
    save_config(config, tmp_path / "config.yaml")
    assert as_dict(load_config(MotionStageConfig, [tmp_path / "config.yaml"], [])) == as_dict(config)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimiser.lr=1"], ["optimiser", "optimizer"]),
        (["optimizer.lrr=1"], ["optimizer.lrr", "'optimizer.lr'"]),
        (["optimizer.lr=fast"], ["optimizer.lr"]),
        (["optimizer.lr"], ["key=value"]),
        (["seed=1.5"], ["seed"]),
    ],
)
def test_mistakes_are_named(overrides: list[str], words: list[str]):
    with pytest.raises(UserError) as error:
        load_config(MotionStageConfig, [], overrides)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lr=-1", ["optimizer.lr=-1.0", "above 0", "0.0003"]),
        ("optimizer.lr=.nan", ["optimizer.lr=nan", "above 0"]),
        ("optimizer.beta2=1", ["optimizer.beta2", "from 0 to 0.99999"]),
        ("seed=-1", ["seed=-1", "from 0"]),
        ("seed=1e12", ["seed=1000000000000", "4.29497e+09"]),
        ("trainer.max_steps=0", ["trainer.max_steps=0", "1 or more"]),
        ("trainer.devices=0", ["trainer.devices=0", "1 or more"]),
        ("trainer.keep_best=-1", ["trainer.keep_best=-1", "0 or more"]),
        ("trainer.cuda_graphs=true", ["trainer.cuda_graphs=true", "compiled blocks", "trainer.compile=true"]),
        ("data.window_frames=0", ["data.window_frames=0", "1 or more"]),
        ("data.cross_clip=1.5", ["data.cross_clip=1.5", "from 0 to 1"]),
        ("network.layers=0", ["network.layers=0", "1 or more"]),
        ("loss.lip_loss=inf", ["loss.lip_loss=inf", "0 or more"]),
    ],
)
def test_values_that_make_no_sense_are_named(override: str, words: list[str]) -> None:
    config = load_config(MotionStageConfig, [], [override])
    (error,) = [*wrong_settings(config), *out_of_range(config.data, "data.")]
    for word in words:
        assert word in str(error)


def test_the_defaults_of_every_stage_are_in_range() -> None:
    for stage in STAGES.values():
        assert not wrong_settings(stage.config_type())


def test_whole_numbers_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text("trainer: {max_steps: 1e5, val_every: 2.0e3}")
    config = load_config(MotionStageConfig, [tmp_path / "long.yaml"], ["data.batch_size=1e1", "trainer.devices=auto"])
    assert (config.trainer.max_steps, config.trainer.val_every, config.data.batch_size) == (100_000, 2000, 10)
    settle_devices(config)
    assert config.trainer.devices == max(1, torch.cuda.device_count())


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "\x00"])
def test_bad_files_are_named(tmp_path: Path, content: str):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        load_config(MotionStageConfig, [file], [])


def test_missing_file_lists_the_shipped_ones():
    with pytest.raises(UserError, match="emotion-debug"):
        load_config(MotionStageConfig, [Path("nowhere.yaml")], [])
