"""`emohead evaluate`: the metrics of one checkpoint, as a table, as metrics.json and as metrics.csv."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console

from ..datamodules.dataset.reader import ClipReader
from ..datamodules.sample import EMOTIONS, SPLITS
from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.errors import UserError
from ..models.files import write_json, written_aside
from ..trainers.evaluation.emotion import evaluate_emotion
from ..trainers.evaluation.face import evaluate_face
from ..trainers.evaluation.faces import FaceJudges
from ..trainers.evaluation.jury import Jury
from ..trainers.evaluation.makers import Maker, from_speech
from ..trainers.evaluation.motion import evaluate_jury, evaluate_motion
from ..trainers.evaluation.video import Compared, Judges, evaluate_videos
from ..trainers.inputs import check_face_model
from ..trainers.run.cpu import spare_cpu
from .arguments import TRACKED_CLIPS
from .evaluation_notes import notes
from .evaluation_page import write_page, write_videos
from .evaluation_parts import Parts, load_parts, makers_of
from .evaluation_retrieval import retrieval_html, retrieval_table
from .evaluation_tables import metric_html, metric_table, video_html, video_tables
from .progress import progress_bar


def run_evaluation(
    checkpoint: Path,
    data: Path,
    *,
    split: str,
    out: Path | None,
    emotion: Path | None,
    unseen: Sequence[str] | None = None,
    teachers: Sequence[Path] = (),
    weights: Mapping[str, Path | None] = MappingProxyType({}),
    faces: bool = False,
    tracked_clips: int = TRACKED_CLIPS,
    wandb: bool = False,
) -> dict[str, Any]:
    """Print the metrics; if `out` is given, write `metrics.json`, `metrics.csv` and a page with videos there.

    Returns the content of metrics.json.

    unseen: emotions that are reported apart; None: those that the checkpoint's training held out.
    teachers: exports of the three stages, whose videos stand in the same table as the talker's.
    weights: networks that the user brings, by what they measure: lpips, fid, csim, syncnet.
    faces: ask the judges of faces that are installed.
    tracked_clips: at most so many clips have all frames of their videos drawn and their faces tracked in them.
    wandb: tell Weights & Biases too, which keeps its files in `out`.
    """
    if split not in SPLITS:
        raise UserError(f"--split {split}", f"wanted is one of {', '.join(SPLITS)}")
    if wandb:
        from ..trainers.run.wandb_evaluation import check, log_evaluation

        check(out)
    spare_cpu()
    loaded = load_checkpoint(checkpoint)
    names = _unseen(loaded, unseen)
    reader, parts = ClipReader(data), load_parts(loaded, emotion)
    taught_by = [load_checkpoint(path) for path in teachers]
    for found in (loaded, *taught_by):
        check_face_model(reader.manifest.face_model["checksum"], str(found.path), found, str(data))
    makers = makers_of(parts, loaded, taught_by)
    _check_judges(weights, faces, loaded.kind, makers)
    space = makers["teacher"].emotion if "teacher" in makers else parts.hears
    jury = _jury(reader, loaded) if parts.motion else None
    judges = Judges(**weights, space=space, jury=jury, faces=FaceJudges() if faces else None)
    metrics = _metrics(parts, reader, split, jury, names)
    videos = _videos(makers, reader, split, judges, names, tracked_clips)
    told, missing = notes(metrics, videos if makers else None, judges, retrieves=parts.emotion is not None)
    content: dict[str, Any] = {"checkpoint": checkpoint.name, "sha256": loaded.sha256, "split": split, "unseen": names}
    content |= {"metrics": metrics, "videos": videos.table, "ci": videos.intervals, "tracked": videos.tracked}
    content |= {"faceless": videos.faceless, "not_measured": ", ".join(missing)}
    content |= {"judged_by": judges.faces.asked() if judges.faces else {}} | _counted(reader, split)
    silent = f", {content['silent']} without sound" if content["silent"] else ""
    _print_tables(f"{checkpoint.name} on {split} of {data} ({content['clips']} clips{silent})", metrics, videos, told)
    if out is not None:
        own = next(iter(makers.items()), None)  # not its teachers
        shown = write_videos(*own, reader, split, out / "videos") if own else {}
        _write_files(out, content, videos, shown, told)
        if wandb:
            log_evaluation(out, loaded, reader.provenance(), split, _flat(content), list(shown))
    return content


def _counted(reader: ClipReader, split: str) -> dict[str, int]:
    clips, heard = (len(reader.keys(split, heard=only)) for only in (False, True))
    return {"clips": clips, "silent": clips - heard}


def _check_judges(weights: Mapping[str, Path | None], faces: bool, kind: str, makers: dict[str, Maker]) -> None:
    asked = [f"--{name} {path}" for name, path in weights.items() if path] + (["--judges"] if faces else [])
    if asked and not makers:
        raise UserError(asked[0], f"judges videos, and a checkpoint of the kind '{kind}' draws none")


def _print_tables(title: str, metrics: dict[str, float], videos: Compared, told: list[str]) -> None:
    console = Console()
    for table in (metric_table(title, metrics), retrieval_table(metrics), *video_tables(videos)):
        if table is not None:
            console.print(table)
    for sentence in told:
        console.print(sentence, highlight=False, markup=False)


def _write_files(out: Path, content: dict[str, Any], videos: Compared, shown: dict[Path, str], told: list[str]) -> None:
    """metrics.json with all of `content`, its figures as metrics.csv, and the page that shows them beside videos."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "metrics.json", content)
    write_csv(out / "metrics.csv", _flat(content))
    metrics, title = content["metrics"], f"{content['checkpoint']} on {content['split']}"
    tables = {"Figures": metric_html(metrics), "Emotions retrieved": retrieval_html(metrics)}
    tables["Videos compared"] = video_html(videos)
    write_page(out / "evaluation.html", title, metrics, tables, shown, " ".join(ended(told)))
    Console().print(f"page: {out / 'evaluation.html'}", highlight=False)


