"""The motion stage at debug size tuned on a few clips of real film, by a sweep that leaves one clip out at a time.

    python benchmarks/tune_motion.py CLIPS [--work runs/tune_motion] [--workers 2] [--out .../tune_motion.json]

CLIPS holds folders `hdtf` and `grid`, as for real_clips.py. Three of the clips (TESTED) are put aside: neither
the sweep nor a training sees them, but the face model is fitted to all. A trial of motion-clips.yaml trains on all of
the others but one, once for each of these; its value is the mean correlation of the mouth's opening on the clips left
out. ASHA counts clips, not steps.

Then today's setting (that of real_clips.py, picked by hand) and the one found are compared: on the same clips left out
with another seed, which the search did not see; and on the clips put aside, trained on all of the others, three seeds.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.models.emotion import EmotionSpace
from emohead.trainers.sweeps.study import best, read_folder
from leave_one_out import FIGURES
from optuna.trial import TrialState
from real_clips import SETTINGS, cut, emohead, motion_figures, part_of, prepare, train

HERE = Path(__file__).parent
TESTED = ("pwij3p", "sbia1a", "WDA_KatieHill_000")
SEEDS = (1, 2, 3)
FIXED = ("trainer.max_steps=160", "trainer.val_every=20", "data.batch_size=16", "network.use_identity=false")
FIXED += ("emotion_from=[text]", "tracking.wandb=disabled")
HAND = [word for word in SETTINGS["motion"] if word.partition("=")[0] not in [w.partition("=")[0] for w in FIXED]]


def one_by_one(whole: ClipReader, work: Path) -> dict[str, Path]:
    """A data set of each clip, all with the face model of the whole."""
    folders = {}
    for key in whole.keys(None):
        info = whole.info(key)
        name = Path(info.source).stem
        folders[name] = work / "clips" / name
        if not (folders[name] / "manifest.json").exists():
            with ShardWriter(folders[name], size=whole.manifest.size, codec="mjpeg") as writer:
                writer.write(part_of(whole, key, "train", 0, info.frames))
                writer.close(whole.face_model)
    return dict(sorted(folders.items()))


def shards(folders: list[Path]) -> str:
    return f"data.shards=[{','.join(str(folder.resolve()) for folder in folders)}]"


def sweep(work: Path, words: list[str], workers: int) -> Path:
    """The sweep, run to its end by some workers."""
    command = [sys.executable, "-m", "emohead.apps.cli", "sweep", HERE / "motion-clips.yaml", *words]
    command += ["--out", work / "sweep", "--launch", f"{sys.executable} {HERE / 'leave_one_out.py'}"]
    started = [subprocess.Popen(list(map(str, command))) for _ in range(workers)]
    if sum(worker.wait() for worker in started):
        sys.exit("a worker failed")
    return work / "sweep"


def left_out(run: Path, words: list[str]) -> dict[str, float]:
    """Means over the clips left out, one training for each."""
    training = [sys.executable, "-m", "emohead.apps.cli", "train", "motion", "-c", "motion-debug", *words]
    subprocess.run([sys.executable, HERE / "leave_one_out.py", *training, f"run={run}"], check=True)
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def put_aside(work: Path, name: str, words: list[str], tested: list[Path], emotion: Path) -> list[dict[str, float]]:
    """Figures on the clips that nothing was tuned on, for each seed."""
    space, found = EmotionSpace.from_checkpoint(emotion).eval(), []
    for seed in SEEDS:
        run = work / f"{name}_{seed}"
        export = run / "export" / "motion.safetensors"
        if not export.exists():
            emohead("train", "motion", "-c", "motion-debug", *words, f"seed={seed}", f"run={run}")
        clips = [
            clip
            for folder in tested
            for clip in motion_figures(export, space, ClipReader(folder), ClipReader(folder).keys(None), 0.0)
        ]
        found.append({figure: float(np.mean([clip[figure] for clip in clips])) for figure in FIGURES})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/tune_motion"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tune_motion.json")
    options = parser.parse_args()
    work = options.work
    prepare(options.clips, work / "whole", "--gate", "max_av_shift=1.5")
    whole = ClipReader(work / "whole")
    if not (work / "parts" / "manifest.json").exists():
        cut(work / "whole", work / "parts")
    folders = one_by_one(whole, work)
    tested = [folders[name] for name in TESTED]
    used = [folder for name, folder in folders.items() if name not in TESTED]
    emotion, _ = train("emotion", work / "parts", work / "emotion")
    given = [*FIXED, f"emotion={emotion.resolve()}", shards(used)]
    folder = sweep(work, given, options.workers)
    emohead("sweep", "report", folder)
    study = read_folder(folder).open()
    winner: Any = best(study)
    settings = {"by hand": HAND, "found": winner.user_attrs["words"]}
    states = {state.name: len(study.get_trials(deepcopy=False, states=(state,))) for state in TrialState}
    trained = len(list((folder / "trials").glob("*/without_*/scores.json")))
    result: dict[str, Any] = {"trials": states, "trainings": trained, "whole": len(study.trials) * len(used)}
    result |= {"best_trial": winner.number, "value": winner.value, "clips": [folder.name for folder in used]}
    for name, words in settings.items():
        kind = name.replace(" ", "_")
        result[name] = {
            "words": words,
            "left_out": left_out(work / f"{kind}_seed_0", [*given, *words]),
            "left_out_other_seed": left_out(work / f"{kind}_seed_9", [*given, *words, "seed=9"]),
            "put_aside": put_aside(work, kind, [*given, *words], tested, emotion),
        }
        print(name, json.dumps(result[name], indent=1), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
