"""Shards of URLs read whole, ahead of their use, into the cache: one request for a shard, not several for a sample.

A store answers some thousand requests a second, whatever their size; a thousand ranks that read each sample by ranges
ask for far more. So the shards of the window that samples are drawn from, and of the next one, are read whole, each by
one process of a machine. The order knows both windows beforehand, so reading ahead changes no sample.

The rule, with `data.read_ahead=auto`: shards are read whole if the cache holds two windows of each group that the
machine reads, and
- it holds all that is selected: then nothing is read twice; or
- the machine uses at least LEAST_SHARE of the clips in them. Of N machines each uses an N-th of those selected, or of a
  group's, so at most 1 / LEAST_SHARE as many bytes are read as the clips that are used have.
"""

import threading

from ...models.errors import UserError
from ..config import DataConfig
from ..dataset.index import read_index
from ..dataset.manifest import Shard
from ..storage.cache import KEEP
from ..storage.folder import PipeFolder, RemoteFile, RemoteFolder
from .order import Order
from .selection import ClipSource

LEAST_SHARE = 0.25  # of the clips in a window that a machine uses, for its shards to be read whole


def plan_reading(source: ClipSource, num_nodes: int) -> str:
    """Have the remote folders of a source read files whole, or by ranges; returns a line that says why, "" if none is.

    Raises UserError for what cannot be read by ranges and does not fit into the cache.
    """
    config, folders = source.config, [reader.files for reader in source.readers]
    remote = {i: folder for i, folder in enumerate(folders) if isinstance(folder, RemoteFolder)}
    shards: dict[int, list[Shard]] = {i: [] for i in remote}
    for (i, j), count in zip(source.shards, source.counts, strict=True):
        if count and i in remote:
            shards[i].append(source.readers[i].manifest.shards[j])
    piped = [folder for folder in remote.values() if isinstance(folder, PipeFolder)]
    if not remote:
        return ""
    selected = sum(sum(source.counts_of[i]) for i in remote)
    total = config.groups  # of which a machine reads those that its rows of a batch lie in, at most so many
    groups = max(-(-(n + 1) * total // num_nodes) - n * total // num_nodes for n in range(num_nodes))
    part = groups / config.groups  # of the shards
    used = selected / max(1, sum(shard.clips for each in shards.values() for shard in each)) / num_nodes / part
    sizes = [sorted(shard.bytes for shard in each) for each in shards.values()]
    whole, why = choose(config, sizes, used, groups=groups, part=part, must=bool(piped))
    if piped and not whole:
        raise UserError(piped[0].url, why, "set data.cache=DIR on a local disk, and a data.cache_gb that suffices")
    for folder in remote.values():
        folder.whole = whole
    how = "shards are read whole, ahead of use" if whole else "clips are read by ranges, several requests a sample"
    return f"{next(iter(remote.values())).url}: {how} ({why})"


def choose(
    config: DataConfig, sizes: list[list[int]], used: float, *, groups: int = 1, part: float = 1.0, must: bool
) -> tuple[bool, str]:
    """Whether shards are to be read whole, and why.

    `sizes`: bytes of the shards of each data set, the largest last; `groups`: of them that the machine reads, `part` of
    all; `used`: share of the clips in these that it uses; `must`: they cannot be read by ranges.
    """
    if not config.cache:
        return False, "data.cache names no folder on a local disk"
    room = int(KEEP * config.cache_gb * 1e9)
    windows = sum(sum(each[-2 * groups * config.window_shards :]) for each in sizes)
    told = f"two windows of {config.window_shards} shards take up to {windows / 1e9:.3g} GB"
    if config.groups > 1:
        told = f"{groups} of {config.groups} groups, {told}"
    if config.read_ahead == "never" and not must:
        return False, "data.read_ahead=never"
    if windows > room:
        return False, f"{told}, more than data.cache_gb={config.cache_gb:g} has room for"
    if config.read_ahead == "always" or must:
        return True, told
    if part * sum(map(sum, sizes)) <= room:
        return True, f"data.cache_gb={config.cache_gb:g} holds all of them"
    enough = used >= LEAST_SHARE
    told = f"this machine uses {used:.1%} of a window's clips; {told}"
    return enough, told if enough else f"{told}; data.groups gives each machine shards of its own"


class ReadAhead:
    """Reads the windows that one process draws from into the cache, in a thread of its own.

    What fails here is left out: whoever needs the shard meets the same error, and can tell it.
    """

    def __init__(self, source: ClipSource, order: Order) -> None:
        self.source, self.order = source, order
        self.windows: tuple[list[int], list[int]] = ([], [])
        self._news, self._ended = threading.Event(), False
        self._thread: threading.Thread | None = None

    def move_to(self, positions: range) -> None:
        """Tell which positions are read next, those of this rank in a batch."""
        if not any(isinstance(reader.files, RemoteFolder) and reader.files.whole for reader in self.source.readers):
            return
        windows = self.order.windows(positions)
        if windows == self.windows:
            return
        self.windows = windows
        self._news.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
            self._thread.start()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    def _run(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            files = self._files()
            for *_, file in files:  # so that what makes room for the last ones is not the first ones
                file.use()
            for folder, shard, file in files:
                if self._ended:
                    return
                if self._news.is_set():
                    break
                try:
                    read_index(folder, shard)
                    file.read_ahead()
                except UserError:
                    continue

    def _files(self) -> list[tuple[RemoteFolder, Shard, RemoteFile]]:
        """Those of both windows that are read whole."""
        found = []
        for i, j in (self.source.shards[shard] for window in self.windows for shard in window):
            folder, shard = self.source.readers[i].files, self.source.readers[i].manifest.shards[j]
            if isinstance(folder, RemoteFolder) and folder.whole:
                found.append((folder, shard, folder.open(shard.name, shard.content, shard.bytes)))
        return found
