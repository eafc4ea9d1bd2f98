"""The lock: it satisfies pyproject.toml on every Python that is supported, and every file in it has a hash."""

import re
import tomllib

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from .conftest import ROOT

FOLDER = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [
    pin
    for name in ("build.txt", "torch.txt", "cuda.txt", "torchvision.txt", "lock.txt")
    for pin in re.split(r"\n(?=\w)", (FOLDER / name).read_text().partition("\n")[2].strip())
]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(environment: dict[str, str]) -> dict[str, str]:
    """Versions by name, for a Python and a machine."""
    needs = [Requirement(pin.split("\\")[0].strip()) for pin in PINS]
    fitting = [need for need in needs if need.marker is None or need.marker.evaluate(environment)]
    versions = {normal(need.name): str(need.specifier).removeprefix("==") for need in fitting}
    assert len(versions) == len(fitting), "two versions of one package"
    return versions


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_satisfies_what_the_project_asks_for(python: str, machine: str) -> None:
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.5"}
    environment |= {"platform_machine": machine, "sys_platform": "linux"}
    versions = locked(environment)
    extras = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    for need in map(Requirement, [*PROJECT["dependencies"], *extras]):
        if need.name != "emohead" and (need.marker is None or need.marker.evaluate(environment)):
            assert need.specifier.contains(versions[normal(need.name)]), need


def test_every_pin_has_a_hash() -> None:
    assert len(PINS) > 100
    assert [pin for pin in PINS if not re.search(r"--hash=sha256:[0-9a-f]{64}", pin)] == []
    assert "==" in (FOLDER / "torch-cpu.txt").read_text()


def test_the_build_without_cuda_is_of_the_same_version() -> None:
    (cpu,) = re.findall(r"torch==(\S+)\+cpu --hash", (FOLDER / "torch-cpu.txt").read_text())
    assert locked(default_environment())["torch"] == cpu
