"""Which clips are read: the configuration, the checks that data sets fit together, and the selection."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...models.errors import UserError
from ...models.face_model import MIN_STD
from ..dataset.index import person
from ..dataset.manifest import REBUILD, Shard, group_name
from ..dataset.reader import DECODERS, ClipReader, StoredClip
from ..face_models.pool import different_models
from ..sample import EMOTIONS, LEVELS, SPLITS
from ..storage.cache import Cache
from ..storage.folder import open_folder
from .mixture import MixedOrder, whole_shares
from .order import EpochOrder, Order


@dataclass
class DataConfig:
    """Which clips are read, and how. Empty selections take everything, clips without a label included."""

    shards: list[str] = field(default_factory=list)  # folders that `emohead prepare` wrote, or their URLs
    weights: list[float] = field(default_factory=list)  # one for each of `shards`; empty: every clip once an epoch
    batch_size: int = 8  # global: shared out evenly among the ranks
    size: int = 0  # pixels a side of the frames; 0: as stored
    window_frames: int = 50  # T: frames of speech and motion of a sample
    num_workers: int = 2  # of each rank; 0: load in the main process
    prefetch: int = 2  # batches that each worker has ready
    window_shards: int = 16  # shards that are shuffled into each other
    train_splits: list[str] = field(default_factory=lambda: ["train"])
    val_splits: list[str] = field(default_factory=lambda: ["val"])
    emotions: list[str] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    cross_clip: float = 0.0  # share of training's pairs (face, distill) whose portrait is of the person's other clips
    holdout_emotions: list[str] = field(default_factory=list)  # neither trained nor validated on: unseen in evaluation
    decoder: str = "pyav"  # of H.264; or decord
    cache: str = ""  # a folder on a local disk that keeps what was read of URLs; empty: none
    cache_gb: float = 100.0  # size it may grow to, all processes of a machine together
    max_bad_share: float = 0.001  # of the clips may be damaged before a run stops; 3 always may


# What changes no sample: a run may go on with other values of these.
FREE = ("num_workers", "prefetch", "cache", "cache_gb", "max_bad_share")


@dataclass
class SelectedClips:
    """Those of one shard, as positions in it."""

    positions: list[int]
    people: dict[tuple[str, str], list[int]]  # by identity and view: who may lend each other a portrait


class ClipSource:
    """The selected clips of several data sets as one list of shards.

    Where `cross_clip` is above 0, clips know their relatives: the other selected clips of their shard that show the
    same person from the same view.
    """

    def __init__(
        self, readers: list[ClipReader], config: DataConfig, splits: list[str], *, cross_clip: float = 0.0
    ) -> None:
        self.readers, self.config, self.cross_clip = readers, config, cross_clip
        self.shards: list[tuple[int, int]] = []  # reader, shard in it
        self.counts: list[int] = []
        self.counts_of: list[list[int]] = [[] for _ in readers]  # the same, data set by data set
        for i, reader in enumerate(readers):
            for j, shard in enumerate(reader.manifest.shards):
                if shard.split in splits:
                    self.shards.append((i, j))
                    self.counts.append(sum(shard.groups[name] for name in self._selected_groups(shard)))
                    self.counts_of[i].append(self.counts[-1])
        self._selected: dict[int, SelectedClips] = {}  # of a few shards at a time

    @property
    def num_clips(self) -> int:
        return sum(self.counts)

    @property
    def emotions(self) -> list[str]:
        """Emotions that the selected clips have, in the order of EMOTIONS."""
        groups = [name for i, j in self.shards for name in self._selected_groups(self.readers[i].manifest.shards[j])]
        present = {name.split("/")[0] for name in groups}
        return [emotion for emotion in EMOTIONS if emotion in present]

    def training_order(self, seed: int) -> Order:
        """The endless order in which training reads the clips."""
        c = self.config
        if not c.weights:
            return EpochOrder(self.counts, seed=seed, window_shards=c.window_shards)
        return MixedOrder(self.counts_of, c.weights, seed=seed, window_shards=c.window_shards)

    def clip(self, shard: int, sample: int) -> StoredClip:
        """The clip at a place of an order over `counts`."""
        i, j = self.shards[shard]
        reader = self.readers[i]
        if shard not in self._selected:
            while len(self._selected) >= reader.max_open_shards:
                self._selected.pop(next(iter(self._selected)))
            self._selected[shard] = self._select(reader, j)
            if len(self._selected[shard].positions) != self.counts[shard]:
                raise UserError(f"{reader.shard(j).address}: its index and the manifest do not agree; {REBUILD}")
        selected = self._selected[shard]
        clip = reader.clip_at(j, selected.positions[sample])
        if self.cross_clip:
            people = selected.people[person(clip.record)]
            clip.relatives = [position for position in people if position != clip.position]
        return clip

    def _select(self, reader: ClipReader, shard: int) -> SelectedClips:
        wanted = set(self._selected_groups(reader.manifest.shards[shard]))
        samples = reader.shard(shard).samples
        names = [group_name(s["emotion"], s["level"], s["view"]) for s in samples]
        positions = [position for position, name in enumerate(names) if name in wanted]
        people: dict[tuple[str, str], list[int]] = {}
        for position in positions:
            people.setdefault(person(samples[position]), []).append(position)
        return SelectedClips(positions, people)

    def _selected_groups(self, shard: Shard) -> list[str]:
        c = self.config
        chosen = (set(c.emotions), {str(level) for level in c.levels}, set(c.views))
        names = [name.split("/", 2) for name in shard.groups if name.split("/")[0] not in c.holdout_emotions]
        return ["/".join(name) for name in names if all(not c or n in c for n, c in zip(name, chosen, strict=True))]


def open_readers(config: DataConfig) -> list[ClipReader]:
    """One reader for each of `config.shards`; those of URLs share a cache."""
    cache = Cache(config.cache, int(config.cache_gb * 1e9)) if config.cache else None
    most = 2 * max(config.window_shards, 16)  # the windows that two batches may lie in
    return [ClipReader(at, config.decoder, most, open_folder(at, cache)) for at in config.shards]


def pooled_statistics(readers: list[ClipReader]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) of the motion of all train splits together."""
    parts = [reader.manifest.motion for reader in readers if reader.manifest.motion.count]
    if not parts:
        raise UserError(f"{readers[0].folder}: no clip in the split 'train', so motion has no statistics; prepare some")
    weights = np.array([part.count for part in parts], np.float64)
    weights /= weights.sum()
    means, stds = np.array([part.mean for part in parts]), np.array([part.std for part in parts])  # (data sets, D)
    mean = weights @ means
    std = np.sqrt(weights @ (stds**2 + (means - mean) ** 2))
    return mean.astype(np.float32), np.maximum(std, MIN_STD).astype(np.float32)