def ended(sentences: Sequence[str]) -> list[str]:
    """Sentences with a full stop each."""
    return [sentence if sentence.endswith(".") else f"{sentence}." for sentence in sentences]


def _flat(content: dict[str, Any]) -> dict[str, float]:
    """All figures by one name each."""
    videos = content["videos"].items()
    return content["metrics"] | {f"{row}/{name}": value for row, found in videos for name, value in found.items()}


def _unseen(checkpoint: Checkpoint, unseen: Sequence[str] | None) -> list[str]:
    """The emotions to report apart: those named, or those that the checkpoint's training held out."""
    held_out = checkpoint.provenance.get("config", {}).get("data", {}).get("holdout_emotions", [])
    names = list(held_out if unseen is None else unseen)
    for name in names:
        if name not in EMOTIONS:
            raise UserError(f"--unseen {name}", f"wanted are some of {', '.join(EMOTIONS)}")
    return names


def _jury(reader: ClipReader, checkpoint: Checkpoint) -> Jury:
    """A jury of people that the checkpoint was not trained on."""
    trained = checkpoint.provenance.get("config", {}).get("data", {}).get("train_splits", ["train"])
    trained = sorted({"train", *trained})
    splits = [split for split in SPLITS if split not in trained]
    with progress_bar("jury", sum(len(reader.keys(split)) for split in splits)) as advance:
        return Jury.fit(reader, splits, trained=trained, advance=advance)


def _metrics(parts: Parts, reader: ClipReader, split: str, jury: Jury | None, unseen: list[str]) -> dict[str, float]:
    """The figures that fit what the checkpoint holds."""
    num_clips = len(reader.keys(split, heard=True))
    metrics: dict[str, float] = {}
    if parts.emotion:
        with progress_bar("emotion", num_clips) as advance:
            metrics |= evaluate_emotion(parts.emotion, reader, split, unseen=unseen, advance=advance)
    if parts.motion and parts.hears:
        with progress_bar("motion", num_clips) as advance:
            metrics |= evaluate_motion(parts.motion, parts.hears, reader, split, unseen=unseen, advance=advance)
        if jury:
            with progress_bar("jury's verdict", num_clips) as advance:
                metrics |= evaluate_jury(jury, parts.motion, parts.hears, reader, split, unseen=unseen, advance=advance)
    if parts.face:
        with progress_bar("face", len(reader.keys(split))) as advance:
            metrics |= evaluate_face({"face": parts.face}, reader, split, advance=advance)
    return metrics


def _videos(
    makers: dict[str, Maker], reader: ClipReader, split: str, judges: Judges, unseen: list[str], tracked_clips: int
) -> Compared:
    if not makers:
        return Compared()
    with progress_bar("videos", len(reader.keys(split, heard=from_speech(makers)))) as advance:
        return evaluate_videos(
            makers, reader, split, judges, unseen=unseen, tracked_clips=tracked_clips, advance=advance
        )


def write_csv(path: Path, metrics: dict[str, float]) -> None:
    with written_aside(path) as aside, open(aside, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "value"])
        writer.writerows((name, repr(value)) for name, value in metrics.items())
