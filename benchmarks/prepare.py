"""How fast videos become a data set: frames a second of each pass, and the most memory that a process took.

    python benchmarks/prepare.py clips/ --size 512 --workers 2 --repeat 3

Each video is taken `--repeat` times, as so many sources. The data set is written to a temporary folder. Memory is
looked at after each clip: what the largest worker holds after a tenth of them and at the end says whether it is flat.
"""

import argparse
import dataclasses
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

from emohead.datamodules.corpora.folder import read_folder
from emohead.datamodules.prepare.run import PASSES, prepare_sources
from emohead.datamodules.prepare.work import PrepareConfig


class Memory:
    """Follows a pass, and notes what its largest worker holds (MiB) as clips are done."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[float, float]]] = {}  # pass -> (share of its clips done, MiB)

    def __call__(self, done: int, total: int, label: str) -> None:
        held = [resident(child.pid) for child in multiprocessing.active_children()]
        if held and total:
            self.seen.setdefault(label.split(",")[0], []).append((done / total, max(held)))

    def report(self) -> None:
        for name, seen in self.seen.items():
            early = [mib for share, mib in seen if 0.1 <= share <= 0.2]
            late = [mib for share, mib in seen if share >= 0.9]
            if early and late:
                grown = f"{max(early):.0f} MiB after a tenth of the clips, {max(late):.0f} MiB at the end"
                print(f"largest worker of {name}: {grown}")


def resident(process: int | None) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="videos of talking faces")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--codec", default="h264")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()

    listing = read_folder(options.folder)
    listing.sources = [
        dataclasses.replace(source, name=f"{number}/{source.name}")
        for number in range(options.repeat)
        for source in listing.sources
    ]
    config = PrepareConfig(size=options.size, codec=options.codec, clips_per_shard=4)
    seconds: dict[str, float] = {}
    memory = Memory()
    with tempfile.TemporaryDirectory() as out:
        for name in PASSES:
            started = time.monotonic()
            report = prepare_sources(listing, out, config, workers=options.workers, only=name, progress=memory)
            seconds[name] = time.monotonic() - started
    kind = f"{options.size} pixels, {options.codec}, {options.workers} workers"
    print(f"{len(report.kept)} clips, {report.frames} frames, {kind}")
    for name, value in (*seconds.items(), ("all", sum(seconds.values()))):
        print(f"{name:5s} {value:7.1f} s {report.frames / value:7.1f} frames/s")
    memory.report()
    for label, who in (("this process", resource.RUSAGE_SELF), ("largest worker", resource.RUSAGE_CHILDREN)):
        print(f"peak memory of {label}: {resource.getrusage(who).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
