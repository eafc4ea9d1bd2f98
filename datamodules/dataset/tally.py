"""The content of shards, added up clip by clip: counts and motion statistics. A data set's tally makes its manifest.

Tallies of parts of a data set merge, and can be written down until then. Order and parts do not matter: sums of motion
are exact fractions, which come to the same digits in any order, as floating-point numbers do not. D values of motion.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ...models.face_model import FaceModel
from ..sample import FPS, SPLITS, Rejected
from .manifest import Manifest, MotionStatistics, Shard, SplitSummary, describe_shard


@dataclass
class Moments:
    """Sums over frames of each motion value and of its square."""

    count: int = 0  # of frames
    total: list[Fraction] = field(default_factory=list)  # (D,)
    square: list[Fraction] = field(default_factory=list)  # (D,)

    def add(self, motion: np.ndarray) -> None:
        """Add the frames of a clip, motion (T, D). Rounding happens within the clip only, around its own mean."""
        count, motion = len(motion), motion.astype(np.float64)
        centre = motion.mean(axis=0)
        spread = ((motion - centre) ** 2).sum(axis=0)
        means = [Fraction(value) for value in centre.tolist()]
        square = [Fraction(value) + count * mean**2 for value, mean in zip(spread.tolist(), means, strict=True)]
        self.merge(Moments(count, [count * mean for mean in means], square))

    def merge(self, other: "Moments") -> None:
        self.count += other.count
        self.total = [a + b for a, b in zip_longest(self.total, other.total, fillvalue=Fraction(0))]
        self.square = [a + b for a, b in zip_longest(self.square, other.square, fillvalue=Fraction(0))]

    def statistics(self) -> MotionStatistics:
        if not self.count:
            return MotionStatistics()
        means = [total / self.count for total in self.total]
        variances = [square / self.count - mean**2 for square, mean in zip(self.square, means, strict=True)]
        return MotionStatistics(self.count, [float(mean) for mean in means], [math.sqrt(value) for value in variances])

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it, fractions as texts."""
        return {"count": self.count, "total": [str(v) for v in self.total], "square": [str(v) for v in self.square]}

    @classmethod
    def of_dict(cls, content: Mapping[str, Any]) -> "Moments":
        return cls(content["count"], *([Fraction(text) for text in content[name]] for name in ("total", "square")))


@dataclass
class Tally:
    """Finished shards, what each split holds, and the motion of the train split by emotion."""

    shards: list[Shard] = field(default_factory=list)
    splits: dict[str, SplitSummary] = field(default_factory=dict)
    motion: dict[str, Moments] = field(default_factory=dict)  # "none" if a clip has no label

    def add_clip(self, split: str, record: Mapping[str, Any], motion: np.ndarray | None) -> None:
        """Count a clip by its record in the index. Its motion (T, D) enters the statistics if it is for training.

        Motion that is not finite stays out of them: `emohead shards verify` names the clip.
        """
        emotions = {record["emotion"] or "none": {str(record["level"] or "none"): 1}}
        silent = int(record.get("silent", False))
        one = SplitSummary(1, record["frames"] / FPS, {record["identity"]: 1}, emotions, silent)
        _merge_summary(self.splits.setdefault(split, SplitSummary()), one)
        if split == "train" and motion is not None and np.isfinite(motion).all():
            self.motion.setdefault(record["emotion"] or "none", Moments()).add(motion)

    def add_shard(self, path: Path, name: str, split: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Count a finished tar, which lies at `path` now."""
        self.shards.append(describe_shard(path, name, split, records))

    def merge(self, other: "Tally") -> None:
        """Add what another part of the data set holds."""
        self.shards += other.shards
        for split, summary in other.splits.items():
            _merge_summary(self.splits.setdefault(split, SplitSummary()), summary)
        for emotion, moments in other.motion.items():
            self.motion.setdefault(emotion, Moments()).merge(moments)

    def as_dict(self) -> dict[str, Any]:
        """The tally as JSON can hold it, fractions as texts."""
        return asdict(self) | {"motion": {emotion: moments.as_dict() for emotion, moments in self.motion.items()}}

    @classmethod
    def of_dict(cls, content: Mapping[str, Any]) -> "Tally":
        """The tally that `as_dict` was called on."""
        return cls(
            [Shard(**shard) for shard in content["shards"]],
            {name: SplitSummary(**split) for name, split in content["splits"].items()},
            {emotion: Moments.of_dict(moments) for emotion, moments in content["motion"].items()},
        )

    def manifest(
        self,
        *,
        codec: str,
        size: int,
        face_model: FaceModel,
        rejected: Sequence[Rejected],
        preparation: Mapping[str, Any] | None = None,
    ) -> Manifest:
        return Manifest(
            codec=codec,
            size=size,
            face_model={
                "checksum": face_model.checksum(),
                "kind": face_model.kind,
                "num_identity": face_model.num_identity,
                "num_expression": face_model.num_expression,
            },
            shards=sorted(self.shards, key=lambda shard: (SPLITS.index(shard.split), shard.name)),
            splits={name: self.splits[name] for name in SPLITS if name in self.splits},
            motion={emotion: self.motion[emotion].statistics() for emotion in sorted(self.motion)},
            rejected=list(rejected),
            rejected_counts=dict(sorted(Counter(clip.code for clip in rejected).items())),
            preparation=dict(preparation or {}),
        )


def _merge_summary(summary: SplitSummary, other: SplitSummary) -> None:
    summary.clips += other.clips
    summary.silent += other.silent
    summary.seconds = round(summary.seconds + other.seconds, 2)  # a frame is 0.04 s
    _add_counts(summary.identities, other.identities)
    for emotion, levels in other.emotions.items():
        _add_counts(summary.emotions.setdefault(emotion, {}), levels)


def _add_counts(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count
