"""`emohead evaluate`: the metrics of one checkpoint, as a table and as metrics.json."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..datamodules.reader import ClipReader
from ..datamodules.sample import SPLITS
from ..models.checkpoint import load_checkpoint
from ..models.emotion import EmotionSpace
from ..models.errors import UserError
from ..models.face import FaceGenerator
from ..models.motion import AudioTo3DMM
from ..models.talker import Talker
from ..trainers.evaluation import keys_of
from ..trainers.evaluation_emotion import evaluate_emotion
from ..trainers.evaluation_face import evaluate_face
from ..trainers.evaluation_motion import evaluate_motion
from .progress import progress_bar


def run_evaluation(checkpoint: Path, data: Path, *, split: str, out: Path | None, emotion: Path | None) -> None:
    """Print the metrics and, where `out` is given, write `out/metrics.json`."""
    if split not in SPLITS:
        raise UserError(f"--split {split}: wanted is one of {', '.join(SPLITS)}")
    kind, sha256 = (lambda loaded: (loaded.kind, loaded.sha256))(load_checkpoint(checkpoint))
    reader = ClipReader(data)
    metrics = _metrics(kind, checkpoint, reader, split, emotion)
    table = Table(title=f"{checkpoint.name} on {split} of {data} ({len(reader.keys(split))} clips)")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        content = {"checkpoint": checkpoint.name, "sha256": sha256, "split": split, "metrics": metrics}
        write_json(out / "metrics.json", content)


def _metrics(kind: str, checkpoint: Path, reader: ClipReader, split: str, emotion: Path | None) -> dict[str, float]:
    """The figures that fit the kind of checkpoint."""
    talker = Talker.load(checkpoint) if kind == "talker" else None
    num_clips = len(keys_of(reader, split))
    metrics: dict[str, float] = {}
    if talker or kind == "emotion":
        encoder = talker.emotion if talker else EmotionSpace.from_checkpoint(checkpoint).eval()
        with progress_bar("emotion", num_clips) as advance:
            metrics |= evaluate_emotion(encoder, reader, split, advance=advance)
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
