"""What single parts of the method are worth, on the synthetic corpus: each is left out by one setting.

    python benchmarks/ablations.py [--work runs/ablations] [--only motion face prior] [--out .../ablations.json]

motion: without the sync loss, without the emotion loss. The critics of the full run judge the sync and the emotion of
all runs alike.
face: one flow, that of the coarsest level, in place of one a level.
prior: a CLIP that first learned from facial actions alone is then taught six emotions, with and without the loss that
keeps what it knew; figures for the two emotions that were held out.
All short trainings at debug size, tested on people who were never seen.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from emohead.datamodules.synthetic import SyntheticConfig, prepare_synthetic
from emohead.models.emotion import EmotionSpace

CORPUS = SyntheticConfig(
    identities=120, clips=600, frames=50, acted=0.4, seed=5, val_identities=6, test_identities=20, workers=2
)
HELD_OUT = "data.holdout_emotions=[disgusted,fear]"
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
    emotion = runs.train("emotion", "emotion", "trainer.max_steps=500")
    cases = {"full": (), "no sync loss": ("loss.sync_loss=0",), "no emotion loss": ("loss.emotion_loss=0",)}
    cases["neither"] = ("loss.sync_loss=0", "loss.emotion_loss=0")
    found, critics = {}, runs.work / "motion-full" / "export" / "critics.safetensors"
    for name, settings in cases.items():
        export = runs.train("motion", f"motion-{name.replace(' ', '-')}", f"emotion={emotion}", *settings)
        found[name] = runs.evaluate(export, MOTION, "--emotion", emotion, "--critics", critics)
    return found


def face(runs: Runs) -> dict[str, Any]:
    short = ("trainer.max_steps=280", "adversary.start=1000")
    cases = {"full": (), "one flow": ("network.hierarchy=false",)}
    exports = {name: runs.train("face", f"face-{name.replace(' ', '-')}", *short, *s) for name, s in cases.items()}
    return {name: runs.evaluate(export, FACE) for name, export in exports.items()}


def prior(runs: Runs) -> dict[str, Any]:
    acted = runs.train("emotion", "emotion-acted", HELD_OUT, "trainer.max_steps=700", "loss.text_audio_loss=0.2")
    weights = runs.work / "clip.pt"
    space = EmotionSpace.from_checkpoint(acted)
    towers = {f"visual.{name}": tensor for name, tensor in space.image_tower.state_dict().items()}
    torch.save(towers | {f"text.{name}": t for name, t in space.text_tower.state_dict().items()}, weights)
    labels = "data.emotions=[angry,contempt,happy,neutral,sad,surprised]"
    tuned = ("trainer.max_steps=250", f"network.pretrained={weights}", labels)
    cases = {"with": ("loss.prior_loss=20",), "without": ()}
    exports = {name: runs.train("emotion", f"emotion-{name}", *tuned, *s) for name, s in cases.items()}
    found = {name: runs.evaluate(export, PRIOR, "--unseen", "disgusted,fear") for name, export in exports.items()}
    return found | {"before": runs.evaluate(acted, PRIOR, "--unseen", "disgusted,fear")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--only", nargs="+", choices=("motion", "face", "prior"), default=["motion", "face", "prior"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ablations.json")
    options = parser.parse_args()
    runs, parts = Runs(options.work), {"motion": motion, "face": face, "prior": prior}
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    for part in options.only:
        found[part] = parts[part](runs)
        print(json.dumps(found[part], indent=1), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
