"""The demo's figures: what teachers and student reach on people who took no part in training, and metrics.json."""

import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..datamodules.dataset.reader import ClipReader
from ..datamodules.sample import EMOTIONS
from ..datamodules.synthetic.corpus import SyntheticConfig
from ..models.emotion import EmotionSpace
from ..models.face import FaceGenerator
from ..models.motion import AudioTo3DMM
from ..models.talker import Talker
from ..trainers.engines.precision import processor, settled
from ..trainers.evaluation.emotion import evaluate_emotion
from ..trainers.evaluation.face import evaluate_face
from ..trainers.evaluation.motion import evaluate_motion
from .progress import Show, progress_bar

SPLIT = "test"  # identities that no stage has seen
CHANCE = 1 / len(EMOTIONS)  # of retrieval
OF_ALL = f"top-1 of {len(EMOTIONS)}"
# What the demo has to reach.
RETRIEVED = 0.80  # top-1
FOLLOWED = 0.80  # correlation of mouth opening with the true one
GAIN = 3.0  # dB of the face stage above a copied portrait
LOSS = -1.5  # dB of the student against its teacher


def evaluate(reader: ClipReader, exports: dict[str, Path], show: Show, *, judged: bool) -> list[dict[str, Any]]:
    """The figures of teachers and student on people that were never trained on; with targets if they are `judged`."""
    space = EmotionSpace.from_checkpoint(exports["emotion"]).eval()
    motion = AudioTo3DMM.from_checkpoint(exports["motion"]).eval()
    face = FaceGenerator.from_checkpoint(exports["face"]).eval()
    talker = Talker.load(exports["distill"])
    with progress_bar("evaluate", 5 * len(reader.keys(SPLIT)), show) as advance:
        found = evaluate_emotion(space, reader, SPLIT, advance=advance)
        student = evaluate_emotion(talker.emotion, reader, SPLIT, advance=advance)
        mouth = evaluate_motion(motion, space, reader, SPLIT, advance=advance)
        student_mouth = evaluate_motion(talker.motion, talker.emotion, reader, SPLIT, advance=advance)
        faces = {"teacher": face, "student": talker.face}
        psnr = evaluate_face(faces, reader, SPLIT, advance=advance)
    copied = psnr["copy_psnr"]
    rows = [
        ("retrieval, text -> image", found["text_image_top1"], CHANCE, RETRIEVED, OF_ALL, "emotion"),
        ("retrieval, text -> audio", found["text_audio_top1"], CHANCE, RETRIEVED, OF_ALL, "emotion"),
        ("mouth opening from audio alone", mouth["mouth_correlation"], 0.0, FOLLOWED, "correlation", "motion"),
        ("face, above copying the portrait", psnr["teacher_psnr"] - copied, 0.0, GAIN, "dB", "face"),
        ("student, above its teacher", psnr["student_psnr"] - psnr["teacher_psnr"], None, LOSS, "dB", "distill"),
        ("PSNR, portrait copied", copied, None, None, "dB", "baseline"),
        ("PSNR, face stage", psnr["teacher_psnr"], copied, None, "dB", "face"),
        ("PSNR, student", psnr["student_psnr"], copied, None, "dB", "distill"),
        ("student: retrieval, text -> image", student["text_image_top1"], CHANCE, None, OF_ALL, "distill"),
        ("student: retrieval, text -> audio", student["text_audio_top1"], CHANCE, None, OF_ALL, "distill"),
        ("student: mouth opening", student_mouth["mouth_correlation"], 0.0, None, "correlation", "distill"),
    ]
    names = ("name", "value", "baseline", "target", "unit", "note")
    figures = [dict(zip(names, row, strict=True)) | {"higher_is_better": True} for row in rows]
    return figures if judged else [figure | {"target": None} for figure in figures]


def describe(
    figures: list[dict[str, Any]], seconds: dict[str, float], reader: ClipReader, corpus: SyntheticConfig
) -> dict[str, Any]:
    """metrics.json: the figures, the time each part took, the corpus, the machine."""
    splits = reader.manifest.splits
    return {
        "figures": figures,
        "timings": seconds,
        "corpus": {
            "clips": sum(split.clips for split in splits.values()),
            "identities": sum(len(split.identities) for split in splits.values()),
            "test_identities": len(splits[SPLIT].identities),
            "test_clips": splits[SPLIT].clips,
            "seconds": round(sum(split.seconds for split in splits.values())),
            "size": corpus.size,
            "seed": corpus.seed,
        },
        "machine": {
            "processor": processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "precision": settled("auto", "auto"),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


def print_figures(console: Console, figures: list[dict[str, Any]]) -> None:
    table = Table(title="People never trained on")
    for column in ("figure", "value", "baseline", "wanted", ""):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for figure in figures:
        target, baseline = figure["target"], figure["baseline"]
        mark = "" if target is None else ("[green]yes[/green]" if figure["value"] >= target else "[red]no[/red]")
        shown = ["" if value is None else f"{value:.3f}" for value in (baseline, target)]
        table.add_row(figure["name"], f"{figure['value']:.3f} {figure['unit']}", shown[0], shown[1], mark)
    console.print(table)
