"""`emohead demo`: the whole chain on a made-up corpus: four stages, talker, videos, metrics, report."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console

from ..datamodules.dataset.manifest import MANIFEST
from ..datamodules.dataset.reader import ClipReader
from ..datamodules.prompts import class_prompt
from ..datamodules.sample import SAMPLE_RATE, Clip
from ..datamodules.synthetic.corpus import Script, SyntheticConfig, make_clip, prepare_synthetic
from ..models.errors import UserError
from ..models.files import write_json
from ..models.lock import locked
from ..trainers.all_stages import STAGES
from ..trainers.run.journal import write_picture
from ..trainers.run.preemption import Preempted
from ..trainers.run.train import train
from .demo_figures import SPLIT, describe, evaluate, print_figures
from .demo_plan import Plan, done, measure_pace, seconds, stage_overrides
from .infer import Emotion, run_infer
from .pictures import contact_sheet
from .progress import Parts, Show, one_of
from .report import write_report
from .report_parts import duration

LAST_TAKE = 999  # number of a clip that no identity of the corpus has
EMOTIONS_SHOWN = {"text": "happy", "image": "surprised", "audio": "angry"}  # one for each way of giving it


class Demo:
    """A demo's folder, and how long each part of it has taken, over all starts."""

    def __init__(self, out: Path, plan: Plan, seed: int) -> None:
        self.out, self.plan, self.seed = out, plan, seed
        self.check_same_demo()
        self.timings_file = out / "timings.json"
        self.timings: dict[str, float] = json.loads(self.timings_file.read_text()) if self.timings_file.exists() else {}

    def check_same_demo(self) -> None:
        """A folder goes on with the demo that it was started with. Raises UserError if that was another."""
        file, now = self.out / "demo.json", {"size": self.plan.name, "seed": self.seed}
        began = json.loads(file.read_text()) if file.exists() else now
        if began != now:
            before = f"{began['size']} demo with --seed {began['seed']}"
            raise UserError(self.out, f"holds a {before}", "give another --out, or delete this folder")
        write_json(file, now)

    def do(self, parts: Parts, name: str, part: Callable[..., Any]) -> Any:
        """Call `part(show=...)`, which tells the bar how far it is."""
        before = self.timings.get(name, 0.0) if name in STAGES else 0.0  # stages go on, the rest begins anew
        finished, started = parts.done[name] == 1, time.monotonic()
        try:
            with parts.part(name) as show:
                return part(show=show)
        finally:
            if not finished:
                self.timings[name] = round(before + time.monotonic() - started, 1)
                write_json(self.timings_file, self.timings)


def run_demo(out: Path, *, seed: int = 0, plan: Plan) -> None:
    """Everything from an empty folder to `report.html`; what is already there is kept and gone on with.

    Raises:
        SystemExit: Ctrl-C or a scheduler's signal while a stage trains; its steps are saved, the same call goes on.
        KeyboardInterrupt: Ctrl-C elsewhere; the same call goes on.
        UserError: the folder holds a demo of another size or seed.
    """
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    demo = Demo(out, plan, seed)
    if plan.not_shown:
        console.print(f"A {plan.name} demo does not show {plan.not_shown}.", highlight=False, soft_wrap=True)
    try:
        with locked(out), expectation(demo, console) as parts:
            figures = make_all(demo, parts)
    except Preempted as stopped:
        print(f"emohead: {stopped}", file=sys.stderr)
        raise SystemExit(stopped.exit_code) from None
    print_figures(console, figures)
    if plan.not_shown:
        console.print(f"These figures do not show {plan.not_shown}.", highlight=False, soft_wrap=True)
    console.print(f"{duration(sum(demo.timings.values()))} in all", highlight=False)
    console.print(f"report: {write_report(out)}", highlight=False, soft_wrap=True)


def expectation(demo: Demo, console: Console) -> Parts:
    """Say how long the demo will take here -> the bar over its parts."""
    console.print("measuring this machine", highlight=False)
    expected, shares = seconds(demo.plan, measure_pace()), done(demo.plan, demo.out)
    left = sum((1 - shares[name]) * value for name, value in expected.items())
    console.print(f"about {duration(left)} on this machine", highlight=False, soft_wrap=True)
    return Parts(f"demo, {demo.plan.name}", expected, shares)


def make_all(demo: Demo, parts: Parts) -> list[dict[str, Any]]:
    """The parts in their order -> the figures."""
    out, plan = demo.out, demo.plan
    corpus = SyntheticConfig(seed=demo.seed, workers=2, **plan.corpus)
    demo.do(parts, "corpus", partial(make_corpus, out / "data", corpus))
    exports: dict[str, Path] = {}
    for stage in STAGES:
        given = [*stage_overrides(out, stage, exports, seed=demo.seed), *plan.overrides(stage)]
        exports[stage] = demo.do(parts, stage, partial(train, stage, [Path(f"{stage}-debug")], given))
    talker = out / "talker.safetensors"
    shutil.copyfile(exports["distill"], talker)
    reader = ClipReader(out / "data")
    demo.do(parts, "videos", partial(make_videos, out, corpus, reader, talker))
    figures = demo.do(parts, "evaluation", partial(evaluate, reader, exports, judged=not plan.not_shown))
    make_pictures(out, reader)
    write_json(out / "metrics.json", describe(figures, demo.timings, reader, corpus))
    return figures


def make_corpus(folder: Path, config: SyntheticConfig, show: Show) -> None:
    if not (folder / MANIFEST).exists():
        prepare_synthetic(folder, config, codec="mjpeg", progress=show)


def make_videos(out: Path, corpus: SyntheticConfig, reader: ClipReader, talker: Path, show: Show) -> None:
    """One unseen portrait and one sentence, three emotions, each given another way, through `emohead infer`."""
    (out / "videos").mkdir(exist_ok=True)
    someone = talking_calmly(corpus)
    write_picture(out / "portrait.png", someone.frames[calmest(someone.landmarks)])
    soundfile.write(out / "speech.wav", someone.speech, SAMPLE_RATE)
    clips = [reader.info(key) for key in reader.keys(SPLIT)]

    def example(emotion: str) -> str:
        """The strongest clip of an emotion by another person, if there is another."""
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
    for number, (way, emotion) in enumerate(given.items()):
        video = out / "videos" / f"{way}.mp4"
        portrait, speech = out / "portrait.png", out / "speech.wav"
        third = one_of(len(given), number, show)
        run_infer(talker, portrait=portrait, speech=speech, emotion=emotion, out=video, crop=False, show=third)
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


def make_pictures(out: Path, reader: ClipReader) -> None:
    """Contact sheets for the report: the corpus, and frames of the three videos one above the other."""
    from ..datamodules.media.read import read_video
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