def check_alike(readers: list[ClipReader], config: DataConfig) -> None:
    """Data sets can be mixed only in one face model, and frames only at one size."""
    first = readers[0]
    for reader in readers[1:]:
        if reader.manifest.face_model["checksum"] != first.manifest.face_model["checksum"]:
            raise UserError(different_models(first.folder, reader.folder))
        if not config.size and reader.manifest.size != first.manifest.size:
            sizes = f"{first.folder} ({first.manifest.size}) and {reader.folder} ({reader.manifest.size})"
            raise UserError(f"data.shards: {sizes} have frames of different sizes; set data.size")


def check_config(config: DataConfig) -> None:
    """Refuse values that cannot be meant."""
    if not config.shards:
        raise UserError(
            "data.shards: empty; give the folders that `emohead prepare` wrote, such as data.shards=[data/mead]"
        )
    chosen: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
        "emotions": (config.emotions, EMOTIONS),
        "holdout_emotions": (config.holdout_emotions, EMOTIONS),
        "levels": (config.levels, LEVELS),
        "train_splits": (config.train_splits, SPLITS),
        "val_splits": (config.val_splits, SPLITS),
        "decoder": ([config.decoder], DECODERS),
    }
    for name, (values, valid) in chosen.items():
        for value in values:
            if value not in valid:
                raise UserError(f"data.{name}: {value!r} is none of {', '.join(map(str, valid))}")
    for name in ("batch_size", "window_frames", "window_shards", "prefetch"):
        if getattr(config, name) < 1:
            raise UserError(f"data.{name}={getattr(config, name)}: must be 1 or more")
    for name in ("num_workers", "size", "max_bad_share"):
        if getattr(config, name) < 0:
            raise UserError(f"data.{name}={getattr(config, name)}: must be 0 or more")
    if not 0 <= config.cross_clip <= 1:
        raise UserError(f"data.cross_clip={config.cross_clip}: must be from 0 to 1")
    if config.cache and not config.cache_gb > 0:
        raise UserError(f"data.cache_gb={config.cache_gb}: must be more than 0")
    if config.weights:
        check_weights(config)


def check_weights(config: DataConfig) -> None:
    """Refuse weights that are not one for each data set, or that leave one out."""
    shards, weights = config.shards, config.weights
    if len(weights) != len(shards):
        raise UserError(f"data.weights: {len(weights)} of them for {len(shards)} data.shards; wanted is one for each")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"data.weights={weights}: wanted are numbers above 0; leave out of data.shards what is unused")
    for folder, share in zip(shards, whole_shares(weights), strict=True):
        if share == 0:
            raise UserError(f"data.weights: {folder} has less than a ten-thousandth; give it more or leave it out")


def check_selection(source: ClipSource, config: DataConfig) -> None:
    """Refuse a selection that leaves nothing, or nothing of a data set that has a weight."""
    names = ("train_splits", "emotions", "levels", "views", "holdout_emotions")
    selection = ", ".join(f"data.{name}={getattr(config, name)}" for name in names if getattr(config, name))
    for counts, folder in zip(source.counts_of, config.shards, strict=True):
        if config.weights and not sum(counts):
            raise UserError(f"{folder}: no clip for training is selected, but it has a weight; {selection}")
    if not source.num_clips:
        raise UserError(f"{', '.join(config.shards)}: no clip for training is selected by {selection}; ask for less")
