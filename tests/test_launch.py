"""What a process takes itself for: variables of another launch in the shell are not its own."""

import os
from pathlib import Path

import pytest
from emohead.models.errors import UserError
from emohead.trainers.lightning_private import rank_zero_only
from emohead.trainers.run.cluster import STARTED_BY, environment, forget_leftovers
from emohead.trainers.stage import TrainerConfig

from .conftest import emohead

STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.fixture(autouse=True)
def own_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", STARTED_BY):
        monkeypatch.delenv(name, raising=False)


def test_what_another_launch_left_behind_is_dropped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    forget_leftovers()
    assert rank_zero_only.rank == 0
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & os.environ.keys()
    assert "RANK, LOCAL_RANK, WORLD_SIZE of another launch" in capsys.readouterr().err


@pytest.mark.parametrize(
    "launched",
    [
        {STARTED_BY: str(os.getppid()), "LOCAL_RANK": "1"},
        {"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"},
        {**STEP, "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "LOCAL_RANK": "1"},
    ],
)
def test_ranks_keep_what_their_launcher_told_them(monkeypatch: pytest.MonkeyPatch, launched: dict[str, str]) -> None:
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    forget_leftovers()
    assert rank_zero_only.rank == 1
    assert os.environ["LOCAL_RANK"] == "1"


@pytest.mark.parametrize(("task", "alone"), [("0", True), ("2", False)])
def test_only_the_shell_of_a_job_step_makes_a_run_of_one_process(
    monkeypatch: pytest.MonkeyPatch, task: str, alone: bool
) -> None:
    """`srun --pty bash` is task 0; `srun -n 4 emohead train` would train four times in one folder."""
    for name, value in {**STEP, "SLURM_NTASKS": "4", "SLURM_PROCID": task}.items():
        monkeypatch.setenv(name, value)
    if alone:
        assert environment(TrainerConfig()).world_size() == 1
        return
    with pytest.raises(UserError, match="another task of the job step"):
        environment(TrainerConfig())


def test_a_run_folder_below_a_file_is_one_line(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = [f"data.shards=[{demo / 'data'}]", f"run={tmp_path / 'file' / 'run'}", "data.batch_size=2"]
    done = emohead("train", "emotion", "-c", demo / "emotion" / "config.yaml", *settings)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("file/run: Not a directory")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "setting", ["optimizer.lr=-1", "seed=-1", "data.window_frames=1e7", "data.batch_size=10000000"]
)
def test_values_that_cannot_be_meant_are_one_line(demo: Path, tmp_path: Path, setting: str) -> None:
    settings = [f"data.shards=[{demo / 'data'}]", f"run={tmp_path / 'run'}", "data.batch_size=2", setting]
    done = emohead("train", "emotion", "-c", demo / "emotion" / "config.yaml", *settings)
    assert done.returncode == 2, done.stderr
    assert [setting.split("=")[0] in line for line in done.stderr.splitlines()].count(True) == 1, done.stderr
    assert "Traceback" not in done.stderr
