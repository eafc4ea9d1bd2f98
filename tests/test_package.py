"""The shape of the project: folders, imports in one direction, start-up time, configurations that parse."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from emohead.trainers.all_stages import STAGES
from emohead.trainers.config import load_config

ROOT = Path(__file__).parent.parent
ORDER = ["models", "datamodules", "trainers", "apps"]  # a folder imports from itself and those before it
# all that data may know of networks
GEOMETRY = (
    "models.bfm",
    "models.cgroups",
    "models.errors",
    "models.face_model",
    "models.face_model_fit",
    "models.landmark_model",
    "models.files",
    "models.lock",
    "models.ict",
    "models.versions",
    "models.ranges",
    "models.timing",
    "models.torchvision_ops",
)
TRAINING_ONLY = ("open_clip", "deepspeed", "pytorch_lightning", "lightning", "wandb", "webdataset", "omegaconf")
TRAINING_ONLY += ("torchvision", "ai_edge_litert", "transformers")

# What the parts of a folder may import of each other; a part is a sub-package or a file.
SAMPLE = {"sample", "batch", "prompts", "emotion_words", "jobs"}
STORED = SAMPLE | {"tracking", "media", "storage", "dataset"}
DATA = dict.fromkeys(SAMPLE, SAMPLE) | {
    "tracking": set(),
    "media": SAMPLE | {"tracking"},
    "storage": SAMPLE,
    "dataset": SAMPLE | {"media", "storage"},
    "config": STORED,
    "stream": STORED | {"config"},
    "prepare": STORED,
    "synthetic": STORED,
    "face_models": STORED,
    "corpora": STORED | {"prepare.listing", "prepare.splits"},
    "module": STORED | {"config", "stream"},
}
PLAIN = {"config", "keys", "metrics", "contrast", "frozen", "inputs", "lightning_private", "optimizer", "tracking"}
LEARNING = PLAIN | {"engines", "stage", "augmentation", "face_augmentation", "portrait"}
STAGE_FILES = {"emotion", "motion", "face", "distill"}
TRAINING = dict.fromkeys(PLAIN, PLAIN) | {
    "engines": PLAIN,
    "augmentation": PLAIN | {"engines"},
    "face_augmentation": PLAIN | {"engines"},
    "portrait": PLAIN,
    "stage": LEARNING,
    **dict.fromkeys(STAGE_FILES, LEARNING | STAGE_FILES),
    "all_stages": LEARNING | STAGE_FILES,
    "run": LEARNING | {"all_stages"},
    "doctor": LEARNING | {"all_stages", "run", "emotion"},
    "sweeps": LEARNING | {"all_stages", "run", "doctor"},
    "evaluation": PLAIN,
}
PARTS = {"datamodules": DATA, "trainers": TRAINING}


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports, such as `models.errors`, wherever in the file it does so."""
    folders = path.relative_to(ROOT).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [name.name.split(".") for name in node.names]
            found |= {".".join(parts[1:]) for parts in names if parts[0] == "emohead"}
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            if node.level:
                parts = [*folders[: len(folders) + 1 - node.level], *parts]
            elif parts[0] == "emohead":
                parts = parts[1:]
            else:
                continue
            inside = {".".join([*parts, name.name]) for name in node.names if is_module([*parts, name.name])}
            found |= inside or {".".join(parts)}
    return found


def is_module(parts: list[str]) -> bool:
    path = ROOT.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file()


def files_of(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [path for folder in ORDER for path in files_of(folder)], ids=name_of)
def test_imports_go_one_way(path: Path):
    folder = path.relative_to(ROOT).parts[0]
    for module in imported(path):
        first = module.split(".")[0]
        assert first in ORDER[: ORDER.index(folder) + 1], f"{name_of(path)} imports {module}"
        if (folder, first) == ("datamodules", "models"):
            assert module in GEOMETRY, f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", [path for folder in PARTS for path in files_of(folder)], ids=name_of)
