"""Parts that the evaluations of all stages share. Each is deterministic for a checkpoint and a seed."""

from collections.abc import Callable, Sequence

import numpy as np

from ...datamodules.dataset.reader import ClipReader
from ...models.errors import UserError

Advance = Callable[[int], None]
ClipFigures = tuple[str | None, dict[str, float]]  # the emotion that a clip is labelled with, its figures by name


def no_advance(n: int) -> None:
    """For callers without a progress bar."""


def keys_of(reader: ClipReader, split: str, *, heard: bool = True) -> list[str]:
    """The clips of a split, those with sound only if that is `heard`; raises UserError if it has none."""
    keys = reader.keys(split, heard=heard)
    if not keys:
        raise UserError(
            reader.folder,
            f"its split '{split}' holds no clip" + (" with sound" if heard and reader.keys(split) else ""),
            "prepare more identities or name another split",
        )
    return keys


def averages(clips: Sequence[ClipFigures], unseen: Sequence[str] = (), apart: Sequence[str] = ()) -> dict[str, float]:
    """Each figure, averaged over the clips that have it.

    With emotions named in `unseen`, the figures named in `apart` are also given as `seen_…` and `unseen_…`: over the
    clips labelled with another emotion, and over those labelled with one of these. If either has no clip, neither is.
    """
    found: dict[str, list[float]] = {}
    for _, figures in clips:
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    for name in apart if unseen else ():
        groups: dict[str, list[float]] = {"seen_": [], "unseen_": []}
        for emotion, figures in clips:
            if emotion is not None and name in figures:
                groups["unseen_" if emotion in unseen else "seen_"].append(figures[name])
        if all(groups.values()):
            found |= {f"{group}{name}": values for group, values in groups.items()}
    return {name: float(np.mean(values)) for name, values in found.items()}
