"""What several tests share: one tiny corpus, one tiny chain, the real clips where they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emohead.datamodules.folder import read_folder
from emohead.datamodules.prepare import prepare_sources

from .cluster import cluster  # noqa: F401 (a fixture)
from .pictures import picture, tone
from .talking_clips import SMALL, Talk, talks, write_talks

ROOT = Path(__file__).parent.parent
REAL_DATA = Path(os.environ.get("EMOHEAD_DATA", ROOT.parent / "shared" / "data"))

torch.set_num_threads(2)


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

    out = tmp_path_factory.mktemp("demo")
    run_demo(out, tiny=True)
    return out


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> list[Talk]:
    pytest.importorskip("mediapipe", reason="needs the extra `prepare`")
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
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=600)


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert that a command refused its input: exit code 2 and one line that holds the words, no traceback."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("emohead: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in lines[0], lines[0]
