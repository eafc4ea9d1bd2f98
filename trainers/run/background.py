"""Writes checkpoints while the training goes on: a thread of each rank writes its part, that of rank 0 all the rest.

The threads tell each other what they wrote through the store of the process group. A collective operation of theirs
would get in the way of those of the training.
"""

import json
import os
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ...models.errors import Failure
from ...models.files import OF_THE_DISK
from ..engines.ranks import num_ranks, rank
from .checkpoints import Checkpoints, Entry, Report
from .part_file import Part

LONG = timedelta(days=1)  # that a rank may take to write: the watchdog looks after those that hang
PATIENCE = 20.0  # seconds that a run which ends by an error waits for the other ranks' parts


@dataclass
class Save:
    """A checkpoint that is to be written."""

    stage: str
    step: int
    state: dict[str, Any]
    part: Part  # of this rank
    frozen: Part | None  # weights that never change; rank 0's, at its first save


class Background:
    """At most one write under way. Made once the ranks have joined."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.store: Any = None
        if num_ranks() > 1:
            store: Any = dist.distributed_c10d._get_default_store()  # torch's stub lacks `clone`
            self.store = store.clone()  # a connection of its own: whoever waits for an answer keeps it busy
            self.store.set_timeout(LONG)
        self.thread: threading.Thread | None = None
        self.own_part = threading.Event()  # is written, or has failed, or there is none to write
        self.own_part.set()
        self.failed = False
        self.error: Exception | None = None
        self.frozen: Entry | None = None  # the file of weights that never change, once it is there

    def begin(self, save: Save) -> None:
        """Start to write. What `save` holds must stay as it is until `finish` has returned."""
        assert self.thread is None
        self.own_part.clear()
        self.thread = threading.Thread(target=self._work, args=(save,), name="checkpoint", daemon=True)
        self.thread.start()

    def finish(self) -> None:
        """Wait until the write under way counts; if it has failed, on whatever rank, raise its error on all of them."""
        self.own_part.wait()
        self.wait_for_others()
        if self.error is not None:
            error, self.error = self.error, None
            if self.store is not None:
                dist.barrier()  # whoever has heard it leaves, rank 0 with the store
            raise error

    def wait_for_others(self, patience: float | None = None) -> bool:
        """Wait for the other ranks' parts, once the own one is written; False if they took too long."""
        if self.thread is not None:
            self.thread.join(patience)
            if self.thread.is_alive():
                return False
        self.thread = None
        return True

    def leave(self, report: Report) -> None:
        """For a run that has failed: wait as well, but not for ever, since others may be gone, and raise nothing."""
        self.own_part.wait()
        if not self.wait_for_others(PATIENCE):
            report("the last checkpoint was not completed: other ranks did not write their part")
        elif self.error is not None:
            report(f"the last checkpoint was not written: {self.error}")

    def _work(self, save: Save) -> None:
        told: dict[str, Any]
        try:
            told = {"entries": self._write(save)}
        except Exception as error:
            told = {"error": words(error, self.checkpoints.path(save.step))}
        self.own_part.set()
        try:
            verdict = self._agree(save, told)
        except Exception as error:  # the store is gone, or the disk was full in the end
            verdict = words(error, self.checkpoints.path(save.step))
        self.error = error_of(verdict) if verdict else None
        self.failed = bool(verdict)

    def _write(self, save: Save) -> list[Entry]:
        entries = [self.checkpoints.write(save.step, rank(), save.part)]
        if save.frozen is not None:
            self.frozen = self.checkpoints.write_frozen(save.frozen)
        return [*entries, self.frozen] if self.frozen and rank() == 0 else entries

    def _agree(self, save: Save, told: dict[str, Any]) -> dict[str, Any] | None:
        """Rank 0 completes the checkpoint once all have told it of their part -> the error of any rank, on all."""
        key = f"checkpoint/{save.step}"
        if rank():
            self.store.set(f"{key}/{rank()}", json.dumps(told))
            return json.loads(self.store.get(key))
        everyone = [told]
        for other in range(1, num_ranks()):
            everyone.append(json.loads(self.store.get(f"{key}/{other}")))
            self.store.delete_key(f"{key}/{other}")
        verdict = next((each["error"] for each in everyone if "error" in each), None)
        if verdict is None:
            try:
                entries = [entry for each in everyone for entry in each["entries"]]
                self.checkpoints.complete(save.stage, save.step, save.state, entries)
            except Exception as error:
                verdict = words(error, self.checkpoints.path(save.step))
        if verdict:
            self.checkpoints.give_up(save.step)
        if self.store is not None:
            self.store.set(key, json.dumps(verdict))
        return verdict


def words(error: Exception, path: Path) -> dict[str, Any]:
    """An error as it goes from one rank to another."""
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return {"errno": error.errno, "file": str(error.filename or path)}
    return {"text": f"{path}: not written ({type(error).__name__}: {' '.join(str(error).split())[:200]})"}


def error_of(words: dict[str, Any]) -> Exception:
    if "text" in words:
        return Failure(words["text"])
    return OSError(words["errno"], os.strerror(words["errno"]), words["file"])
