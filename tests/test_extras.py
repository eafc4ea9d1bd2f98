"""What each extra is for: inference needs none of the training packages, and a command that lacks one says which."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from .conftest import ROOT, emohead, refused

TRAIN = ("pytorch_lightning", "lightning_fabric", "deepspeed", "open_clip", "torchvision", "torchmetrics", "webdataset")
TRAIN += ("wandb", "omegaconf", "fsspec", "ai_edge_litert", "decord", "optuna", "transformers", "onnxruntime")
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


def test_inference_needs_no_extra(demo: Path, tmp_path: Path) -> None:
    files = ["--portrait", demo / "portrait.png", "--speech", demo / "speech.wav", "--out", tmp_path / "v.mp4"]
    done = without(TRAIN, "infer", demo / "talker.safetensors", *files, "--text", "happy", "--no-crop")
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
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(everything.removeprefix("emohead[").removesuffix("]").split(",")) == set(extras) - {
        "all",
        "dev",
        "bench",
    }


def test_the_version_is_told() -> None:
    assert emohead("--version").stdout.strip() == version("emohead")
