"""Parts that the evaluations of all stages share. Each is deterministic for a checkpoint and a seed."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

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
Interval = tuple[float, float]  # its lower and upper end
SHARES = ("accuracy", "top1")  # what figures end in of which a harmonic mean says something
ClipFigures = tuple[str | None, dict[str, float]]  # the emotion that a clip is labelled with, its figures by name

CONFIDENCE, RESAMPLES = 0.95, 1000
BOOTSTRAP = 2  # names the random numbers of resampling; any other would do


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
    means = {name: float(np.mean(values)) for name, values in of_clips(clips, unseen, apart).items()}
    return means | harmonic_means(means)


def intervals(
    clips: Sequence[ClipFigures], unseen: Sequence[str] = (), apart: Sequence[str] = (), *, seed: int = 0
) -> dict[str, Interval]:
    """Where the averages lie with 95 % of confidence, see `interval`; none for a figure that one clip alone has."""
    return {name: interval(values, seed) for name, values in of_clips(clips, unseen, apart).items() if len(values) > 1}


def interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Ends of the middle 95 % of the means of RESAMPLES bootstrap samples (Efron 1979) of values (n,), n > 1.

    The clips are taken for independent: with few people, whose clips are alike, the truth is less certain.
    """
    means = shares_drawn(len(values), seed) @ np.asarray(values, np.float64)
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


@lru_cache(maxsize=4)
def shares_drawn(count: int, seed: int) -> np.ndarray:
    """How often each of `count` clips is drawn in each bootstrap sample, over `count` (RESAMPLES, count)."""
    drawn = np.random.default_rng([seed, BOOTSTRAP]).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return drawn.astype(np.float32) / np.float32(count)


def of_clips(
    clips: Sequence[ClipFigures], unseen: Sequence[str] = (), apart: Sequence[str] = ()
) -> dict[str, list[float]]:
    """The values of each figure, clip by clip; see `averages`."""
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
    return found


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
