"""`emohead shards`: what a prepared data set holds, whether it is sound, and the same in another codec or size."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..datamodules.dataset.manifest import Manifest, load_manifest
from ..datamodules.sample import EMOTIONS, LEVELS, SPLITS
from ..models.errors import UserError
from .json_output import only_json, print_json
from .progress import Follow

GIGABYTE = 1e9


def info(out: Path, *, compare: bool = True, json: bool = False) -> None:
    """Print what a data set holds, and with `compare` what each codec would cost and give."""
    manifest = load_manifest(out)
    if json:
        print_json(_document(out, manifest))
        return
    console = Console()
    table = Table(title=f"{out}: {manifest.codec}, {manifest.size} px, face model {_face_model(manifest)}")
    for column in ("split", "shards", "clips", "without sound", "hours", "identities", "gigabytes"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name in SPLITS:
        split, tars = manifest.splits.get(name), [shard for shard in manifest.shards if shard.split == name]
        if split is not None:
            size = sum(shard.bytes for shard in tars) / GIGABYTE
            hours = f"{split.seconds / 3600:.3f}"
            row = (len(tars), split.clips, split.silent, hours, len(split.identities), f"{size:.3f}")
            table.add_row(name, *map(str, row))
    console.print(table)
    console.print(_emotions(manifest))
    if compare:
        _print_codecs(out, console)
    for rejected in manifest.rejected:
        console.print(f"left out: {rejected.source}: {rejected.reason}", highlight=False, markup=False)


def _document(out: Path, manifest: Manifest) -> dict[str, Any]:
    """All that `info` tells; null for the codecs where they cannot be compared."""
    from ..datamodules.dataset.estimate import estimate_codecs

    splits: dict[str, Any] = {}
    for name, split in manifest.splits.items():
        tars = [shard.bytes for shard in manifest.shards if shard.split == name]
        splits[name] = asdict(split) | {"shards": len(tars), "bytes": sum(tars)}
    with only_json(True):
        try:
            codecs = [asdict(estimate) for estimate in estimate_codecs(out)]
        except UserError as error:
            print(f"codecs not compared: {error}")
            codecs = None
    return {
        "folder": str(out),
        "codec": manifest.codec,
        "size": manifest.size,
        "face_model": manifest.face_model,
        "splits": splits,
        "codecs": codecs,
        "rejected": [asdict(rejected) for rejected in manifest.rejected],
    }


def _face_model(manifest: Manifest) -> str:
    return f"{manifest.face_model['kind']} {manifest.face_model['checksum'][:12]}"


def _emotions(manifest: Manifest) -> Table:
    """Clips by emotion and level, all splits together."""
    table = Table(title="clips by emotion and level")
    for column in ("emotion", *map(str, LEVELS), "no level"):
        table.add_column(column, justify="left" if column == "emotion" else "right")
    for emotion in (*EMOTIONS, "none"):
        counts = [split.emotions.get(emotion, {}) for split in manifest.splits.values()]
        row = [sum(count.get(level, 0) for count in counts) for level in (*map(str, LEVELS), "none")]
        if any(row):
            table.add_row(emotion, *map(str, row))
    return table


def _print_codecs(out: Path, console: Console) -> None:
    """Print the size and speed of each codec."""
    from ..datamodules.dataset.estimate import estimate_codecs

    try:
        estimates = estimate_codecs(out)
    except UserError as error:  # the manifest's counts are worth printing all the same
        console.print(f"codecs not compared: {error}", highlight=False, markup=False)
        return
    table = Table(title="either codec, measured here and now on excerpts of a few clips")
    for column in ("codec", "kB a frame", "gigabytes", "random frames/s a core"):
        table.add_column(column, justify="left" if column == "codec" else "right")
    for e in estimates:
        name, about = (f"{e.codec} (held)", "") if e.held else (e.codec, "about ")
        table.add_row(
            name, f"{about}{e.bytes_per_frame / 1e3:.1f}", f"{about}{e.gigabytes:.3f}", f"{e.frames_per_second:.0f}"
        )
    console.print(table)
    other = next(e.codec for e in estimates if not e.held)
    console.print(f"`emohead shards transcode {out} OUT --codec {other}` makes the other one", highlight=False)


def verify(out: Path, *, workers: int, decoder: str = "pyav", json: bool = False) -> bool:
    """Check a data set; prints each problem and returns whether there was none."""
    from ..datamodules.dataset.verify import verify_shards

    with only_json(json), Follow() as follow:
        problems = verify_shards(out, workers=workers, decoder=decoder, progress=follow)
    clips = sum(split.clips for split in load_manifest(out).splits.values())
    if json:
        print_json({"folder": str(out), "clips": clips, "problems": problems})
        return not problems
    for problem in problems:
        print(problem)
    print(f"{out}: {clips} clips checked, {len(problems)} problems")
    return not problems


def index(out: Path) -> None:
    """Rebuild the indexes of a folder of tars."""
    from ..datamodules.dataset.reindex import index_shards

    index_shards(out)
    info(out, compare=False)


def transcode(source: Path, out: Path, *, codec: str, size: int | None, workers: int) -> None:
    """Write a data set anew as another codec or frame size."""
    from ..datamodules.dataset.transcode import transcode as transcode_shards

    with Follow() as follow:
        transcode_shards(source, out, codec=codec, size=size, workers=workers, progress=follow)
    info(out, compare=False)
