"""The selection of clips, and the checks that it leaves something and that data sets fit together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...models.errors import UserError
from ...models.face_model import MIN_STD
from ..config import DataConfig
from ..dataset.clip import StoredClip
from ..dataset.index import person
from ..dataset.manifest import REBUILD, SILENT_GROUP, Shard, group_name
from ..dataset.reader import ClipReader
from ..sample import EMOTIONS
from ..storage.cache import Cache
from ..storage.folder import open_folder
from .groups import Counts, GroupedOrder
from .mixture import MixedOrder
from .order import EpochOrder, Order

FEW_SHARDS = 16  # may be open at a time, however small the windows are


@dataclass
class SelectedClips:
    """Those of one shard, as rows of its index."""

    rows: list[int]
    people: dict[tuple[str, str], list[int]]  # by identity and view: who may lend each other a portrait


class ClipSource:
    """The selected clips of several data sets as one list of shards.

    `heard` leaves out clips without sound. If `cross_clip` is above 0, clips know their relatives: the other selected
    clips of their shard that show the same person from the same view.
    """

    def __init__(
        self,
        readers: list[ClipReader],
        config: DataConfig,
        splits: list[str],
        *,
        heard: bool,
        cross_clip: float = 0.0,
    ) -> None:
        self.readers, self.config, self.heard, self.cross_clip = readers, config, heard, cross_clip
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
    def num_silent(self) -> int:
        """Clips that would be selected if they had sound."""
        shards = [self.readers[i].manifest.shards[j] for i, j in self.shards] if self.heard else []
        return sum(count for shard in shards for name, count in shard.groups.items() if self._silent(name))

    @property
    def emotions(self) -> list[str]:
        """Emotions that the selected clips have, in the order of EMOTIONS."""
        groups = [name for i, j in self.shards for name in self._selected_groups(self.readers[i].manifest.shards[j])]
        present = {name.split("/")[0] for name in groups}
        return [emotion for emotion in EMOTIONS if emotion in present]

    def training_order(self, seed: int) -> Order:
        """The endless order in which training reads the clips."""
        c, counts = self.config, self.counts_of if self.config.weights else [self.counts]

        def order(counts: Counts) -> Order:
            if not c.weights:
                return EpochOrder(counts[0], seed=seed, window_shards=c.window_shards)
            return MixedOrder(counts, c.weights, seed=seed, window_shards=c.window_shards)

        if c.groups == 1:
            return order(counts)
        fewest = min(sum(map(bool, part)) for part in counts)
        if fewest < c.groups:
            of = "a data set has" if c.weights else "there are"
            raise UserError(f"data.groups={c.groups}", f"{of} {fewest} shards with selected clips", "lower it")
        return GroupedOrder(order, counts, groups=c.groups, batch_size=c.batch_size, seed=seed)

    def clip(self, shard: int, number: int) -> StoredClip:
        """The clip at a place of an order over `counts`."""
        i, j = self.shards[shard]
        reader = self.readers[i]
        if shard not in self._selected:
            while len(self._selected) >= reader.max_open_shards:
                self._selected.pop(next(iter(self._selected)))
            self._selected[shard] = self._select(reader, j)
            if len(self._selected[shard].rows) != self.counts[shard]:
                raise UserError(reader.shard(j).address, "its index and the manifest do not agree", REBUILD)
        selected = self._selected[shard]
        clip = reader.clip_at(j, selected.rows[number])
        if self.cross_clip:
            people = selected.people[person(clip.record)]
            clip.relatives = [row for row in people if row != clip.row]
        return clip

    def _select(self, reader: ClipReader, shard: int) -> SelectedClips:
        wanted = set(self._selected_groups(reader.manifest.shards[shard]))
        records = reader.shard(shard).records
        rows = [row for row, record in enumerate(records) if group_name(record) in wanted]
        people: dict[tuple[str, str], list[int]] = {}
        for row in rows:
            people.setdefault(person(records[row]), []).append(row)
        return SelectedClips(rows, people)

    def _selected_groups(self, shard: Shard) -> list[str]:
        names = filter(self._chosen, shard.groups)
        return [name for name in names if not (self.heard and name.endswith(SILENT_GROUP))]

    def _silent(self, group: str) -> bool:
        return group.endswith(SILENT_GROUP) and self._chosen(group)

    def _chosen(self, group: str) -> bool:
        """Whether the configuration asks for clips of a group, with sound or without."""
        c = self.config
        emotion, level, view = group.removesuffix(SILENT_GROUP).split("/", 2)
        chosen = ((emotion, c.emotions), (level, [str(level) for level in c.levels]), (view, c.views))
        return emotion not in c.holdout_emotions and all(not asked or own in asked for own, asked in chosen)


def open_readers(config: DataConfig) -> list[ClipReader]:
    """One reader for each of `config.shards`; those of URLs share a cache."""
    cache = Cache(config.cache, int(config.cache_gb * 1e9)) if config.cache else None
    most = 2 * max(config.window_shards * config.groups, FEW_SHARDS)  # the windows that two batches may lie in
    return [ClipReader(at, config.decoder, most, open_folder(at, cache)) for at in config.shards]


def pooled_statistics(readers: list[ClipReader], holdout_emotions: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) of the motion of all train splits together, without some emotions."""
    motions = [motion for reader in readers for motion in reader.manifest.motion.items()]
    parts = [part for emotion, part in motions if part.count and emotion not in holdout_emotions]
    if not parts:
        raise UserError(readers[0].folder, "no clip in the split 'train', so motion has no statistics", "prepare some")
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
            raise UserError(
                "data.shards",
                f"{first.folder} and {reader.folder} are in different face models, so they cannot be mixed",
                f"run `emohead facemodel fit {first.folder} {reader.folder} pooled.npz` and prepare both "
                "again with --face-model pooled.npz",
            )
        if not config.size and reader.manifest.size != first.manifest.size:
            sizes = f"{first.folder} ({first.manifest.size}) and {reader.folder} ({reader.manifest.size})"
            raise UserError("data.shards", f"{sizes} have frames of different sizes", "set data.size")


def check_selection(source: ClipSource, config: DataConfig) -> None:
    """Refuse a selection that leaves nothing, or nothing of a data set that has a weight."""
    names = ("train_splits", "emotions", "levels", "views", "holdout_emotions")
    selection = ", ".join(f"data.{name}={getattr(config, name)}" for name in names if getattr(config, name))
    silent = f"{source.num_silent} clips without sound aside, " if source.num_silent else ""
    for counts, folder in zip(source.counts_of, config.shards, strict=True):
        if config.weights and not sum(counts):
            raise UserError(folder, f"{silent}no clip for training is selected, but it has a weight", selection)
    if not source.num_clips:
        raise UserError(
            f"{', '.join(config.shards)}",
            f"{silent}no clip for training is selected by {selection}",
            "ask for less",
        )
