"""The checkpoints of a run: written aside and renamed, verified before they are used, of no particular number of ranks.

    checkpoints/step-00000400/
        weights.safetensors     what the stage saves, whole tensors
        optimizer.safetensors   what the optimizers remember of each parameter, whole tensors
        state.json              loss scales, skipped steps, number of ranks
        manifest.json           stage, step (the position in the data), sizes and SHA-256 of these; written last
    checkpoints/best.json       which of them were best on val

A folder of that name is complete: it was called `….partial` until all of it was on the disk. Nothing in it is a pickle,
and nothing is loaded from a folder that does not match its manifest.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...models.checkpoint import save_tensors
from ...models.files import write_json, writing

FORMAT = 1
PREFIX = "step-"
MANIFEST = "manifest.json"
Report = Callable[[str], None]


@dataclass
class Saved:
    """The contents of a checkpoint."""

    stage: str
    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]  # plain containers


class Checkpoints:
    """The folder of a run's checkpoints. Only rank 0 writes."""

    def __init__(self, folder: Path, *, keep_last: int = 2, keep_best: int = 1) -> None:
        self.folder = folder
        self.keep_last = keep_last
        self.keep_best = keep_best

    def steps(self) -> list[int]:
        """Steps of the complete ones, oldest first."""
        names = [path.name for path in self.folder.glob(f"{PREFIX}*")]
        return sorted(int(name.removeprefix(PREFIX)) for name in names if name.removeprefix(PREFIX).isdigit())

    def path(self, step: int) -> Path:
        return self.folder / f"{PREFIX}{step:08d}"

    def save(self, saved: Saved) -> Path:
        """Write a checkpoint and drop those that are neither among the last nor among the best."""
        final = self.path(saved.step)
        if final.is_dir():  # of the same run and step: it holds the same
            return final
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with writing(final):
                self._write(saved, partial)
                partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        flush(self.folder)
        self.prune()
        return final

    def _write(self, saved: Saved, partial: Path) -> None:
        partial.mkdir(parents=True)
        save_tensors(saved.weights, partial / "weights.safetensors")
        save_tensors(saved.optimizer, partial / "optimizer.safetensors")
        (partial / "state.json").write_text(json.dumps(saved.state, indent=1))
        files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in partial.iterdir()}
        manifest = {"format": FORMAT, "stage": saved.stage, "step": saved.step, "files": files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (*partial.iterdir(), partial):
            flush(path)

    def newest(self, report: Report) -> int | None:
        """Step of the newest one that matches its manifest. Damaged ones are reported and renamed `….damaged`."""
        self._sweep()
        for step in reversed(self.steps()):
            wrong = damage(self.path(step))
            if wrong is None:
                return step
            report(f"{self.path(step)}: damaged ({wrong}); passed over")
            aside = self.path(step).with_name(self.path(step).name + ".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            self.path(step).rename(aside)
        return None

    def load(self, step: int) -> Saved:
        """Read one that `newest` has verified."""
        folder = self.path(step)
        manifest = json.loads((folder / MANIFEST).read_text())
        state = json.loads((folder / "state.json").read_text())
        weights, optimizer = (load_file(folder / f"{name}.safetensors") for name in ("weights", "optimizer"))
        return Saved(manifest["stage"], manifest["step"], weights, optimizer, state)

    def best(self) -> list[tuple[float, int]]:
        """(score, step) of the best on val, best first; a higher score is better."""
        try:
            return [(score, step) for score, step in json.loads((self.folder / "best.json").read_text())]
        except (OSError, ValueError):
            return []

    def rank_best(self, score: float, step: int) -> bool:
        """Note the score of a step; True if it is among the best, so that its checkpoint is to be kept."""
        known = [(other, at) for other, at in self.best() if at != step]
        best = sorted([*known, (score, step)], key=lambda pair: (-pair[0], pair[1]))[: self.keep_best]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "best.json", best)
        return any(at == step for _, at in best)

    def prune(self) -> None:
        steps = self.steps()
        kept = {*steps[-self.keep_last :], *(step for _, step in self.best())}
        for step in steps:
            if step not in kept:
                # Renamed first: a folder that is only half deleted must not look complete.
                doomed = self.path(step).with_name(self.path(step).name + ".partial")
                self.path(step).rename(doomed)
                shutil.rmtree(doomed)

    def _sweep(self) -> None:
        for path in self.folder.glob("*.partial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def damage(folder: Path) -> str | None:
    """The fault of a checkpoint; None if every file is as its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            return f"of format {manifest['format']}, this emohead reads {FORMAT}"
        for name, wanted in manifest["files"].items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != wanted["bytes"] or sha256(path) != wanted["sha256"]:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        return f"{MANIFEST} is not readable: {' '.join(str(error).split())[:100]}"
    return None


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
