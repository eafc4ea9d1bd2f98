"""Pin everything that the project may need, with hashes, for Python 3.11 to 3.13 on x86 and ARM. Needs uv:

    uvx --python 3.11 python requirements/lock.py

It writes files beside this one, which `install.py` installs in this order: build.txt, what sources are built with;
torch-cpu.txt where pip finds it, else torch.txt and cuda.txt, what builds of torch for CUDA need; torchvision.txt,
which fits that torch only; lock.txt, all else.
"""

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
# The version, and the build without CUDA for Python 3.11 on x86 of https://download.pytorch.org/whl/cpu: PyPI has none.
TORCH, CPU_BUILD = "2.13.0", "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
CONSTRAINTS = f"torch=={TORCH}\nbackports-strenum<1.3\n"  # uv overlooks that 1.3 is for Python before 3.11
FILES = {  # and the pins that each takes of those that are left
    "build.txt": r"setuptools==",
    "torch.txt": r"torch==",
    "cuda.txt": r"(nvidia|cuda|triton)\b",
    "torchvision.txt": r"torchvision==",
    "lock.txt": "",
}
HEAD = "# By requirements/lock.py.\n"


def main() -> None:
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--constraints", "-", "pyproject.toml"]
    command += [word for extra in ("all", "bench", "dev", "tensorboard") for word in ("--extra", extra)]
    done = subprocess.run(command, input=CONSTRAINTS, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent)
    pins = re.split(r"\n(?=\w)", done.stdout.strip())
    (HERE / "torch-cpu.txt").write_text(f"{HEAD}torch=={TORCH}+cpu --hash=sha256:{CPU_BUILD}\n")
    for name, pattern in FILES.items():
        part = [pin for pin in pins if re.match(pattern, pin)]
        pins = [pin for pin in pins if pin not in part]
        (HERE / name).write_text(HEAD + "\n".join(part) + "\n")


if __name__ == "__main__":
    main()
