"""Fixtures that several tests share: one tiny corpus, one tiny chain, the real clips if there are any."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from emohead.datamodules.corpora.folder import read_folder
from emohead.datamodules.prepare.run import prepare_sources
from filelock import FileLock

from .cluster import cluster  # noqa: F401 (a fixture)
from .pictures import picture, tone
from .talking_clips import SMALL, Talk, talks, write_talks

ROOT = Path(__file__).parent.parent
REAL_DATA = Path(os.environ.get("EMOHEAD_DATA", ROOT.parent / "shared" / "data"))

# Under xdist a worker for each core; their tests' networks are too small for threads to help.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)

# Tests of a file share its fixtures, so they stay together; so do the tests of the one cluster. The longest
# groups begin, so that no worker is left with one of them at the end.
TOGETHER = dict.fromkeys(("test_slurm", "test_slurm_survival", "test_slurm_sweep"), "cluster")
LONGEST = ["cluster", "test_survival", "test_engines", "test_chain", "test_stream_resume", "test_fuzz", "test_watchdog"]


def group_of(name: str) -> str:
    return TOGETHER.get(name, name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        rank = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: rank.get(group_of(item.path.stem), len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(Path(nodeid.split("::")[0]).stem)

        def remove_node(self, node: Any) -> str | None:
            """A test that ended its worker failed: xdist would run it again and again, and wait for ever."""
            units = self.assigned_work[node]
            crashed = next((test for unit in units.values() for test, done in unit.items() if not done), None)
            for unit in units.values():
                if crashed in unit:
                    unit[crashed] = True
            self.assigned_work[node] = {name: unit for name, unit in units.items() if not all(unit.values())}
            super().remove_node(node)
            return crashed

    return Groups(config, log)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, shared by all workers of a test run."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = factory.mktemp(name)
        make(folder)
        return folder
    folder = factory.getbasetemp().parent / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.with_suffix(".made").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker in which `make` has failed
            folder.mkdir()
            make(folder)
            folder.with_suffix(".made").touch()
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real clips, speech and portraits, which are not part of the project."""
    if not (REAL_DATA / "index.csv").is_file():
        pytest.skip(f"no real data at {REAL_DATA}; set EMOHEAD_DATA")
    return REAL_DATA


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny demo: a corpus, four stages of two steps each, a talker, videos, a report."""
    from emohead.apps.demo import run_demo
    from emohead.apps.demo_plan import TINY

    return made_once(tmp_path_factory, "demo", lambda out: run_demo(out, plan=TINY))


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> list[Talk]:
    pytest.importorskip("ai_edge_litert", reason="needs the extra `prepare`")
    return talks(tmp_path_factory.mktemp("talks") / "data")


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory, spoken: list[Talk]) -> Path:
    """A folder of three short videos of three people, and one without a face."""
    folder = tmp_path_factory.mktemp("people")
    chosen = [(name, (frames[:30], speech)) for name, (frames, speech) in zip("abc", spoken[::2], strict=False)]
    list(write_talks(folder, [*chosen, ("faceless", (picture(frames=30), tone(1.2)))]))
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    report = prepare_sources(read_folder(people), out, SMALL)
    assert [info.split for info in report.kept] == ["train", "val", "test"]
    return out


def emohead(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "emohead.apps.cli", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=1200, env=environment)


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert that a command refused its input: exit code 2 and one line that holds the words, no traceback."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("emohead: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in lines[0], lines[0]
