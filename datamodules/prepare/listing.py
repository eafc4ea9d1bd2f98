"""The videos to prepare: the reader of each data set lists them as `Source`s."""

from dataclasses import dataclass, field
from pathlib import Path

from ...models.errors import printable
from ..sample import Rejected


@dataclass
class Source:
    """A video, or an interval of one, to prepare, and what is known about it."""

    path: Path
    name: str  # as reports call it: unique in the data set, usually the path inside its folder
    identity: str
    audio: Path | None = None  # the sound, if it lies in a file of its own
    start: float = 0.0  # seconds of the interval in the file
    stop: float | None = None  # None: to the end
    crop: tuple[int, int, int, int] | None = None  # left, top, width, height in pixels: where annotation puts the face
    split: str | None = None  # None: by identity
    emotion: str | None = None
    level: int | None = None
    view: str = "front"
    sentence: str | None = None

    def __post_init__(self) -> None:
        self.name, self.identity = printable(self.name), printable(self.identity)


@dataclass
class SourceList:
    """All of a data set, in the order in which it is packed."""

    dataset: str
    sources: list[Source]
    rejected: list[Rejected] = field(default_factory=list)  # what can be left out without opening a video
    split_rule: str = "identity"  # how splits come about, for the manifest
    notes: list[str] = field(default_factory=list)  # what else a user should know, one line each
