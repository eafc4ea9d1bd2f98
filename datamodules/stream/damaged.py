"""Samples that could not be used: each is named in a file, and a run that meets too many stops.

One line of JSON for each time that such a sample was read: which one, why, and where it would have been used. A sample
comes again in the next epoch, and a position that was read ahead comes again after a restart, so lines repeat; what is
compared with the limit is the number of different samples. The file is shared by all processes of a run and outlives
them: each appends whole lines and reads what the others appended.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...models.errors import UserError
from ..dataset.clip import DamagedClip
from .order import Place

BORNE = 3  # different bad samples that never stop a run, however small its data set
LISTED = 10


@dataclass
class BadSamples:
    """The bad samples of one order, `use` (train or val), over `num_clips` clips. Without a path they are only counted.

    A run goes on with up to BORNE of them, or `max_share` of the clips if that is more, but never without a good one.
    """

    path: Path | None
    use: str
    num_clips: int
    max_share: float
    seen: dict[tuple[str, str], str] = field(default_factory=dict)  # (shard, key) -> member and reason
    _read: int = 0  # bytes of the file that were looked at

    @property
    def limit(self) -> int:
        return min(max(BORNE, int(self.max_share * self.num_clips)), self.num_clips - 1)

    def add(self, error: DamagedClip, place: Place, **where: int) -> None:
        """Note a bad sample; `where`: its position, attempt, rank and worker. Raises UserError if they are too many."""
        sample = {"key": error.key, "shard": error.shard, "member": error.member, "reason": error.fault}
        entry: dict[str, Any] = sample | {"use": self.use, "epoch": place.epoch} | where
        self._count(entry)
        if self.path is not None:
            self._append(self.path, json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            self._catch_up(self.path)
        if len(self.seen) > self.limit:
            raise UserError(self.path or "data", *self._verdict())

    def _append(self, path: Path, line: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, line)  # in one piece: others append too
        finally:
            os.close(file)

    def _catch_up(self, path: Path) -> None:
        """Count what was appended since last time, by this process or another one."""
        with open(path, "rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):  # else it is being written
                self._read += len(line)
                try:
                    self._count(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    continue  # a machine that went down may leave half a line

    def _count(self, entry: dict[str, Any]) -> None:
        if entry["use"] == self.use:
            self.seen.setdefault((entry["shard"], entry["key"]), f"{entry['member']}: {entry['reason']}")

    def _verdict(self) -> tuple[str, str]:
        """Problem and remedy."""
        listing = "; ".join(f"{shard}: {key}.{why}" for (shard, key), why in list(self.seen.items())[:LISTED])
        more = f"; and {len(self.seen) - LISTED} more" if len(self.seen) > LISTED else ""
        repair = "all are in this file: delete it when they are repaired, or" if self.path else "repair them, or"
        bad = f"{len(self.seen)} of {self.num_clips} clips for {self.use} are bad, {self.limit} may be"
        return f"{bad}: {listing}{more}", f"{repair} raise data.max_bad_share={self.max_share}"
