"""`emohead evaluate`: the metrics of one checkpoint, as a table, as metrics.json and as metrics.csv."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from ..datamodules.dataset.reader import ClipReader
from ..datamodules.sample import EMOTIONS, SPLITS
from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.emotion import EmotionSpace
from ..models.emotion_student import EmotionEncoder
from ..models.errors import UserError
from ..models.face import FaceGenerator
from ..models.face_model import POSE_DIM
from ..models.files import write_json, written_aside
from ..models.motion import AudioTo3DMM
from ..models.motion_critics import MotionCritics
from ..models.talker import Talker
from ..trainers.evaluation.emotion import evaluate_emotion
from ..trainers.evaluation.face import evaluate_face
from ..trainers.evaluation.faces import FaceJudges
from ..trainers.evaluation.motion import evaluate_jury, evaluate_motion
from ..trainers.evaluation.video import Judges, Maker, Table, evaluate_videos, from_speech
from ..trainers.run.cpu import spare_cpu
from .evaluation_page import metric_table, video_table, write_page, write_videos
from .progress import progress_bar

NOT_MEASURED = "not measured; somebody else's networks give them (see --judges, --lpips, --fid, --csim, --syncnet)"
COMPARED = {  # columns of the table of videos against the true ones, in this order
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "fid": "FID",
    "csim": "CSIM",
    "identity": "identity",
    "sync_net_confidence": "LSE-C",
    "sync_net_distance": "LSE-D",
    "sync_net_offset": "AV offset",
    "m_lmd": "M-LMD",
    "f_lmd": "F-LMD",
    "mouth_correlation": "mouth",
}
JUDGED = {  # and of the table by the chain's own judges: both in one would be too wide for a terminal
    "emotion_accuracy": "emotion",
    "seen_emotion_accuracy": "seen",
    "unseen_emotion_accuracy": "unseen",
    "sync_confidence": "sync",
    "sync_offset": "offset",
    "motion_emotion": "acted",
    "expression": "expression",
    "expression_rank": "its rank",
    "faces_found": "faces",
    "lips_closed": "lips",
    "lips_closed_other_phones": "others",
    "lips_closed_foreign": "foreign",
}


def run_evaluation(
    checkpoint: Path,
    data: Path,
    *,
    split: str,
    out: Path | None,
    emotion: Path | None,
    jury: Path | None = None,
    unseen: Sequence[str] | None = None,
    teachers: Sequence[Path] = (),
    weights: Mapping[str, Path | None] = MappingProxyType({}),
    faces: bool = False,
    wandb: bool = False,
) -> dict[str, Any]:
    """Print the metrics; if `out` is given, write `metrics.json`, `metrics.csv` and a page with videos there.

    Returns the content of metrics.json.

    jury: what a motion run exports beside its network; judges sync and emotion of motion. None: left out.
    unseen: emotions that are reported apart; None: those that the checkpoint's training held out.
    teachers: exports of the three stages, whose videos stand in the same table as the talker's.
    weights: networks that the user brings, by what they measure: lpips, fid, csim, syncnet.
    faces: ask the judges of faces that are installed.
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
    reader, parts = ClipReader(data), _parts(loaded.kind, checkpoint, emotion)
    makers = _makers(parts, checkpoint, teachers)
    _check_judges(weights, faces, loaded.kind, makers)
    space = makers["teacher"].emotion if "teacher" in makers else parts.hears
    own_jury, judges_of_faces = _jury(jury, reader, space) if jury else None, FaceJudges() if faces else None
    judges = Judges(**weights, space=space, jury=own_jury, faces=judges_of_faces)
    metrics = _metrics(parts, reader, split, judges.jury, names)
    videos = _videos(makers, reader, split, judges, names)
    missing = ", ".join(judges.missing()) if makers else ""
    judged_by = judges.faces.asked() if judges.faces else {}
    notes = [f"{missing}: {NOT_MEASURED}"] if missing else []
    note = ". ".join(notes + [f"{figure} is by {network}" for figure, network in judged_by.items()])
    clips, heard = (len(reader.keys(split, heard=only)) for only in (False, True))
    silent = clips - heard
    counted = f"{clips} clips" + (f", {silent} without sound" if silent else "")
    _print_tables(f"{checkpoint.name} on {split} of {data} ({counted})", metrics, videos, note)
    found = {"metrics": metrics, "videos": videos, "not_measured": missing, "clips": clips, "silent": silent}
    content = {"checkpoint": checkpoint.name, "sha256": loaded.sha256, "split": split, "unseen": names, **found}
    content["judged_by"] = judged_by
    if out is not None:
        own = next(iter(makers.items()), None)  # not its teachers
        shown = write_videos(*own, reader, split, out / "videos") if own else {}
        _write_files(out, content, shown, note)
        if wandb:
            log_evaluation(out, loaded, reader.provenance(), split, _flat(content), list(shown))
    return content


