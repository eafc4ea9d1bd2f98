"""Which clips are read: the configuration, the checks that data sets fit together, and the selection."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..models.errors import UserError
from .manifest import Shard, group_name
from .reader import DECODERS, ClipReader, StoredClip
from .sample import EMOTIONS, LEVELS, SPLITS

MIN_STD = 1e-4  # a motion value that never changes would be divided by zero


@dataclass
class DataConfig:
    """Which clips are read, and how. Empty selections take everything, clips without a label included."""

    shards: list[str] = field(default_factory=list)  # folders that `emohead prepare` wrote
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
    decoder: str = "pyav"  # of H.264; or decord


class ClipSource:
    """The selected clips of several data sets as one list of shards."""

    def __init__(self, readers: list[ClipReader], config: DataConfig, splits: list[str]) -> None:
        self.readers, self.config = readers, config
        self.shards: list[tuple[int, int]] = []  # reader, shard in it
        self.counts: list[int] = []
        for i, reader in enumerate(readers):
            for j, shard in enumerate(reader.manifest.shards):
                if shard.split in splits:
                    self.shards.append((i, j))
                    self.counts.append(sum(shard.groups[name] for name in self._selected_groups(shard)))
        self._selected: dict[int, list[int]] = {}  # shard -> positions of its selected clips; a few shards at a time

    @property
    def num_clips(self) -> int:
        return sum(self.counts)

    @property
    def emotions(self) -> list[str]:
        """Emotions that the selected clips have, in the order of EMOTIONS."""
        groups = [name for i, j in self.shards for name in self._selected_groups(self.readers[i].manifest.shards[j])]
        present = {name.split("/")[0] for name in groups}
        return [emotion for emotion in EMOTIONS if emotion in present]

    def clip(self, shard: int, sample: int) -> StoredClip:
        """The clip at a place of an order over `counts`."""
        i, j = self.shards[shard]
        reader = self.readers[i]
        if shard not in self._selected:
            while len(self._selected) >= reader.max_open_shards:
                self._selected.pop(next(iter(self._selected)))
            wanted = set(self._selected_groups(reader.manifest.shards[j]))
            names = [group_name(s["emotion"], s["level"], s["view"]) for s in reader.shard(j).samples]
            self._selected[shard] = [position for position, name in enumerate(names) if name in wanted]
        return reader.clip_at(j, self._selected[shard][sample])

    def _selected_groups(self, shard: Shard) -> list[str]:
        c = self.config
        chosen = (set(c.emotions), {str(level) for level in c.levels}, set(c.views))
        names = [name.split("/", 2) for name in shard.groups]
        return ["/".join(name) for name in names if all(not c or n in c for n, c in zip(name, chosen, strict=True))]


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
            raise UserError(
                f"data.shards: {first.folder} and {reader.folder} are in different face models, so they cannot be "
                "mixed; prepare one of them again with --face-model and the other's facemodel.npz"
            )
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
    for name in ("num_workers", "size"):
        if getattr(config, name) < 0:
            raise UserError(f"data.{name}={getattr(config, name)}: must be 0 or more")


def describe_selection(config: DataConfig) -> str:
    names = ("train_splits", "emotions", "levels", "views")
    return ", ".join(f"data.{name}={getattr(config, name)}" for name in names if getattr(config, name))
