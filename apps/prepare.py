"""`emohead prepare`: data sets in, a table of what was kept and left out."""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ..datamodules.prepare.listing import SourceList
from ..datamodules.sample import FPS, SPLITS
from ..models.errors import UserError
from .arguments import emotions_of
from .prepare_commands import PrepareOptions
from .progress import Follow
from .shards import info

if TYPE_CHECKING:
    from ..datamodules.prepare.run import PrepareReport
    from ..models.face_model import FaceModel

NAMED = 20  # rejected clips that are listed by name


def folder(source: Path, out: Path, options: PrepareOptions) -> None:
    """Prepare a folder of videos."""
    from ..datamodules.corpora.folder import read_folder

    _prepare(read_folder(source), source, out, options)


def mead(source: Path, out: Path, options: PrepareOptions, *, views: str, split: str) -> None:
    """Prepare MEAD."""
    from ..datamodules.corpora.mead import read_mead

    names = tuple(name.strip() for name in views.split(",") if name.strip())
    _prepare(read_mead(source, views=names, split=split, keep_silent=options.silent == "keep"), source, out, options)


def hdtf(source: Path, out: Path, options: PrepareOptions, *, annotations: Path | None) -> None:
    """Prepare HDTF."""
    from ..datamodules.corpora.hdtf import read_hdtf

    _prepare(read_hdtf(source, annotations=annotations, keep_silent=options.silent == "keep"), source, out, options)


def _prepare(listing: SourceList, source: Path, out: Path, options: PrepareOptions) -> None:
    """Run the passes; prints what was kept and what was left out."""
    from ..datamodules.prepare.gates import parse_gates
    from ..datamodules.prepare.run import prepare_sources
    from ..datamodules.prepare.work import PrepareConfig, load_face_model

    config = PrepareConfig(
        size=options.size,
        codec=options.codec,
        face_model=options.face_model,
        coefficients=options.coefficients,
        silent=options.silent,
        holdout_emotions=emotions_of(options.holdout_emotions),
        gates=parse_gates(options.gate or []),
    )
    if options.export_arkit:
        _check_arkit(load_face_model(config.face_model))
    with Follow() as follow:
        report = prepare_sources(
            listing,
            out,
            config,
            workers=options.workers,
            only=options.only,
            part=_part(options.part),
            progress=follow,
        )
    console = Console()
    for note in listing.notes:
        console.print(note, highlight=False, markup=False)
    if report.open:
        console.print(f"{out}: {report.open}", highlight=False, markup=False)
        return
    _print_report(report, f"{source} -> {out}", console)
    if options.export_arkit:
        from ..datamodules.face_models.arkit import export_arkit

        paths = export_arkit(out, out / "arkit")
        console.print(f"{out / 'arkit'}: {len(paths)} files of blendshapes", highlight=False)


def _check_arkit(model: "FaceModel | None") -> None:
    from ..datamodules.prepare.work import ICT

    if model is None or model.kind != ICT:
        raise UserError("--export-arkit", "only the ict face model has ARKit's blendshapes", "give it as --face-model")


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise UserError(f"--part {text}", "write it as I/N, such as 2/8")
    return int(match[1]), int(match[2])


def _print_report(report: "PrepareReport", title: str, console: Console) -> None:
    """Print the kept clips by split, the first rejected ones by name, and all rejected ones by code."""
    kept = Table(title=title)
    for column in ("split", "clips", "minutes", "residual", "sound shifted"):
        kept.add_column(column, justify="left" if column == "split" else "right")
    for split in SPLITS:
        infos = [info for info in report.kept if info.split == split]
        if infos:
            minutes = sum(info.frames for info in infos) / FPS / 60
            residual = sum(info.tracking_residual for info in infos) / len(infos)
            shifted = sum(info.av_shift != 0 for info in infos)
            kept.add_row(split, str(len(infos)), f"{minutes:.2f}", f"{residual:.2%}", str(shifted))
    console.print(kept)
    for clip in report.rejected[:NAMED]:
        console.print(f"left out: {clip.source}: {clip.reason}", highlight=False, markup=False)
    if len(report.rejected) > NAMED:
        console.print(f"... and {len(report.rejected) - NAMED} more: `emohead shards info` names all")
    for code, count in Counter(clip.code for clip in report.rejected).most_common():
        console.print(f"{count:6d} {code}", highlight=False)
    console.print(f"{len(report.kept)} clips kept, {len(report.rejected)} left out", highlight=False)
    if silent := sum(info.silent for info in report.kept):
        console.print(f"{silent} of them without sound: of the stages only `face` reads them", highlight=False)


def synthetic(
    out: Path, *, identities: int, clips: int, acted: float, seed: int, size: int, codec: str, workers: int
) -> None:
    """Make the synthetic corpus."""
    from ..datamodules.synthetic.corpus import SyntheticConfig, prepare_synthetic

    config = SyntheticConfig(identities=identities, clips=clips, acted=acted, seed=seed, size=size, workers=workers)
    with Follow() as follow:
        prepare_synthetic(out, config, codec=codec, progress=follow)
    info(out, compare=False)