def _check_judges(weights: Mapping[str, Path | None], faces: bool, kind: str, makers: dict[str, Maker]) -> None:
    asked = [f"--{name} {path}" for name, path in weights.items() if path] + (["--judges"] if faces else [])
    if asked and not makers:
        raise UserError(asked[0], f"judges videos, and a checkpoint of the kind '{kind}' draws none")


def _print_tables(title: str, metrics: dict[str, float], videos: Table, note: str) -> None:
    console = Console()
    console.print(_table(title, metrics))
    for heading, columns in (("videos against the true ones", COMPARED), ("emotion and sync of videos", JUDGED)):
        if any(name in figures for figures in videos.values() for name in columns):
            console.print(_video_table(heading, videos, columns))
    if note:
        console.print(note, highlight=False)


def _write_files(out: Path, content: dict[str, Any], shown: dict[Path, str], note: str) -> None:
    """metrics.json with all of `content`, its figures as metrics.csv, and the page that shows them beside videos."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "metrics.json", content)
    metrics, videos = content["metrics"], content["videos"]
    write_csv(out / "metrics.csv", _flat(content))
    tables = {"Figures": metric_table(metrics), "Videos compared": video_table(videos, COMPARED | JUDGED)}
    write_page(out / "evaluation.html", f"{content['checkpoint']} on {content['split']}", metrics, tables, shown, note)
    Console().print(f"page: {out / 'evaluation.html'}", highlight=False)


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


@dataclass
class Parts:
    """The networks of a checkpoint, as far as it has them."""

    emotion: EmotionEncoder | None = None
    motion: AudioTo3DMM | None = None
    hears: EmotionEncoder | None = None  # what tells the motion part the emotion
    face: FaceGenerator | None = None
    talker: Talker | None = None


def _parts(kind: str, path: Path, emotion: Path | None) -> Parts:
    """The networks of the checkpoint at `path`; emotion: the emotion space that a motion stage hears through."""
    if kind == "emotion":
        return Parts(emotion=EmotionSpace.from_checkpoint(path).eval())
    if kind == "motion":
        if emotion is None:
            raise UserError(path, "a motion stage hears through its emotion space", "add --emotion FILE.safetensors")
        space = EmotionSpace.from_checkpoint(emotion).eval()
        return Parts(motion=AudioTo3DMM.from_checkpoint(path).eval(), hears=space)
    if kind == "face":
        return Parts(face=FaceGenerator.from_checkpoint(path).eval())
    if kind != "talker":
        raise UserError(path, f"of the kind '{kind}'", "wanted is a stage's export: emotion, motion, face or talker")
    talker = Talker.load(path)
    return Parts(talker.emotion, talker.motion, talker.emotion, talker.face, talker)


def _makers(parts: Parts, checkpoint: Path, teachers: Sequence[Path]) -> dict[str, Maker]:
    """The networks that draw videos: the checkpoint itself, and its teachers."""
    makers = {}
    if parts.face:
        makers["student" if parts.talker else "face"] = Maker(parts.face, parts.motion, parts.hears)
    if teachers:
        if not parts.talker:
            raise UserError(f"--teacher {teachers[0]}", f"goes with a talker, which {checkpoint} is not")
        kinds = [load_checkpoint(path).kind for path in teachers]
        if sorted(kinds) != ["emotion", "face", "motion"]:
            found = ", ".join(sorted(kinds))
            raise UserError(
                "--teacher",
                "give the exports of emotion, motion and face, one each",
                f"these are of {found}",
            )
        makers["teacher"] = _teacher(dict(zip(kinds, teachers, strict=True)), parts.talker)
    return makers


def _teacher(paths: dict[str, Path], talker: Talker) -> Maker:
    """The three stages by kind; raises UserError if they cannot be those that the talker learned from."""
    face = FaceGenerator.from_checkpoint(paths["face"]).eval()
    motion = AudioTo3DMM.from_checkpoint(paths["motion"]).eval()
    emotion = EmotionSpace.from_checkpoint(paths["emotion"]).eval()
    student = talker.motion.config
    for path, what, its, wanted in (
        (paths["face"], "pixels", face.config.size, talker.size),
        (paths["face"], "values of motion", face.config.motion_dim, student.motion_dim),
        (paths["face"], "identity coefficients", face.config.identity_dim, student.identity_dim),
        (paths["motion"], "values of motion", motion.config.motion_dim, student.motion_dim),
        (paths["motion"], "identity coefficients", motion.config.identity_dim, student.identity_dim),
        (paths["motion"], "values of an emotion", motion.config.emotion_dim, student.emotion_dim),
        (paths["emotion"], "values of an emotion", emotion.config.embed_dim, student.emotion_dim),
    ):
        if its != wanted:
            raise UserError(f"--teacher {path}", f"{its} {what}, the talker {wanted}", "give its own teachers")
    return Maker(face, motion, emotion)


def _jury(path: Path, reader: ClipReader, space: EmotionEncoder | None) -> MotionCritics:
    """The jury at `path`; raises UserError if it judges other motion or another emotion space."""
    jury = MotionCritics.from_checkpoint(path).eval()
    its, coefficients = jury.config, reader.dims[0] - POSE_DIM
    if its.num_expression != coefficients:
        raise UserError(
            f"--jury {path}",
            f"judges {its.num_expression} expression coefficients, {reader.folder} has {coefficients}",
            "give the jury of a motion run on such data",
        )
    if space is not None and its.emotion_dim != space.config.embed_dim:
        raise UserError(
            f"--jury {path}",
            f"judges {its.emotion_dim} values of an emotion, the emotion space has {space.config.embed_dim}",
            "give the jury of a motion run with that space",
        )
    return jury


def _table(title: str, metrics: dict[str, float]) -> RichTable:
    """All but the accuracies of single emotions and levels, which the files hold."""
    table = RichTable(title=title)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        if "_accuracy_" not in name:
            table.add_row(name, f"{value:.4f}")
    return table


def _video_table(title: str, videos: Table, columns: dict[str, str]) -> RichTable:
    """The measured ones of the columns (figure to heading), and each way of making a video that has any of them."""
    names = [name for name in columns if any(name in figures for figures in videos.values())]
    table = RichTable(title=title)
    table.add_column("made from the first frame and")
    for name in names:
        table.add_column(columns[name], justify="right")
    for row, figures in videos.items():
        if any(name in figures for name in names):
            table.add_row(row, *(f"{figures[name]:.3f}" if name in figures else "–" for name in names))
    return table


def _metrics(
    parts: Parts, reader: ClipReader, split: str, jury: MotionCritics | None, unseen: list[str]
) -> dict[str, float]:
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
            with progress_bar("jury", num_clips) as advance:
                metrics |= evaluate_jury(jury, parts.motion, parts.hears, reader, split, unseen=unseen, advance=advance)
    if parts.face:
        with progress_bar("face", len(reader.keys(split))) as advance:
            metrics |= evaluate_face({"face": parts.face}, reader, split, advance=advance)
    return metrics


def _videos(makers: dict[str, Maker], reader: ClipReader, split: str, judges: Judges, unseen: list[str]) -> Table:
    if not makers:
        return {}
    with progress_bar("videos", len(reader.keys(split, heard=from_speech(makers)))) as advance:
        return evaluate_videos(makers, reader, split, judges, unseen=unseen, advance=advance)


def write_csv(path: Path, metrics: dict[str, float]) -> None:
    with written_aside(path) as aside, open(aside, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "value"])
        writer.writerows((name, repr(value)) for name, value in metrics.items())
