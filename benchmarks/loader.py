"""The cost of reading: samples a second and core of every stage, beside the decoder's limit and what others use.

    python benchmarks/loader.py --work /tmp/loader            # under 6 minutes, the first time
    python benchmarks/loader.py --work /tmp/loader --quick    # under 1 minute

Videos are those of $EMOHEAD_DATA (default ../shared/data); without them only the synthetic corpus is read. Every
contestant runs in this process, on one thread, in short rounds by turns, so that what else the machine does hits all
alike. Rates are samples a second of processor time, with files in the page cache; a ratio is the median of the ratios
of single rounds. Writes benchmarks/results/loader.json and loader.md.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numpy

import cv2
import torch
from loader_contestants import (
    Contestant,
    face_limit,
    lmdb_of_jpegs,
    packet_limit,
    plain_webdataset,
    stream,
    window_limit,
)
from loader_data import Files, real_files, synthetic_files
from loader_steps import StepTime, time_steps
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
TARGET_RATIO = 0.8  # of the decoder's limit
TARGETS = {("face", "mjpeg", 512): 300, ("face", "mjpeg", 256): 1000, ("face", "h264", 512): 45}  # samples/s and core
MAX_STEP_GROWTH = 0.03


@dataclass
class Row:
    """One contestant."""

    stage: str
    data: str  # "real" or "synthetic"
    files: str  # codec or kind of files
    size: int
    reader: str
    rate: float  # samples a second of one core
    rate_by_clock: float  # the same by the clock on the wall, which other work on the machine slows
    ratio: float | None = None  # to its limit
    target: float | None = None  # samples a second and core


@dataclass
class Entry:
    """A contestant to run, and the one that is its limit."""

    row: Row
    take: Contestant
    limit: int | None = None  # place of the limit in the group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the files, kept for the next time")
    parser.add_argument("--quick", action="store_true", help="two videos at 256, few rounds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for loader.json and loader.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    began, load = time.monotonic(), os.getloadavg()[0]
    rounds, seconds = (3, 0.15) if arguments.quick else (9, 0.3)
    real, made_up = make_files(arguments.work, arguments.quick)
    rows: list[Row] = []
    for size, files in real.items():
        rows += measure(face_group(files, "real", size), rounds, seconds)
    for size, files in list(real.items())[-1:]:
        for stage in ("motion", "emotion"):
            rows += measure(window_group(stage, files, "real", size), rounds, seconds)
    rows += measure(face_group(made_up, "synthetic", 128), rounds, seconds)
    rows += measure(window_group("motion", made_up, "synthetic", 128), rounds, seconds)
    last = list(real.values())[-1].packed["mjpeg"] if real else made_up.packed["mjpeg"]
    steps = time_steps(last, num_steps=4 if arguments.quick else 12)
    facts = machine() | {"load_before": load, "load_after": os.getloadavg()[0], "quick": arguments.quick}
    facts["seconds"] = round(time.monotonic() - began)
    report(rows, steps, facts, arguments.out)


def make_files(work: Path, quick: bool) -> tuple[dict[int, Files], Files]:
    """Real files by size, none without videos; and the synthetic ones."""
    work = work / ("quick" if quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    clips = Path(os.environ.get("EMOHEAD_DATA", ROOT.parent / "shared" / "data")) / "clips" / "hdtf"
    real: dict[int, Files] = {}
    if clips.is_dir():
        if quick:
            chosen = work / "videos"
            chosen.mkdir(exist_ok=True)
            for video in sorted(clips.glob("WDA*.mp4"))[:2]:
                shutil.copy(video, chosen)
            clips = chosen
        real = real_files(clips, work, (256,) if quick else (512, 256), workers=2)
    else:
        print(f"no videos at {clips}: only the synthetic corpus is read; set EMOHEAD_DATA")
    return real, synthetic_files(work, 128)


def face_group(files: Files, data: str, size: int) -> list[Entry]:
    """The face stage: each codec and backend with its limit, and the rivals."""

    def row(kind: str, reader: str, target: float | None = None) -> Row:
        return Row("face", data, kind, size, reader, 0.0, 0.0, target=target)

    group: list[Entry] = []
    for codec, folder in files.packed.items():
        for decoder in ("pyav", "decord") if codec == "h264" else ("simplejpeg",):
            chosen = {} if codec == "mjpeg" else {"decoder": decoder}
            target = TARGETS.get(("face", codec, size)) if data == "real" and decoder != "decord" else None
            group.append(Entry(row(codec, f"limit: {decoder}, bytes in memory"), face_limit(folder, **chosen)))
            ours = row(codec, f"emohead, {decoder}", target)
            group.append(Entry(ours, stream("face", folder, **chosen), limit=len(group) - 1))
        if codec == "h264":
            group.append(Entry(row(codec, "limit: pyav, packets in memory"), packet_limit(folder)))
    if files.jpegs is not None:
        group.append(Entry(row("LMDB of JPEGs", "PIL, ToTensor"), lmdb_of_jpegs(files.jpegs, files.packed["mjpeg"])))
    if files.gop250 is not None:
        group.append(Entry(row("tar of h264, GOP 250", "webdataset, decord"), plain_webdataset(files.gop250)))
    return group


def window_group(stage: str, files: Files, data: str, size: int) -> list[Entry]:
    """Windows of the motion or emotion stage in each codec with its limit."""
    group: list[Entry] = []
    for codec, folder in files.packed.items():
        limit = Row(stage, data, codec, size, "limit: read and decode", 0.0, 0.0)
        ours = Row(stage, data, codec, size, "emohead", 0.0, 0.0)
        group.append(Entry(limit, window_limit(stage, folder)))
        group.append(Entry(ours, stream(stage, folder), limit=len(group) - 1))
    return group


def measure(group: list[Entry], rounds: int, seconds: float) -> list[Row]:
    """Let all run by turns and fill in their rows."""
    for entry in group:
        for _ in range(3):
            entry.take()  # files into the page cache, libraries into memory
    rates = [[one_round(entry.take, seconds) for entry in group] for _ in range(rounds)]
    for number, entry in enumerate(group):
        entry.row.rate = statistics.median(rate[number][0] for rate in rates)
        entry.row.rate_by_clock = statistics.median(rate[number][1] for rate in rates)
        if entry.limit is not None:
            entry.row.ratio = statistics.median(rate[number][0] / rate[entry.limit][0] for rate in rates)
    return [entry.row for entry in group]


def one_round(take: Contestant, seconds: float) -> tuple[float, float]:
    """Samples a second: of processor time, and by the clock."""
    count, clock, start = 0, time.perf_counter(), time.process_time()
    while (spent := time.process_time() - start) < seconds:
        count += take()
    return count / spent, count / (time.perf_counter() - clock)


def machine() -> dict[str, object]:
    models = [line.partition(":")[2].strip() for line in cpu_lines() if line.startswith("model name")]
    names = ("av", "decord", "simplejpeg", "torch", "webdataset", "lmdb", "pillow")
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in names},
    }


def cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


# ---------------------------------------------------------------------------------------------- the report


HEAD = ("stage", "data", "files", "px", "reader", "samples/s a core", "of its limit", "target")


def report(rows: list[Row], steps: list[StepTime], facts: dict[str, object], out: Path) -> None:
    """Print the tables and write both files."""
    rates = Table(*HEAD, title="reading: one core, files in the page cache")
    for row in rows:
        rates.add_row(*cells(row))
    times = Table("stage", "batch held, ms", "batch read, ms", "longer by", "target", title="a step, 2 workers")
    for step in steps:
        times.add_row(*step_cells(step))
    console = Console(width=140)
    console.print(rates, times)
    console.print(notes(facts), highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    content = {"machine": facts, "rates": [asdict(row) for row in rows], "steps": [asdict(step) for step in steps]}
    (out / "loader.json").write_text(json.dumps(content, indent=1) + "\n")
    tables = [markdown(HEAD, [cells(row) for row in rows])]
    tables.append(
        markdown(("stage", "batch held, ms", "batch read, ms", "longer by", "target"), [step_cells(s) for s in steps])
    )
    (out / "loader.md").write_text("\n".join([*tables, notes(facts), ""]))


def cells(row: Row) -> tuple[str, ...]:
    ratio, target = "", ""
    if row.ratio is not None:
        ratio = f"{row.ratio:.0%}"
        target = f"{TARGET_RATIO:.0%}: {verdict(row.ratio >= TARGET_RATIO)}" if row.stage == "face" else ""
    if row.target is not None:
        target += f", {row.target:.0f}/s: {verdict(row.rate >= row.target)}"
    rate = f"{row.rate:.0f}" if row.rate >= 20 else f"{row.rate:.1f}"
    return row.stage, row.data, row.files, str(row.size), row.reader, rate, ratio, target


def step_cells(step: StepTime) -> tuple[str, ...]:
    target = f"{MAX_STEP_GROWTH:.0%}: {verdict(step.growth <= MAX_STEP_GROWTH)}"
    return step.stage, f"{step.held_ms:.0f}", f"{step.read_ms:.0f}", f"{step.growth:+.1%}", target


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def notes(facts: dict[str, object]) -> str:
    return (
        f"{facts['processor']}, {facts['cores']} cores, load {facts['load_before']:.1f} before and "
        f"{facts['load_after']:.1f} after; a face sample is two random frames, two windows of motion, landmarks; the "
        "step computes on one thread and shares the cores with the two workers."
    )


def markdown(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
