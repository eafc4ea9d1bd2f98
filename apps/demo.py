"""`emohead demo`: the whole chain on a made-up corpus: four stages, talker, videos, metrics, report."""

import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table

from ..datamodules.manifest import MANIFEST
from ..datamodules.prompts import class_prompt
from ..datamodules.reader import ClipReader
from ..datamodules.sample import SAMPLE_RATE, Clip
from ..datamodules.synthetic import Script, SyntheticConfig, make_clip, prepare_synthetic
from ..models.emotion import EmotionSpace
from ..models.face import FaceGenerator
from ..models.motion import AudioTo3DMM
from ..models.talker import Talker
from ..trainers.evaluation_emotion import evaluate_emotion
from ..trainers.evaluation_face import evaluate_face
from ..trainers.evaluation_motion import evaluate_motion
from ..trainers.run import train
from ..trainers.tracking import write_picture
from .evaluate import write_json
from .infer import Emotion, run_infer
from .pictures import contact_sheet
from .progress import Follow, progress_bar
from .report import write_report

CORPUS = {"identities": 160, "clips": 560, "frames": 50, "size": 128, "val_identities": 12, "test_identities": 20}
TINY_CORPUS = {"identities": 4, "clips": 88, "frames": 30, "size": 64, "val_identities": 1, "test_identities": 1}
TINY = ["trainer.max_steps=2", "trainer.val_every=2", "trainer.log_every=1", "data.batch_size=4", "data.num_workers=0"]
TINY_STAGE = {
    "face": ["network.size=64", "network.channels=[16,16,16,8]", "discriminator.channels=[8,16,16,16,16]"],
    "distill": ["network.face.size=64", "network.face.channels=[16,16,8,8]"],
}
SPLIT = "test"  # identities that no stage has seen
LAST_TAKE = 999  # number of a clip that no identity of the corpus has
EMOTIONS_SHOWN = {"text": "happy", "image": "surprised", "audio": "angry"}  # one for each way of giving it


class Clock:
    """Wall time of each part, in seconds."""

    def __init__(self, console: Console) -> None:
        self.seconds: dict[str, float] = {}
        self.console = console

    def __call__(self, name: str, part: Callable[[], Any]) -> Any:
        self.console.print(f"[bold]{name}[/bold]")
        started = time.monotonic()
        result = part()
        self.seconds[name] = round(time.monotonic() - started, 1)
        self.console.print(f"  {self.seconds[name]:.0f} s", highlight=False)
        return result


def run_demo(out: Path, *, seed: int = 0, tiny: bool = False) -> None:
    """Everything from an empty folder to `report.html`; what is already there is kept and gone on with."""
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    clock = Clock(console)
    corpus = SyntheticConfig(seed=seed, workers=2, **(TINY_CORPUS if tiny else CORPUS))
    clock("corpus", lambda: make_corpus(out / "data", corpus))
    exports: dict[str, Path] = {}
    for stage in ("emotion", "motion", "face", "distill"):
        overrides = stage_overrides(out, stage, exports, seed=seed, tiny=tiny)
        exports[stage] = clock(stage, partial(train, stage, [Path(f"{stage}-debug")], overrides))
    talker = out / "talker.safetensors"
    shutil.copyfile(exports["distill"], talker)

    reader = ClipReader(out / "data")
    clock("videos", lambda: make_videos(out, corpus, reader, talker))
    figures = clock("evaluation", lambda: evaluate(reader, exports))
    make_pictures(out, reader)
    write_json(out / "metrics.json", describe(figures, clock.seconds, reader, corpus))
    print_figures(console, figures)
    console.print(f"report: {write_report(out)}", highlight=False, soft_wrap=True)


def make_corpus(folder: Path, config: SyntheticConfig) -> None:
    if not (folder / MANIFEST).exists():
        with Follow() as follow:
            prepare_synthetic(folder, config, codec="mjpeg", progress=follow)


def stage_overrides(out: Path, stage: str, exports: dict[str, Path], *, seed: int, tiny: bool) -> list[str]:
    """Data, run folder and the checkpoints a stage is built on; in the tiny demo also sizes."""
    overrides = [f"data.shards=[{out / 'data'}]", f"run={out / stage}", f"seed={seed}"]
    if stage in ("motion", "distill"):
        overrides.append(f"emotion={exports['emotion']}")
    if stage == "distill":
        overrides += [f"motion={exports['motion']}", f"face={exports['face']}"]
    return overrides + (TINY + TINY_STAGE.get(stage, []) if tiny else [])


def make_videos(out: Path, corpus: SyntheticConfig, reader: ClipReader, talker: Path) -> None:
    """One unseen portrait and one sentence, three emotions, each given another way, through `emohead infer`."""
    (out / "videos").mkdir(exist_ok=True)
    someone = talking_calmly(corpus)
    write_picture(out / "portrait.png", someone.frames[calmest(someone.landmarks)])
    soundfile.write(out / "speech.wav", someone.speech, SAMPLE_RATE)
    clips = [reader.info(key) for key in reader.keys(SPLIT)]

    def example(emotion: str) -> str:
        """The strongest clip of an emotion by somebody else, where there is somebody else."""
        found = [clip for clip in clips if clip.emotion == emotion]
        return max(found, key=lambda clip: (clip.identity != someone.info.identity, clip.level or 0)).key

    write_frame(out / "emotion.png", reader, example(EMOTIONS_SHOWN["image"]))
    soundfile.write(out / "emotion.wav", reader.speech(example(EMOTIONS_SHOWN["audio"])), SAMPLE_RATE)
    text = class_prompt(EMOTIONS_SHOWN["text"], 3)
    given = {
        "text": Emotion(texts=[text]),
        "image": Emotion(images=[out / "emotion.png"]),
        "audio": Emotion(audios=[out / "emotion.wav"]),
    }
    said = {"text": f"the text “{text}”", "image": "a picture of another face", "audio": "another voice"}
    for way, emotion in given.items():
        video = out / "videos" / f"{way}.mp4"
        portrait, speech = out / "portrait.png", out / "speech.wav"
        run_infer(talker, portrait=portrait, speech=speech, emotion=emotion, out=video, crop=False)
        write_json(video.with_suffix(".json"), {"emotion": EMOTIONS_SHOWN[way], "given": said[way]})


