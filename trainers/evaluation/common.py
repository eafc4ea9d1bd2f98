"""Parts that the evaluations of all stages share. Each is deterministic for a checkpoint and a seed."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.prompts import evaluation_prompts
from ...datamodules.sample import EMOTIONS
from ...models.emotion_student import EmotionEncoder
from ...models.errors import UserError

Advance = Callable[[int], None]
SHARES = ("accuracy", "top1")  # what figures end in of which a harmonic mean says something
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
    Of shares there is `harmonic_…` too, see `harmonic_means`.
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
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return means | harmonic_means(means)


def harmonic_means(figures: Mapping[str, float]) -> dict[str, float]:
    """`harmonic_…` of each share that `figures` have both as `seen_…` and as `unseen_…`: high only if both are."""
    found = {}
    for name, seen in figures.items():
        share = name.removeprefix("seen_")
        unseen = figures.get(f"unseen_{share}")
        if share != name and unseen is not None and share.endswith(SHARES):
            found[f"harmonic_{share}"] = 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0
    return found


def name_embeddings(encoder: EmotionEncoder, emotions: Sequence[str] = EMOTIONS) -> Tensor:
    """What stands for the name of each emotion (n, E): the mean of wordings that no training text has."""
    texts = [evaluation_prompts(emotion) for emotion in emotions]
    flat = encoder.encode_text([text for wordings in texts for text in wordings])
    return F.normalize(torch.stack([own.mean(dim=0) for own in flat.split([len(wordings) for wordings in texts])]))
