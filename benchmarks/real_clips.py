"""The face and the motion stage on a few minutes of real film on a CPU.

    python benchmarks/real_clips.py CLIPS [--stages face motion] [--work runs/real_clips] [--out .../real_clips.json]

CLIPS holds folders `hdtf` and `grid` of videos. They are prepared at 128 pixels; the first 80 % of each clip are for
training, the last 20 % for the test (the face model is fitted to all frames). The face stage learns from
hdtf, the motion stage from both, less what the gate of the sound leaves out, by name: any clip whose sound is surely
more than a frame and a half off the lips (by default up to five are made good).

face: the first frame of a clip is the portrait, all frames of its last fifth are to be made. Beside it: the portrait as
it is, and the portrait warped by the coarsest flow alone.
motion: mouth opening of the last fifth, from speech alone on the mean face; beside it the smoothed loudness, and the
mean motion. No clip has a label and there are few people, so neither identity nor the emotion of a picture or a voice
goes in, by which clips would be known. The last fifth of a GRID clip is six tenths of a second after the sentence, in
which the mouth hardly moves (`moving`: its deviation there, as a share of that in the whole clip), so that correlations
say little. Therefore also `unheard`: four trainings, each of which leaves out a quarter of the clips altogether, and is
tested on these from the first frame to the last. Clips, not people: of GRID's, two are of one speaker, in two folds.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.datamodules.prompts import UNLABELLED
from emohead.datamodules.sample import SAMPLES_PER_FRAME, Clip
from emohead.models.emotion import EmotionSpace
from emohead.models.face import FaceGenerator
from emohead.models.motion import AudioTo3DMM
from emohead.models.talker import motion_windows
from emohead.trainers.evaluation.face import compare_frames
from emohead.trainers.evaluation.motion import loudness
from emohead.trainers.metrics import correlation, landmark_distances

TRAIN, VAL = 0.8, 0.1  # shares of a clip; the last tenth of the training part is also looked at during training
FOLDS = 4
SETTINGS = {
    "emotion": ["trainer.max_steps=60", "data.batch_size=16"],
    "motion": [
        "trainer.max_steps=700",
        "data.batch_size=16",
        "network.dim=32",
        "network.layers=2",
        "network.reach=6",
        "augmentation=1.0",
        "network.use_identity=false",
        "emotion_from=[text]",
        "speech_dropout=0.2",
    ],
    "face": ["trainer.max_steps=1800", "adversary.start=1400"],
}


def emohead(*words: object) -> str:
    command = [sys.executable, "-m", "emohead.apps.cli", *map(str, words)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}: exit code {result.returncode}")
    return result.stdout


def prepare(source: Path, out: Path, *options: object) -> None:
    if not (out / "manifest.json").exists():
        print(emohead("prepare", "folder", source, out, "--size", 128, "--workers", 2, *options))


def cut(source: Path, out: Path) -> None:
    """Every clip of a data set in two: its first part in train (the end of it in val too), the rest in test."""
    reader = ClipReader(source)
    with ShardWriter(out, size=reader.manifest.size, codec="mjpeg") as writer:
        for key in reader.keys(None):
            info = reader.info(key)
            edges = {
                "train": (0, round(TRAIN * info.frames)),
                "val": (round((TRAIN - VAL) * info.frames), round(TRAIN * info.frames)),
                "test": (round(TRAIN * info.frames), info.frames),
            }
            for split, (start, stop) in edges.items():
                writer.write(part_of(reader, key, split, start, stop))
        writer.close(reader.face_model)


def leave_out(source: Path, out: Path, left: set[str]) -> None:
    """The clips of a data set as they are: those left out in test, the others in train."""
    reader = ClipReader(source)
    with ShardWriter(out, size=reader.manifest.size, codec="mjpeg") as writer:
        for key in reader.keys(None):
            writer.write(part_of(reader, key, "test" if key in left else "train", 0, reader.info(key).frames))
        writer.close(reader.face_model)


def part_of(reader: ClipReader, key: str, split: str, start: int, stop: int) -> Clip:
    info, span = reader.info(key), slice(start, stop)
    info.key, info.split, info.frames = f"{key}_{split}", split, stop - start
    frames = reader.frames(key, list(range(start, stop))).transpose(0, 2, 3, 1)
    speech = reader.speech(key)[start * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
    arrays = (reader.motion(key)[span], reader.identity(key), reader.landmarks(key)[span])
    return Clip(info, frames, speech, *arrays)


def train(stage: str, data: Path, run: Path, *overrides: str) -> tuple[Path, float]:
    """Train at debug size; the export, and the seconds that the command took."""
    export, started = run / "export" / f"{stage}.safetensors", time.time()
    if not export.exists():
        given = [f"data.shards=[{data}]", f"run={run}", "tracking.wandb=disabled", *SETTINGS[stage], *overrides]
        emohead("train", stage, "-c", f"{stage}-debug", *given)
    return export, time.time() - started


@torch.inference_mode()
def face_figures(export: Path, whole: ClipReader) -> dict[str, Any]:
    generator = FaceGenerator.from_checkpoint(export).eval()
    clips: dict[str, dict[str, float]] = {}
    for key in whole.keys(None):
        motion = torch.from_numpy(whole.motion(key))
        tested = list(range(round(TRAIN * len(motion)), len(motion)))
        frames = torch.from_numpy(whole.frames(key, [0, *tested]))
        windows = motion_windows(motion)[tested]
        found: dict[str, list[torch.Tensor]] = {}
        for start in range(0, len(tested), 16):
            rows = slice(start, start + 16)
            made = compare_frames({"face": generator}, frames[:1], frames[1:][rows], windows[rows])
            for name, value in made.items():
                found.setdefault(name, []).append(value)
        clips[key] = {name: float(torch.cat(values).mean()) for name, values in found.items()}
    mean = {name: float(np.mean([clip[name] for clip in clips.values()])) for name in next(iter(clips.values()))}
    above = {"above_copy_db": mean["face_psnr"] - mean["copy_psnr"]}
    return mean | above | {"above_coarse_db": mean["face_psnr"] - mean["coarse_psnr"], "clips": clips}


@torch.inference_mode()
def motion_figures(export: Path, space: EmotionSpace, whole: ClipReader, keys: list[str], first: float) -> list[dict]:
    """Of each clip from share `first` of it on: correlations of mouth opening, and mouth landmark distances."""
    network, model = AudioTo3DMM.from_checkpoint(export).eval(), whole.face_model
    emotion, nobody = space.encode_text([UNLABELLED]), torch.zeros(1, model.num_identity)
    found = []
    for key in keys:
        speech, truth = torch.from_numpy(whole.speech(key))[None], torch.from_numpy(whole.motion(key))
        motion, identity = network.generate(speech, emotion, nobody)[0], torch.from_numpy(whole.identity(key))
        tested = slice(round(first * len(truth)), len(truth))
        true, predicted = (model.mouth_opening(nobody, m) for m in (truth, motion))
        mean = network.motion_mean.expand_as(truth)
        distances = [landmark_distances(model, identity, m[tested], truth[tested])[1] for m in (motion, mean)]
        found.append(
            {
                "folder": Path(whole.info(key).source).parent.name or "clips",
                "clip": Path(whole.info(key).source).stem,
                "moving": float(true[tested].std() / true.std()),
                "correlation": float(correlation(predicted[tested], true[tested])),
                "loudness_correlation": float(correlation(loudness(speech[0], len(truth))[tested], true[tested])),
                "m_lmd": distances[0],
                "mean_motion_m_lmd": distances[1],
            }
        )
    return found


def averaged(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the clips of each folder, and of the distances over all of them; and the clips."""
    names = ("moving", "correlation", "loudness_correlation", "m_lmd", "mean_motion_m_lmd")
    result: dict[str, Any] = {name: float(np.mean([clip[name] for clip in clips])) for name in names[3:]}
    for folder in sorted({clip["folder"] for clip in clips}):
        own = [clip for clip in clips if clip["folder"] == folder]
        result[folder] = {"clips": len(own)} | {name: float(np.mean([clip[name] for clip in own])) for name in names}
    return result | {"of_each": clips}