def test_imports_go_one_way_between_the_parts_of_a_folder(path: Path):
    folder, part = path.relative_to(ROOT).parts[:2]
    own = [module.split(".")[1:] for module in imported(path) if module.split(".")[0] == folder]
    if part == "__init__.py":
        assert not own, f"{name_of(path)} loads parts that nobody asked for"
        return
    part = part.removesuffix(".py")
    assert part in PARTS[folder], f"{name_of(path)}: say in PARTS what {part} may import"
    allowed = PARTS[folder][part] | {part}
    for names in own:
        module = ".".join(names)
        assert names[0] in allowed or module in allowed, f"{name_of(path)} imports {folder}.{module}"


def test_all_kinds_of_imports_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "datamodules" / "stream" / "file.py"
    path.parent.mkdir(parents=True)
    (tmp_path / "models").mkdir()
    for file in (tmp_path / "models" / "ict.py", path.parent / "order.py"):
        file.touch()
    path.write_text(
        "import os, emohead.apps.cli\n"
        "from pathlib import Path\n"
        "from ...models.errors import UserError\n"
        "from ...models import ict\n"
        "from ..sample import FPS\n"
        "from . import order\n"
        "def later():\n"
        "    from emohead.trainers.config import load_config\n"
    )
    beside = {"datamodules.sample", "datamodules.stream.order"}
    assert imported(path) == beside | {"apps.cli", "models.errors", "models.ict", "trainers.config"}


def test_packages_are_listed():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    tops = [top for top in ROOT.iterdir() if not top.name.startswith(".") and top.name != "tests"]
    folders = {path.parent.relative_to(ROOT) for top in tops for path in top.rglob("__init__.py")}
    assert {".".join(("emohead", *folder.parts)) for folder in folders} == set(packages)


def test_what_lies_beside_the_code_is_in_the_wheel():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in tool["packages"]:
        patterns = ["*.py", *tool["package-data"].get(package, [])]
        for path in ROOT.joinpath(*package.split(".")[1:]).iterdir():
            assert path.is_dir() or any(map(path.match, patterns)), f"{name_of(path)}: name it in package-data"


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


def test_training_on_prepared_clips_needs_no_library_of_films(demo: Path, tmp_path: Path):
    """As on a machine that has only what benchmarks/gpu_wheels.sh brings: frames are JPEGs, pictures are PNGs."""
    code = f"""
import sys
for name in ("av", "cv2", "wandb", "ai_edge_litert"):
    sys.modules[name] = None
from pathlib import Path
from emohead.trainers.run.train import train
settings = ["trainer.max_steps=2", "trainer.val_every=2", "trainer.accelerator=cpu", "tracking.wandb=disabled"]
train("face", [Path({str(demo / "face" / "config.yaml")!r})], [*settings, {f"run={tmp_path}/run"!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "samples").glob("*.png"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_parse(path: Path):
    stage = path.stem.split("-")[0]
    assert path.read_text().startswith("#"), "a header says how to run it"
    load_config(STAGES[stage].config_type, [path], [])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_ships_a_debug_config(stage: str):
    assert (ROOT / "configs" / f"{stage}-debug.yaml").is_file()


def test_no_machine_paths():
    """No path of somebody's machine and no word of how the project is written."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in files:
        path = ROOT / name
        readable = path.suffix in (".py", ".md", ".yaml", ".toml", ".sh", ".sbatch")
        if readable and path.exists() and path != Path(__file__):
            assert not re.search(r"/work/|/home/\w+/", path.read_text()), name


def test_files_named_in_the_code_exist():
    """A docstring or comment that names folder/file.py leads somewhere."""
    known = [name_of(path) for folder in [*ORDER, "benchmarks", "tests"] for path in files_of(folder)]
    folders = {part for name in known for part in name.split("/")[:-1]}
    for folder in ORDER:
        for path in files_of(folder):
            for name in re.findall(r"(?<![\w./-])\w+(?:/\w+)+\.py\b", path.read_text()):
                ours = name.split("/")[0] in folders  # and not of somebody else's project
                assert not ours or any(f"/{other}".endswith(f"/{name}") for other in known), f"{name_of(path)}: {name}"
