"""What the evaluations of all stages share. Each is deterministic for a checkpoint and a seed: see evaluation_*.py."""

from collections.abc import Callable

from ..datamodules.reader import ClipReader
from ..models.errors import UserError

Advance = Callable[[int], None]


def no_advance(n: int) -> None:
    """For callers without a progress bar."""


def keys_of(reader: ClipReader, split: str) -> list[str]:
    """The clips of a split; raises UserError where it has none."""
    keys = reader.keys(split)
    if not keys:
        raise UserError(
            f"{reader.folder}: its split '{split}' holds no clip; prepare more identities or name another split"
        )
    return keys