def motion(work: Path, whole: ClipReader, parts: Path) -> dict[str, Any]:
    """Figures of the last fifths, and of whole clips left out of training."""
    emotion, _ = train("emotion", parts, work / "emotion")
    space = EmotionSpace.from_checkpoint(emotion).eval()
    export, seconds = train("motion", parts, work / "motion", f"emotion={emotion}")
    keys = whole.keys(None)
    result = averaged(motion_figures(export, space, whole, keys, TRAIN))
    by_folder = sorted(keys, key=lambda key: (Path(whole.info(key).source).parent.name, key))
    unheard = []
    for fold in range(FOLDS):
        left, data = by_folder[fold::FOLDS], work / f"motion_fold_{fold}"
        if not (data / "manifest.json").exists():
            leave_out(whole.folder, data, set(left))
        export, taken = train("motion", data, work / f"motion_{fold}", f"emotion={emotion}")
        unheard += motion_figures(export, space, whole, left, 0.0)
        seconds += taken
    return result | {"unheard": averaged(unheard), "training_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--stages", nargs="+", choices=("face", "motion"), default=["face", "motion"])
    parser.add_argument("--work", type=Path, default=Path("runs/real_clips"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "real_clips.json")
    options = parser.parse_args()
    work, result = options.work, json.loads(options.out.read_text()) if options.out.exists() else {}
    sources = {"face": (options.clips / "hdtf",), "motion": (options.clips, "--gate", "max_av_shift=1.5")}
    for stage in options.stages:
        whole, parts = work / f"{stage}_whole", work / f"{stage}_parts"
        prepare(sources[stage][0], whole, *sources[stage][1:])
        if not (parts / "manifest.json").exists():
            cut(whole, parts)
        reader = ClipReader(whole)
        left_out = [f"{clip.source}: {clip.reason}" for clip in reader.manifest.rejected]
        if stage == "face":
            export, seconds = train("face", parts, work / "face")
            found = face_figures(export, reader) | {"training_seconds": seconds}
        else:
            found = motion(work, reader, parts)
        result[stage] = found | {"left_out": left_out, "settings": SETTINGS[stage]}
        print(json.dumps(result[stage], indent=1), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
