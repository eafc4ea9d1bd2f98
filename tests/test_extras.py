"""What each extra is for: inference needs none of the training packages, and a command that lacks one says which."""

import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from importlib.metadata import files, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .conftest import ROOT, emohead, refused

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MODULES = {"open_clip_torch": "open_clip"}  # the others are named as their distributions
# What an extra promises: modules that can be imported where nothing but it is installed.
PROMISED = {
    "": ("apps.infer", "models.talker", "datamodules.dataset.verify"),
    "train": (
        "trainers.run.train",
        "trainers.evaluation.video",
        "apps.evaluate",
        "apps.demo",
        "apps.doctor",
        "trainers.engines.deepspeed",
    ),
    "prepare": ("datamodules.prepare.run", "datamodules.corpora.mead", "apps.prepare", "datamodules.tracking.tracker"),
    "decord": ("datamodules.dataset.decode",),
    "speech": ("models.speech_encoder",),
    "judges": ("trainers.evaluation.judges",),
    "sweep": ("trainers.sweeps.worker", "trainers.sweeps.inputs", "apps.sweep_report", "apps.sweep_status"),
}
WITHOUT = """
import sys
hidden = set(sys.argv[1].split(","))
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
sys.argv = ["emohead", *sys.argv[2:]]
from emohead.apps.cli import main
main()
"""


def without(packages: tuple[str, ...], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command as if packages were not installed."""
    command = [sys.executable, "-c", WITHOUT, ",".join(packages), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def needed(extra: str) -> set[str]:
    """Names of the distributions that pip installs for `emohead[extra]`, by what they say of each other."""
    found: set[str] = set()
    waiting = [Requirement(f"emohead[{extra}]" if extra else "emohead")]
    seen: set[tuple[str, str]] = set()
    while waiting:
        need = waiting.pop()
        found.add(canonicalize_name(need.name))
        for chosen in {"", *need.extras} - {own for name, own in seen if name == need.name}:
            seen.add((need.name, chosen))
            for line in requires(need.name) or []:
                child = Requirement(line)
                if child.marker is None or child.marker.evaluate({"extra": chosen}):
                    waiting.append(child)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The Python of a fresh environment that holds what pip installs for an extra, as links, and nothing else."""

    def make(extra: str) -> Path:
        folder = tmp_path_factory.mktemp(extra or "core")
        venv.create(folder, symlinks=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "emohead").symlink_to(ROOT)
        for name in needed(extra) - {"emohead"}:
            for file in files(name) or []:
                top = Path(file).parts[0]
                if top not in ("..", "__pycache__") and not (site / top).exists():
                    (site / top).symlink_to(Path(str(file.locate())).parents[len(Path(file).parts) - 1] / top)
        return folder / "bin" / "python"

    return make


@pytest.mark.parametrize("extra", list(PROMISED))
def test_an_extra_alone_is_enough_for_what_it_promises(extra: str, alone: Callable[[str], Path]) -> None:
    python = alone(extra)
    own = [need for need in map(Requirement, EXTRAS.get(extra, [])) if need.name != "emohead"]
    here = [need.name for need in own if need.marker is None or need.marker.evaluate()]
    packages = [MODULES.get(name, name.replace("-", "_")) for name in here]
    modules = [*(f"emohead.{module}" for module in PROMISED[extra]), *packages]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = subprocess.run([python, "-c", code, *modules], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_inference_needs_no_extra(demo: Path, tmp_path: Path, alone: Callable[[str], Path]) -> None:
    command = [alone(""), "-m", "emohead.apps.cli", "infer", demo / "talker.safetensors", "--out", tmp_path / "v.mp4"]
    command += ["--portrait", demo / "portrait.png", "--speech", demo / "speech.wav", "--text", "happy", "--no-crop"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "v.mp4").exists()


@pytest.mark.parametrize(
    ("hidden", "command", "extra"),
    [
        ("pytorch_lightning", ["train", "emotion"], "train"),
        ("omegaconf", ["doctor", "emotion"], "train"),
        ("torchmetrics", ["evaluate", "talker.safetensors", "data"], "train"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(hidden: str, command: list[str], extra: str) -> None:
    refused(without((hidden,), *command), f"pip install 'emohead[{extra}]'")


def test_all_is_all_that_users_may_want() -> None:
    (everything,) = EXTRAS["all"]
    assert (
        Requirement(everything).extras
        == EXTRAS.keys() - {"all", "dev", "bench", "tensorboard"}
        == PROMISED.keys() - {""}
    )


def test_the_version_is_told() -> None:
    assert emohead("--version").stdout.strip() == version("emohead")
