"""The checkpoints of a run: written aside and renamed, verified before they are used, of no particular number of ranks.

    checkpoints/step-00000400/
        part-00000.safetensors  what rank 0 held: ranges of the values of tensors, see part_file.py
        part-00001.safetensors  what rank 1 held, and so on
        manifest.json           stage, step (the position in the data), state, size and SHA-256 of each file, and the
                                place of each range; written last
    checkpoints/frozen/SHA-256.safetensors   weights that never change, which manifests name; none if all are trained
    checkpoints/best.json       which of them were best on val

A folder of that name is complete: it was called `….partial` until all of it was on the disk. Nothing in it is a pickle,
and nothing is loaded from a folder that does not match its manifest.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...models.errors import UserError
from ...models.files import write_json, writing
from ..engines.ranks import all_objects, from_first, num_ranks, rank
from .part_file import Part, write_part
from .stored import Stored

FORMAT = 2
PREFIX = "step-"
MANIFEST = "manifest.json"
FROZEN = "frozen"
Report = Callable[[str], None]
Entry = dict[str, Any]  # name from the checkpoint's folder on, bytes, sha256, pieces: a file of a checkpoint


class Checkpoints:
    """The folder of a run's checkpoints. Each rank writes its part, rank 0 all the rest."""

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

    # ------------------------------------------------------------------------------------------ writing

    def write(self, step: int, number: int, part: Part) -> Entry:
        """Write the part of a rank; the checkpoint does not count before `complete`."""
        partial = partial_of(self.path(step))
        with writing(self.path(step)):
            partial.mkdir(parents=True, exist_ok=True)
        return write_part(partial / f"part-{number:05d}.safetensors", part)

    def write_frozen(self, part: Part) -> Entry:
        """Write weights that never change under the name of their content."""
        folder = self.folder / FROZEN
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "new.partial"
        entry = write_part(partial, part)
        partial.replace(folder / f"{entry['sha256']}.safetensors")
        flush(folder)
        return entry | {"name": f"../{FROZEN}/{entry['sha256']}.safetensors"}

    def complete(self, stage: str, step: int, state: dict[str, Any], entries: Iterable[Entry]) -> Path:
        """Have a checkpoint of these files count, and drop those that are neither among the last nor the best."""
        final = self.path(step)
        partial = partial_of(final)
        files = sorted(entries, key=lambda entry: entry["name"])
        for name in [entry["name"] for entry in files if entry["name"].startswith("..")]:
            (final.parent / FROZEN / Path(name).name).stat()  # raises if somebody has deleted it
        manifest = {"format": FORMAT, "stage": stage, "step": step, "state": state, **table(files)}
        with writing(final):
            (partial / MANIFEST).write_text(json.dumps(manifest | {"sha256": digest(manifest)}))
            for path in (partial / MANIFEST, partial):
                flush(path)
            partial.rename(final)
        flush(self.folder)
        self.prune()
        return final

    def give_up(self, step: int) -> None:
        shutil.rmtree(partial_of(self.path(step)), ignore_errors=True)

    # ------------------------------------------------------------------------------------------ reading

    def newest(self, report: Report) -> Stored | None:
        """The newest sound one, as of `sound`."""
        return self.sound(reversed(from_first(self.steps())), report)

    def kept_best(self) -> list[tuple[float, int]]:
        """Those of `best` whose checkpoint is there. For all ranks together."""
        steps = self.steps()
        return from_first([(score, step) for score, step in self.best() if step in steps])

    def sound(self, steps: Iterable[int], report: Report) -> Stored | None:
        """The first of some steps whose checkpoint matches its manifest.

        Damaged ones are reported and renamed `….damaged`.
        For all ranks together: each verifies its share of the files.

        Raises:
            UserError: it is of another format, or its frozen weights, which the older ones share, are damaged.
        """
        for step in steps:
            folder = self.path(step)
            manifest, wrong = from_first(read_manifest(folder) if rank() == 0 else ({}, None))
            if wrong is None and manifest["format"] != FORMAT:
                problem = f"of format {manifest['format']}, this emohead reads {FORMAT}"
                raise UserError(folder, problem, "end the run with the emohead that began it, or start a new one")
            if wrong is None:
                wrong = self._damaged_file(folder, manifest["files"])
            if wrong is None:
                return Stored(folder, manifest)
            if rank() == 0:
                report(f"{folder}: damaged ({wrong}); passed over")
                aside = folder.with_name(folder.name + ".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
        return None

    def _damaged_file(self, folder: Path, files: list[Entry]) -> str | None:
        own = files[rank() :: num_ranks()]
        faults = [fault for found in all_objects(damaged(folder, own)) for fault in found]
        for name, fault in faults:
            if name.startswith(".."):
                path = self.folder / FROZEN / Path(name).name
                raise UserError(
                    path, f"{fault}; all checkpoints need these frozen weights", "bring it back from a copy"
                )
        return f"{faults[0][0]} {faults[0][1]}" if faults else None

    def sweep(self) -> None:
        """Remove what a save has left that was interrupted."""
        for path in (*self.folder.glob("*.partial"), *(self.folder / FROZEN).glob("*.partial")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    # ------------------------------------------------------------------------------------------ which of them stay

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
        """Drop those that are neither among the last nor the best, and frozen weights that none of the rest names."""
        steps = self.steps()
        kept = {*steps[-self.keep_last :], *(step for _, step in self.best())}
        for step in steps:
            if step not in kept:
                # Renamed first: a folder that is only half deleted must not look complete.
                doomed = partial_of(self.path(step))
                self.path(step).rename(doomed)
                shutil.rmtree(doomed)
        frozen = list((self.folder / FROZEN).glob("*.safetensors"))
        if not frozen:
            return
        manifests = [read_manifest(self.path(step)) for step in self.steps()]
        if any(wrong for _, wrong in manifests):
            return  # it may name any of them
        named = {Path(entry["name"]).name for manifest, _ in manifests for entry in manifest["files"]}
        for path in frozen:
            if path.name not in named:
                path.unlink()


def table(entries: list[Entry]) -> dict[str, Any]:
    """The files of a manifest, and `tensors`: name -> shape and ranges (number of a file, start, count)."""
    tensors: dict[str, Any] = {}
    for number, entry in enumerate(entries):
        for name, (shape, start, numel) in entry["pieces"].items():
            tensors.setdefault(name, [shape, []])[1].append([number, start, numel])
    for name, (shape, ranges) in tensors.items():
        ranges.sort(key=lambda place: place[1])
        ends = [0, *(start + numel for _, start, numel in ranges)]
        assert [start for _, start, _ in ranges] == ends[:-1], f"{name}: ranges {ranges} overlap or leave gaps"
        assert ends[-1] == math.prod(shape), f"{name}: ranges {ranges} are not all of {shape}"
    return {
        "files": [{key: entry[key] for key in ("name", "bytes", "sha256")} for entry in entries],
        "tensors": tensors,
    }


def read_manifest(folder: Path) -> tuple[dict[str, Any], str | None]:
    """The manifest of a checkpoint and what is wrong with it, if anything. That of another format counts as sound."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        told = manifest.pop("sha256", None)
        if told is None and manifest["format"] != FORMAT:
            return manifest, None
        return manifest, None if told == digest(manifest) else f"{MANIFEST} does not match its checksum"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, f"{MANIFEST} is not readable: {' '.join(str(error).split())[:100]}"


def digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def damaged(folder: Path, entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """Names and faults of those files of a checkpoint that are not as its manifest says."""
    found = []
    for entry in entries:
        path = folder / entry["name"]
        if not path.is_file():
            found.append((entry["name"], "is missing"))
        elif path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]:
            found.append((entry["name"], "does not match its checksum"))
    return found


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def partial_of(path: Path) -> Path:
    """The name of a checkpoint that is not complete."""
    return path.with_name(path.name + ".partial")


def flush(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