def talking_calmly(corpus: SyntheticConfig) -> Clip:
    """A longer clip, not in the corpus, of the first person of its test split: 4 s without an emotion."""
    first = corpus.identities - (corpus.test_identities or 0)
    return make_clip(Script(replace(corpus, frames=100), first, LAST_TAKE, "neutral", 1, SPLIT))


def calmest(landmarks: np.ndarray) -> int:
    """The frame of landmarks (T, 68, 2) with open eyes and a closed mouth, as one chooses a portrait."""
    height = lambda low, high: landmarks[:, low, 1].astype(np.float32) - landmarks[:, high, 1]  # noqa: E731
    eyes = height([40, 41, 46, 47], [38, 37, 44, 43]).mean(axis=1)
    return int((eyes - height([66], [62]).mean(axis=1)).argmax())


def write_frame(path: Path, reader: ClipReader, key: str) -> None:
    """The frame of a clip with the eyes widest open, as a picture."""
    write_picture(path, reader.frames(key, [calmest(reader.landmarks(key))])[0].transpose(1, 2, 0))


def evaluate(reader: ClipReader, exports: dict[str, Path]) -> list[dict[str, Any]]:
    """The figures of teachers and student on people that were never trained on."""
    space = EmotionSpace.from_checkpoint(exports["emotion"]).eval()
    motion = AudioTo3DMM.from_checkpoint(exports["motion"]).eval()
    face = FaceGenerator.from_checkpoint(exports["face"]).eval()
    talker = Talker.load(exports["distill"])
    with progress_bar("evaluate", 5 * len(reader.keys(SPLIT))) as advance:
        found = evaluate_emotion(space, reader, SPLIT, advance=advance)
        student = evaluate_emotion(talker.emotion, reader, SPLIT, advance=advance)
        mouth = evaluate_motion(motion, space, reader, SPLIT, advance=advance)
        student_mouth = evaluate_motion(talker.motion, talker.emotion, reader, SPLIT, advance=advance)
        faces = {"teacher": face, "student": talker.face}
        psnr = evaluate_face(faces, reader, SPLIT, advance=advance)
    copied = psnr["copy_psnr"]
    rows = [
        ("retrieval, text -> image", found["text_image_top1"], 0.125, 0.80, "top-1 of 8", "emotion"),
        ("retrieval, text -> audio", found["text_audio_top1"], 0.125, 0.80, "top-1 of 8", "emotion"),
        ("mouth opening from audio alone", mouth["mouth_correlation"], 0.0, 0.80, "correlation", "motion"),
        ("face, above copying the portrait", psnr["teacher_psnr"] - copied, 0.0, 3.0, "dB", "face"),
        ("student, above its teacher", psnr["student_psnr"] - psnr["teacher_psnr"], None, -1.5, "dB", "distill"),
        ("PSNR, portrait copied", copied, None, None, "dB", "baseline"),
        ("PSNR, face stage", psnr["teacher_psnr"], copied, None, "dB", "face"),
        ("PSNR, student", psnr["student_psnr"], copied, None, "dB", "distill"),
        ("student: retrieval, text -> image", student["text_image_top1"], 0.125, None, "top-1 of 8", "distill"),
        ("student: retrieval, text -> audio", student["text_audio_top1"], 0.125, None, "top-1 of 8", "distill"),
        ("student: mouth opening", student_mouth["mouth_correlation"], 0.0, None, "correlation", "distill"),
    ]
    names = ("name", "value", "baseline", "target", "unit", "note")
    return [dict(zip(names, row, strict=True)) | {"higher_is_better": True} for row in rows]


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
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


def make_pictures(out: Path, reader: ClipReader) -> None:
    """Contact sheets for the report: the corpus, and frames of the three videos one above the other."""
    from ..datamodules.media import read_video
    from ..datamodules.sample import EMOTIONS

    (out / "pictures").mkdir(exist_ok=True)
    rows, labels = [], []
    by_emotion = {
        emotion: [k for k in reader.keys("train") if reader.info(k).emotion == emotion] for emotion in EMOTIONS
    }
    for person in range(3):
        for emotion in EMOTIONS:
            keys = by_emotion[emotion]
            key = keys[person * len(keys) // 3]
            rows.append(reader.frames(key, [reader.clip(key).num_frames // 2])[0].transpose(1, 2, 0))
            labels.append(emotion)
    write_picture(out / "pictures" / "corpus.png", contact_sheet(rows, len(EMOTIONS), labels))
    frames, names = [], []
    for way, emotion in EMOTIONS_SHOWN.items():
        video = read_video(out / "videos" / f"{way}.mp4")
        frames += [video[i] for i in np.linspace(0, len(video) - 1, 8).astype(int)]
        names += [f"{way}: {emotion}"] + [""] * 7
    write_picture(out / "pictures" / "videos.png", contact_sheet(frames, 8, names))


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
