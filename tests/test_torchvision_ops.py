"""A torchvision whose compiled operators cannot be loaded is importable; one whose operators load is left alone."""

import subprocess
import sys
from pathlib import Path

import pytest

FAKE = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import torch
loaded = []
def load(path):
    loaded.append(Path(path).name)
    if {works}:
        global library
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    else:
        raise OSError("no such library: libcudart")
torch.ops.load_library = load
import emohead.datamodules
assert loaded == [{name!r}], loaded
import torchvision
"""


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("name", ["_C.so", "_C_stable.so"])
def test_operators_are_declared_once(name: str, works: bool, tmp_path: Path) -> None:
    """Twice is the end of the process: torch calls abort."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / name).touch()
    (package / "__init__.py").write_text("import torch\ntorch.ops.torchvision.nms\n")
    code = FAKE.format(folder=str(tmp_path), works=works, name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
