"""Install the project, as it lies here, and all its pinned requirements beside the Python that runs this.

    python -m venv .venv && .venv/bin/python requirements/install.py

A torch that is there already, such as that of a container, stays, and its torchvision. A build of torch without CUDA
is taken where pip finds one, as with PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu (pinned for Python 3.11
on x86).
"""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]


def install(name: str, quiet: bool = False) -> bool:
    """Whether that worked; if not, the whole installation ends with pip's words, unless it is a `quiet` try."""
    command = [*PIP, "--require-hashes", "--no-build-isolation", "-r", str(HERE / name)]
    failed = subprocess.run(command, stderr=subprocess.DEVNULL if quiet else None).returncode
    if failed and not quiet:
        sys.exit(f"requirements/{name} cannot be installed: what pip says of it stands above")
    return not failed


def main() -> None:
    install("build.txt")
    there = {distribution.name for distribution in metadata.distributions()}
    if "torch" in there and "torchvision" not in there:
        sys.exit("torch is installed without torchvision: install the one that fits it, or take another environment")
    if "torch" not in there:
        if not install("torch-cpu.txt", quiet=True):
            install("torch.txt")
            install("cuda.txt")  # nothing on systems that have no CUDA: each line says which it is for
        install("torchvision.txt")
    install("lock.txt")
    subprocess.run([*PIP, "--no-build-isolation", "--editable", str(HERE.parent)], check=True)


if __name__ == "__main__":
    main()
