"""Install the project, as it lies here, and all its pinned requirements beside the Python that runs this.

    python -m venv .venv && .venv/bin/python requirements/install.py [--pinned-torch]

A torch that is there already, such as that of a container, stays with its torchvision, unless the pinned one is asked
for. A build of torch without CUDA is taken where pip finds one, as with
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu (pinned for Python 3.11 on x86).
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


def install_torch(kept: bool) -> None:
    """The pinned torch and the torchvision that fits it, or those that are there."""
    held = {distribution.name: distribution.version for distribution in metadata.distributions()}
    if kept and "torch" in held:
        if "torchvision" not in held:
            sys.exit("torch is there without torchvision: install the one that fits it, or say --pinned-torch")
        print(f"torch {held['torch']} and torchvision {held['torchvision']} stay")
        return
    if not install("torch-cpu.txt", quiet=True):
        install("torch.txt")
        install("cuda.txt")
    install("torchvision.txt")
    print(f"torch {metadata.version('torch')}")


def main() -> None:
    install("build.txt")
    install_torch(kept="--pinned-torch" not in sys.argv)
    install("lock.txt")
    if subprocess.run([*PIP, "--no-build-isolation", "--editable", str(HERE.parent)]).returncode:
        sys.exit("emohead itself cannot be installed: what pip says of it stands above")


if __name__ == "__main__":
    main()
