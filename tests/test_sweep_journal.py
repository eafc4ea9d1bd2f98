"""The record of a sweep outlives writers that die in the middle of a line and disks that lose its end."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import optuna
import pytest
from emohead.models.errors import UserError
from emohead.trainers.sweeps.journal import COPY, JOURNAL, open_storage


def study(folder: Path) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=open_storage(folder), load_if_exists=True)


def write(folder: Path, count: int) -> None:
    trial = study(folder).ask()
    for step in range(count):
        trial.report(step, step)


def values(folder: Path) -> list[list[float]]:
    return [list(trial.intermediate_values.values()) for trial in study(folder).get_trials()]


@pytest.mark.parametrize("torn", [JOURNAL, COPY])
@pytest.mark.parametrize("cut", [1, 7, 200])
def test_what_one_file_lost_comes_from_the_other(tmp_path: Path, torn: str, cut: int):
    write(tmp_path, 5)
    whole = (tmp_path / JOURNAL).read_bytes()
    os.truncate(tmp_path / torn, len(whole) - cut)
    write(tmp_path, 2)
    assert values(tmp_path) == [[0, 1, 2, 3, 4], [0, 1]]
    assert (tmp_path / JOURNAL).read_bytes() == (tmp_path / COPY).read_bytes()
    assert (tmp_path / JOURNAL).read_bytes().startswith(whole)


def test_a_half_line_is_cut(tmp_path: Path):
    write(tmp_path, 3)
    for name in (JOURNAL, COPY):
        with open(tmp_path / name, "ab") as file:
            file.write(b'{"op_code":7,"worker')
    write(tmp_path, 1)
    assert values(tmp_path) == [[0, 1, 2], [0]]


def test_a_copy_that_is_gone_is_made_again(tmp_path: Path):
    write(tmp_path, 3)
    (tmp_path / COPY).unlink()
    assert values(tmp_path) == [[0, 1, 2]]
    assert (tmp_path / COPY).read_bytes() == (tmp_path / JOURNAL).read_bytes()


def test_damage_in_the_middle_is_one_line(tmp_path: Path):
    write(tmp_path, 3)
    for name in (JOURNAL, COPY):
        lines = (tmp_path / name).read_bytes().splitlines(keepends=True)
        lines[2] = b"\x00" * (len(lines[2]) - 1) + b"\n"
        (tmp_path / name).write_bytes(b"".join(lines))
    with pytest.raises(UserError, match=r"journal.log: line 3 is not readable"):
        open_storage(tmp_path)


def test_writers_that_are_killed_lose_nothing_of_the_others(tmp_path: Path):
    study(tmp_path)
    context = multiprocessing.get_context("fork")
    lasting = [context.Process(target=write, args=(tmp_path, 40)) for _ in range(2)]
    for process in lasting:
        process.start()
    draws = random.Random(0)
    for _ in range(4):
        doomed = context.Process(target=write, args=(tmp_path, 1000))
        doomed.start()
        time.sleep(draws.uniform(0.05, 0.2))
        os.kill(doomed.pid or 0, signal.SIGKILL)
        doomed.join()
    for process in lasting:
        process.join(100)
        assert process.exitcode == 0
    found = values(tmp_path)
    assert sum(curve == list(range(40)) for curve in found) >= 2  # one that is killed may have come as far
    assert all(curve == list(range(len(curve))) for curve in found)
