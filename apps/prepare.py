"""`emohead prepare`, `shards` and `facemodel`: data sets in, tables out."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..datamodules.manifest import Manifest, load_manifest
from ..datamodules.sample import EMOTIONS, LEVELS, SPLITS
from ..models.face_model import FaceModel
from .progress import Follow

GIGABYTE = 1e9


def folder(source: Path, out: Path, *, size: int, codec: str, workers: int, face_model: Path | None) -> None:
    """Prepare a folder of videos; prints what was kept and what was left out."""
    from ..datamodules.prepare import prepare_folder

    with Follow() as follow:
        report = prepare_folder(
            source, out, size=size, codec=codec, workers=workers, face_model=face_model, progress=follow
        )
    table = Table(title=f"{source} -> {out}")
    for column in ("clip", "frames", "split", "residual", "left out because"):
        table.add_column(column)
    for info in report.kept:
        table.add_row(info.key, str(info.frames), info.split, f"{100 * info.tracking_residual:.2f} %", "")
    for rejected in report.rejected:
        table.add_row(rejected.source, "", "", "", rejected.reason)
    console = Console()
    console.print(table)
    console.print(f"{len(report.kept)} clips kept, {len(report.rejected)} left out", highlight=False)


def synthetic(out: Path, *, identities: int, clips: int, seed: int, size: int, codec: str, workers: int) -> None:
    """Make the synthetic corpus."""
    from ..datamodules.synthetic import SyntheticConfig, prepare_synthetic

    config = SyntheticConfig(identities=identities, clips=clips, seed=seed, size=size, workers=workers)
    with Follow() as follow:
        prepare_synthetic(out, config, codec=codec, progress=follow)
    info(out)


def info(out: Path) -> None:
    """Print what a data set holds."""
    manifest = load_manifest(out)
    console = Console()
    table = Table(title=f"{out}: {manifest.codec}, {manifest.size} px, face model {_face_model(manifest)}")
    for column in ("split", "shards", "clips", "hours", "identities", "gigabytes"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name in SPLITS:
        split, tars = manifest.splits.get(name), [shard for shard in manifest.shards if shard.split == name]
        if split is not None:
            size = sum(shard.bytes for shard in tars) / GIGABYTE
            row = (len(tars), split.clips, f"{split.seconds / 3600:.3f}", len(split.identities), f"{size:.3f}")
            table.add_row(name, *map(str, row))
    console.print(table)
    console.print(_emotions(manifest))
    for rejected in manifest.rejected:
        console.print(f"left out: {rejected.source}: {rejected.reason}", highlight=False)


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


def verify(out: Path, *, workers: int) -> bool:
    """Check a data set; prints each problem and returns whether there was none."""
    from ..datamodules.verify import verify_shards

    with Follow() as follow:
        problems = verify_shards(out, workers=workers, progress=follow)
    for problem in problems:
        print(problem)
    clips = sum(split.clips for split in load_manifest(out).splits.values())
    print(f"{out}: {clips} clips checked, {len(problems)} problems")
    return not problems


def index(out: Path) -> None:
    """Rebuild the indexes of a folder of tars."""
    from ..datamodules.verify import index_shards

    index_shards(out)
    info(out)


def face_model_info(file: Path) -> None:
    """Print what a face model is."""
    model = FaceModel.load(file)
    axes = f"{model.num_identity} identity and {model.num_expression} expression axes"
    print(f"{file}: {model.kind}, {len(model.mean)} vertices, {axes}")
    print(f"checksum {model.checksum()}")
