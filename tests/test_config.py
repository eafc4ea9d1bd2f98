"""Configuration: what wins over what, and what a user hears of a mistake."""

from pathlib import Path

import pytest
from emohead.models.errors import UserError
from emohead.trainers.config import as_dict, load_config, save_config
from emohead.trainers.motion import MotionStageConfig


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


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "\x00"])
def test_bad_files_are_named(tmp_path: Path, content: str):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        load_config(MotionStageConfig, [file], [])


def test_missing_file_lists_the_shipped_ones():
    with pytest.raises(UserError, match="emotion-debug"):
        load_config(MotionStageConfig, [Path("nowhere.yaml")], [])
