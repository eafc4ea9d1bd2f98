"""The shape of the project: folders, imports in one direction, start-up time, configurations that parse."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from emohead.trainers.config import load_config
from emohead.trainers.run.train import STAGES

ROOT = Path(__file__).parent.parent
ORDER = ["models", "datamodules", "trainers", "apps"]  # a folder imports from itself and those before it
# all that data may know of networks
GEOMETRY = (
    "models.face_model",
    "models.face_model_fit",
    "models.ict",
    "models.bfm",
    "models.errors",
    "models.timing",
    "models.torchvision_ops",
)
TRAINING_ONLY = ("open_clip", "deepspeed", "pytorch_lightning", "lightning", "wandb", "webdataset", "omegaconf")
TRAINING_ONLY += ("torchvision", "mediapipe", "transformers")


def imported(path: Path) -> list[str]:
    """Modules of this package that a file imports, such as `models.errors`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module:
            found.append(node.module)
    return found


@pytest.mark.parametrize("path", [p for folder in ORDER for p in sorted((ROOT / folder).glob("*.py"))], ids=str)
def test_imports_go_one_way(path: Path):
    allowed = ORDER[: ORDER.index(path.parent.name)]
    for module in imported(path):
        assert module.split(".")[0] in allowed, f"{path.name} imports {module}"
        if path.parent.name == "datamodules":
            assert module in GEOMETRY, f"{path.name} imports {module}"


def test_evaluation_knows_no_stage():
    """Figures are of exported networks, whatever stage made them."""
    stages = {f"trainers.{path.stem}" for path in (ROOT / "trainers").glob("*.py")} - {"trainers.metrics"}
    for path in (ROOT / "trainers" / "evaluation").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                assert f"trainers.{node.module}" not in stages, f"{path.name} imports {node.module}"
            if isinstance(node, ast.ImportFrom) and node.level == 3:
                assert "datamodules.stream" not in str(node.module), f"{path.name} imports {node.module}"


def test_packages_are_listed():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"tests"}
    assert folders == {name.removeprefix("emohead.") for name in packages}


def test_command_line_starts_without_torch():
    code = (
        "import sys, emohead.apps.cli; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'cv2', 'omegaconf')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_talker_needs_no_training_library(demo: Path):
    """`Talker.load` with the training libraries blocked."""
    code = f"""
import sys
for name in {TRAINING_ONLY}:
    sys.modules[name] = None
import torch
from emohead.models.talker import Talker
talker = Talker.load({str(demo / "talker.safetensors")!r})
portrait = torch.zeros(1, 3, talker.size, talker.size, dtype=torch.uint8)
speech = torch.zeros(1, 16000)
emotions = talker.emotion_from_text("happy"), talker.emotion_from_image(portrait), talker.emotion_from_speech(speech)
for emotion in emotions:
    assert sum(len(chunk) for chunk in talker.animate(portrait, speech, emotion)) == 25
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_parse(path: Path):
    stage = path.stem.split("-")[0]
    assert path.read_text().startswith("#"), "a header says how to run it"
    load_config(STAGES[stage][1], [path], [])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_ships_a_debug_config(stage: str):
    assert (ROOT / "configs" / f"{stage}-debug.yaml").is_file()


def test_no_machine_paths():
    """No path of somebody's machine and no word of how the project is written."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in files:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".sh") and path.exists() and path != Path(__file__):
            assert not re.search(r"/work/|/home/\w+/", path.read_text()), name
