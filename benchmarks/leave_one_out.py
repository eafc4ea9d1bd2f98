"""A trial of a sweep that trains the motion stage several times: on all data sets but one, tested on that one.

    emohead sweep FILE --launch "python benchmarks/leave_one_out.py" 'data.shards=[clips/a,clips/b,clips/c]'

Gets the trial's command, and runs it once for each folder of data.shards, in RUN/without_NAME. After each it notes the
mean of the figures so far in RUN/metrics.jsonl and reports it, as a training does after a validation: trainer.max_steps
has to be trainer.val_every times the number of folders, so that early_terminate counts folders. What is there is not
done again. Without a sweep: python benchmarks/leave_one_out.py emohead train motion ... data.shards=[...] run=...
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from emohead.datamodules.dataset.reader import ClipReader
from emohead.models.emotion import EmotionSpace
from emohead.trainers.sweeps.trial import TRIAL, watch
from real_clips import motion_figures

FIGURES = {"correlation": "val/mouth_correlation", "m_lmd": "val/m_lmd", "mean_motion_m_lmd": "val/mean_motion_m_lmd"}


def score(command: list[str], folders: list[Path], left: Path, run: Path, emotion: Path) -> dict[str, float]:
    """Train without one folder, unless that is done; the means over its clips."""
    scores, export = run / "scores.json", run / "export" / "motion.safetensors"
    if not scores.exists():
        shards = ",".join(str(folder) for folder in folders if folder != left)
        environment = {name: value for name, value in os.environ.items() if name != TRIAL}  # it is not the trial
        given = [f"data.shards=[{shards}]", f"run={run}"]
        if code := subprocess.run([*command, *given], env=environment).returncode:
            sys.exit(code)
        reader, space = ClipReader(left), EmotionSpace.from_checkpoint(emotion).eval()
        found = motion_figures(export, space, reader, reader.keys(None), 0.0)
        scores.write_text(json.dumps({name: float(np.mean([clip[name] for clip in found])) for name in FIGURES}))
    return json.loads(scores.read_text())


def main() -> None:
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    command = [word for word in sys.argv[1:] if not word.startswith(("data.shards=", "run="))]
    folders = [Path(folder) for folder in given["data.shards"].strip("[]").split(",")]
    run, val_every = Path(given["run"]), int(given["trainer.val_every"])
    report, found = watch(), []
    run.mkdir(parents=True, exist_ok=True)
    metrics = run / "metrics.jsonl"
    metrics.unlink(missing_ok=True)
    for done, left in enumerate(folders, start=1):
        found.append(score(command, folders, left, run / f"without_{left.name}", Path(given["emotion"])))
        row = {name: float(np.mean([fold[figure] for fold in found])) for figure, name in FIGURES.items()}
        with open(metrics, "a") as file:
            file.write(json.dumps({"step": done * val_every} | row) + "\n")
        print(f"{done} of {len(folders)} folders: {row}", flush=True)
        if report and report(done * val_every, row):
            return


if __name__ == "__main__":
    main()
