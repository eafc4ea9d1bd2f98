"""`emohead evaluate`: the metrics of one checkpoint, as a table, as metrics.json and as metrics.csv."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..datamodules.reader import ClipReader
from ..datamodules.sample import EMOTIONS, SPLITS
from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.emotion import EmotionSpace
from ..models.errors import UserError
from ..models.face import FaceGenerator
from ..models.motion import AudioTo3DMM
from ..models.motion_critics import MotionCritics
from ..models.talker import Talker
from ..trainers.cpu import spare_cpu
from ..trainers.evaluation import keys_of
from ..trainers.evaluation_emotion import evaluate_emotion
from ..trainers.evaluation_face import evaluate_face
from ..trainers.evaluation_motion import evaluate_critics, evaluate_motion
from .evaluation_page import write_page, write_videos
from .progress import progress_bar

NOT_MEASURED = "LPIPS, FID, CSIM, SyncNet: not measured, they need weights that do not come with this project"


def run_evaluation(
    checkpoint: Path,
    data: Path,
    *,
    split: str,
    out: Path | None,
    emotion: Path | None,
    critics: Path | None = None,
    unseen: Sequence[str] | None = None,
) -> None:
    """Print the metrics; where `out` is given, write `metrics.json`, `metrics.csv` and a page with videos there.

    critics: what a motion run exports beside its network; judges sync and emotion of motion. None: left out.
    unseen: emotions that are reported apart; None: those that the checkpoint's training held out.
    """
    if split not in SPLITS:
        raise UserError(f"--split {split}: wanted is one of {', '.join(SPLITS)}")
    spare_cpu()
    loaded = load_checkpoint(checkpoint)
    held_out = loaded.provenance.get("config", {}).get("data", {}).get("holdout_emotions", [])
    names = list(held_out if unseen is None else unseen)
    for name in names:
        if name not in EMOTIONS:
            raise UserError(f"--unseen {name}: wanted are some of {', '.join(EMOTIONS)}")
    reader = ClipReader(data)
    judges = MotionCritics.from_checkpoint(critics).eval() if critics else None
    metrics = _metrics(loaded, checkpoint, reader, split, emotion, judges, names)
    console = Console()
    console.print(_table(f"{checkpoint.name} on {split} of {data} ({len(reader.keys(split))} clips)", metrics))
    console.print(NOT_MEASURED, highlight=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        content = {"checkpoint": checkpoint.name, "sha256": loaded.sha256, "split": split, "unseen": names}
        write_json(out / "metrics.json", content | {"metrics": metrics, "not_measured": NOT_MEASURED})
        write_csv(out / "metrics.csv", metrics)
        videos = _videos(loaded.kind, checkpoint, reader, split, out / "videos")
        write_page(out / "evaluation.html", f"{checkpoint.name} on {split}", metrics, videos, NOT_MEASURED)
        console.print(f"page: {out / 'evaluation.html'}", highlight=False)


def _videos(kind: str, checkpoint: Path, reader: ClipReader, split: str, folder: Path) -> list[Path]:
    """Of what draws faces."""
    if kind not in ("face", "talker"):
        return []
    talker = Talker.load(checkpoint) if kind == "talker" else None
    face = talker.face if talker else FaceGenerator.from_checkpoint(checkpoint).eval()
    return write_videos(face, talker, reader, split, folder)


def _table(title: str, metrics: dict[str, float]) -> Table:
    """All but the accuracies of single emotions and levels, which the files hold."""
    table = Table(title=title)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        if "_accuracy_" not in name:
            table.add_row(name, f"{value:.4f}")
    return table


def _metrics(
    loaded: Checkpoint,
    checkpoint: Path,
    reader: ClipReader,
    split: str,
    emotion: Path | None,
    critics: MotionCritics | None,
    unseen: list[str],
) -> dict[str, float]:
    """The figures that fit the kind of checkpoint."""
    kind = loaded.kind
    talker = Talker.load(checkpoint) if kind == "talker" else None
    num_clips = len(keys_of(reader, split))
    metrics: dict[str, float] = {}
    if talker or kind == "emotion":
        encoder = talker.emotion if talker else EmotionSpace.from_checkpoint(checkpoint).eval()
        with progress_bar("emotion", num_clips) as advance:
            metrics |= evaluate_emotion(encoder, reader, split, unseen=unseen, advance=advance)
    if talker or kind == "motion":
        if talker:
            network, encoder = talker.motion, talker.emotion
        else:
            if emotion is None:
                raise UserError(
                    f"{checkpoint}: a motion stage hears through its emotion space; add --emotion emotion.safetensors"
                )
            network = AudioTo3DMM.from_checkpoint(checkpoint).eval()
            encoder = EmotionSpace.from_checkpoint(emotion).eval()
        with progress_bar("motion", num_clips) as advance:
            metrics |= evaluate_motion(network, encoder, reader, split, advance=advance)
        if critics:
            with progress_bar("critics", num_clips) as advance:
                metrics |= evaluate_critics(critics, network, encoder, reader, split, advance=advance)
    if talker or kind == "face":
        generator = talker.face if talker else FaceGenerator.from_checkpoint(checkpoint).eval()
        with progress_bar("face", num_clips) as advance:
            metrics |= evaluate_face({"face": generator}, reader, split, advance=advance)
    return metrics


def write_json(path: Path, content: Any) -> None:
    """Written aside, then renamed."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def write_csv(path: Path, metrics: dict[str, float]) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "value"])
        writer.writerows((name, repr(value)) for name, value in metrics.items())
    partial.replace(path)
