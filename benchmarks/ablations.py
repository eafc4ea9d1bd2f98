"""The worth of single parts of the method, on the synthetic corpus: each is left out by one setting.

    python benchmarks/ablations.py [--work runs/ablations] [--only motion face prior] [--out .../ablations.json]

motion: without the sync loss, without the emotion loss. A jury of people who were never trained on judges all runs.
face: one flow, that of the coarsest level, in place of one a level.
prior: a CLIP that first learned from facial actions alone is then taught six emotions by name, with and without the
loss that keeps what it knew; figures for the two emotions that were held out.
All short trainings at debug size on the corpus of unseen.py, tested on people who were never seen.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from emohead.datamodules.sample import EMOTIONS
from emohead.datamodules.synthetic.corpus import prepare_synthetic
from emohead.models.emotion import EmotionSpace
from safetensors.torch import save_file
from unseen import CORPUS, FOLDS

UNSEEN = FOLDS[0]
GENTLE = ("optimizer.lr=8e-4", "augmentation=0.15")  # of the emotion stage, as in unseen.py
MOTION = ("mouth_correlation", "m_lmd", "sync_confidence", "emotion_accuracy", "kept_opening")
FACE = ("face_psnr", "face_ssim", "coarse_psnr", "copy_psnr")
PRIOR = tuple(f"{group}description_{name}_top1" for group in ("seen_", "unseen_") for name in ("image", "audio"))


def emohead(*words: object) -> None:
    command = [sys.executable, "-m", "emohead.apps.cli", *map(str, words)]
    if code := subprocess.run(command).returncode:
        sys.exit(f"{' '.join(command)}: exit code {code}")


class Runs:
    """Trainings and their evaluation in one folder; what is there is not done again."""

    def __init__(self, work: Path) -> None:
        self.work, self.data = work, work / "data"
        if not (self.data / "manifest.json").exists():
            prepare_synthetic(self.data, CORPUS)

    def train(self, stage: str, name: str, *settings: str) -> Path:
        run = self.work / name
        export = run / "export" / f"{stage}.safetensors"
        given = [f"data.shards=[{self.data}]", f"run={run}", "tracking.wandb=disabled", *settings]
        if not export.exists():
            emohead("train", stage, "-c", f"{stage}-debug", *given)
        return export

    def evaluate(self, export: Path, names: tuple[str, ...], *options: object) -> dict[str, float]:
        out = export.parent / "metrics"
        emohead("evaluate", export, self.data, "--out", out, *options)
        metrics = json.loads((out / "metrics.json").read_text())["metrics"]
        return {name: metrics[name] for name in names}


def motion(runs: Runs) -> dict[str, Any]:
    emotion = runs.train("emotion", "emotion", *GENTLE, "trainer.max_steps=1000")
    cases = {"full": (), "no sync loss": ("loss.sync_loss=0",), "no emotion loss": ("loss.emotion_loss=0",)}
    cases["neither"] = ("loss.sync_loss=0", "loss.emotion_loss=0")
    found = {}
    for name, settings in cases.items():
        export = runs.train("motion", f"motion-{name.replace(' ', '-')}", f"emotion={emotion}", *settings)
        found[name] = runs.evaluate(export, MOTION, "--emotion", emotion)
    return found


def face(runs: Runs) -> dict[str, Any]:
    short = ("trainer.max_steps=280", "adversary.start=1000")
    cases = {"full": (), "one flow": ("network.hierarchy=false",)}
    exports = {name: runs.train("face", f"face-{name.replace(' ', '-')}", *short, *s) for name, s in cases.items()}
    return {name: runs.evaluate(export, FACE) for name, export in exports.items()}


def prior(runs: Runs) -> dict[str, Any]:
    actions = f"data.holdout_emotions=[{','.join(EMOTIONS)}]"
    acted = runs.train("emotion", "emotion-acted", actions, *GENTLE, "trainer.max_steps=1500")
    space, weights = EmotionSpace.from_checkpoint(acted), runs.work / "clip.safetensors"
    towers = {"visual": space.image_tower, "text": space.text_tower}
    tensors = {f"{side}.{name}": t for side, tower in towers.items() for name, t in tower.state_dict().items()}
    save_file(tensors | {"logit_scale": torch.tensor(1.0)}, weights)  # which every CLIP has; not used here
    seen = [emotion for emotion in EMOTIONS if emotion not in UNSEEN]
    without = (f"data.emotions=[{','.join(seen)}]", f"data.holdout_emotions=[{','.join(UNSEEN)}]")  # in no text either
    tuned = ("trainer.max_steps=400", f"network.pretrained={weights}", *without, *GENTLE)
    cases = {"with": ("loss.prior_loss=20",), "without": ()}
    exports = {name: runs.train("emotion", f"emotion-{name}", *tuned, *s) for name, s in cases.items()}
    asked = ("--unseen", ",".join(UNSEEN))
    return {name: runs.evaluate(export, PRIOR, *asked) for name, export in ({"before": acted} | exports).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--only", nargs="+", choices=("motion", "face", "prior"), default=["motion", "face", "prior"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ablations.json")
    options = parser.parse_args()
    runs, parts = Runs(options.work), {"motion": motion, "face": face, "prior": prior}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        figures = parts[part](runs)
        print(json.dumps(figures, indent=1), flush=True)
        found = json.loads(options.out.read_text()) if options.out.exists() else {}
        options.out.write_text(json.dumps(found | {part: figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
