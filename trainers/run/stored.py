"""A checkpoint that is read: any range of values of its tensors, wherever their parts lie."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor


class Stored:
    """One that has been verified. Files are mapped into memory, so that only what is asked for is read."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.stage: str = manifest["stage"]
        self.step: int = manifest["step"]
        self.state: dict[str, Any] = manifest["state"]
        self.files: list[dict[str, Any]] = manifest["files"]
        self.tensors: dict[str, tuple[list[int], list[list[int]]]] = manifest["tensors"]  # as of `table`
        self.open: dict[int, Any] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def part(self, name: str, start: int, numel: int) -> Tensor:
        """Values `start` to `start + numel` of the flattened tensor. Not to be written to."""
        found = []
        for number, first, count in self.tensors[name][1]:
            begin, end = max(start, first), min(start + numel, first + count)
            if begin < end or numel == 0:
                found.append(self._file(number).get_slice(name)[begin - first : end - first])
        return found[0] if len(found) == 1 else torch.cat(found)

    def whole(self, name: str) -> Tensor:
        shape = self.shape(name)
        return self.part(name, 0, shape.numel()).view(shape)

    def shape(self, name: str) -> torch.Size:
        return torch.Size(self.tensors[name][0])

    def frozen(self) -> dict[str, Any] | None:
        """The file of weights that never change, as an entry for the next manifest; None if all are trained."""
        for number, file in enumerate(self.files):
            if file["name"].startswith(".."):
                whole = {name: shape for name, (shape, ranges) in self.tensors.items() if ranges[0][0] == number}
                return file | {"pieces": {name: (shape, 0, math.prod(shape)) for name, shape in whole.items()}}
        return None

    def under(self, network: str) -> "Under":
        return Under(self, network)

    def _file(self, number: int) -> Any:
        if number not in self.open:
            self.open[number] = safe_open(self.folder / self.files[number]["name"], framework="pt")
        return self.open[number]


class Under:
    """The tensors called `NETWORK.…`, without that prefix: what an engine loads."""

    def __init__(self, stored: Stored, network: str) -> None:
        self.stored, self.prefix = stored, f"{network}."

    def __contains__(self, name: object) -> bool:
        return f"{self.prefix}{name}" in self.stored

    def part(self, name: str, start: int, numel: int) -> Tensor:
        return self.stored.part(f"{self.prefix}{name}", start, numel)
