"""The `data` section of a stage's configuration, and the checks of what stands in it."""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ..models.errors import UserError
from ..models.ranges import number, out_of_range
from .dataset.decode import DECODERS
from .sample import EMOTIONS, LEVELS, SPLITS

MAX_PERIOD = 10_000  # parts that the proportions of a mixture are rounded to


@dataclass
class DataConfig:
    """Which clips are read, and how. Empty selections take everything, clips without a label included."""

    shards: list[str] = field(default_factory=list)  # folders that `emohead prepare` wrote, or their URLs
    weights: list[float] = field(default_factory=list)  # one for each of `shards`; empty: every clip once an epoch
    batch_size: int = number(8, least=1)  # global: shared out evenly among the ranks
    size: int = 0  # pixels a side of the frames; 0: as stored
    window_frames: int = number(50, least=1)  # T: frames of speech and motion of a sample
    num_workers: int = 2  # of each rank; 0: load in the main process
    prefetch: int = number(2, least=1)  # batches that each worker has ready
    window_shards: int = number(16, least=1)  # shards that are shuffled into each other
    groups: int = number(1, least=1)  # parts of the shards, an equal share of every batch from each; one for a machine
    train_splits: list[str] = field(default_factory=lambda: ["train"])  # splits that are trained on
    val_splits: list[str] = field(default_factory=lambda: ["val"])  # splits that are validated on
    emotions: list[str] = field(default_factory=list)  # clips of these alone; empty: all
    levels: list[int] = field(default_factory=list)  # clips of these levels of emotion, 1 to 3; empty: all
    views: list[str] = field(default_factory=list)  # clips of these cameras, such as front; empty: all
    cross_clip: float = number(0.0, most=1)  # share of training's pairs with a portrait from another clip of the person
    holdout_emotions: list[str] = field(default_factory=list)  # neither trained nor validated on: unseen in evaluation
    decoder: str = "pyav"  # of H.264; or decord
    cache: str = ""  # a folder on a local disk that keeps what was read of URLs; empty: none
    cache_gb: float = number(100.0, above=0)  # size it may grow to, all processes of a machine together
    read_ahead: str = "auto"  # whole shards of URLs into the cache: auto, always, never
    max_bad_share: float = number(0.001, most=1)  # of the clips may be damaged before a run stops; 3 always may


READ_AHEAD = ("auto", "always", "never")

# What changes no sample: a run may go on with other values of these.
FREE = ("num_workers", "prefetch", "cache", "cache_gb", "read_ahead", "max_bad_share")


def check_config(config: DataConfig) -> None:
    """Refuse values that cannot be meant."""
    if not config.shards:
        raise UserError(
            "data.shards",
            "empty",
            "give the folders that `emohead prepare` wrote, such as 'data.shards=[data/mead]'",
        )
    chosen: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
        "emotions": (config.emotions, EMOTIONS),
        "holdout_emotions": (config.holdout_emotions, EMOTIONS),
        "levels": (config.levels, LEVELS),
        "train_splits": (config.train_splits, SPLITS),
        "val_splits": (config.val_splits, SPLITS),
        "decoder": ([config.decoder], DECODERS),
        "read_ahead": ([config.read_ahead], READ_AHEAD),
    }
    for name, (values, valid) in chosen.items():
        for value in values:
            if value not in valid:
                raise UserError(f"data.{name}", f"{value!r} is none of {', '.join(map(str, valid))}")
    if config.decoder == "decord" and importlib.util.find_spec("decord") is None:
        raise UserError("data.decoder=decord", "is not installed", "data.decoder=pyav, or pip install decord")
    if config.weights:
        check_weights(config)
    for error in out_of_range(config, "data."):
        raise error
    if uneven := uneven_batch(config.batch_size, config.groups, "data.groups"):
        raise uneven


def uneven_batch(size: int, parts: int, meaning: str) -> UserError | None:
    """The error of a global batch that cannot be cut into equal parts; meaning: how their number is named."""
    if size % parts == 0:
        return None
    return UserError(
        f"data.batch_size={size}", f"is no multiple of {meaning} = {parts}", nearest_batch_sizes(size, parts)
    )


def nearest_batch_sizes(size: int, step: int) -> str:
    """The settings next to a batch size that are multiples of a step."""
    below = size // step * step
    sizes = [str(wanted) for wanted in (below, below + step) if wanted]
    return "data.batch_size=" + " or ".join(sizes)


def check_weights(config: DataConfig) -> None:
    """Refuse weights that are not one for each data set, or that leave one out."""
    shards, weights = config.shards, config.weights
    if len(weights) != len(shards):
        raise UserError(
            "data.weights",
            f"{len(weights)} of them for {len(shards)} data.shards",
            "wanted is one for each",
        )
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(
            f"data.weights={weights}",
            "wanted are numbers above 0",
            "leave out of data.shards what is unused",
        )
    for folder, share in zip(shards, whole_shares(weights), strict=True):
        if share == 0:
            raise UserError("data.weights", f"{folder} has less than a ten-thousandth", "give it more or leave it out")


def whole_shares(weights: Sequence[float]) -> list[int]:
    """Weights as the smallest whole numbers of the same proportions: (0.7, 0.3) -> [7, 3].

    Proportions that need more than 10,000 parts are rounded to ten thousandths. A share may come out as 0.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(value.denominator for value in exact))
    shares = [int(value * scale) for value in exact]
    shares = [share // math.gcd(*shares) for share in shares]
    if sum(shares) <= MAX_PERIOD:
        return shares
    quotas = [value * MAX_PERIOD / sum(exact) for value in exact]
    shares = [int(quota) for quota in quotas]
    by_rest = sorted(range(len(shares)), key=lambda i: shares[i] - quotas[i])
    for i in by_rest[: MAX_PERIOD - sum(shares)]:
        shares[i] += 1
    return shares
