"""How fast videos become a data set: frames a second of each pass, and the most memory that a process took.

    python benchmarks/prepare.py clips/ --size 512 --workers 2 --repeat 3

Each video is taken `--repeat` times, as so many sources. The data set is written to a temporary folder.
"""

import argparse
import dataclasses
import resource
import tempfile
import time
from pathlib import Path

from emohead.datamodules.folder import read_folder
from emohead.datamodules.prepare import PASSES, prepare_sources
from emohead.datamodules.prepare_work import PrepareConfig


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
    with tempfile.TemporaryDirectory() as out:
        for name in PASSES:
            started = time.monotonic()
            report = prepare_sources(listing, out, config, workers=options.workers, only=name)
            seconds[name] = time.monotonic() - started
    kind = f"{options.size} pixels, {options.codec}, {options.workers} workers"
    print(f"{len(report.kept)} clips, {report.frames} frames, {kind}")
    for name, value in (*seconds.items(), ("all", sum(seconds.values()))):
        print(f"{name:5s} {value:7.1f} s {report.frames / value:7.1f} frames/s")
    for label, who in (("this process", resource.RUSAGE_SELF), ("largest worker", resource.RUSAGE_CHILDREN)):
        print(f"peak memory of {label}: {resource.getrusage(who).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
