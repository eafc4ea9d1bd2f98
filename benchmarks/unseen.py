"""Emotions that no stage ever saw, on the synthetic corpus: described by facial actions and voice, are they found?

    python benchmarks/unseen.py [--work runs/unseen] [--out benchmarks/results/unseen.json]

Two of the eight emotions and a quarter of the combinations of facial actions are kept from training; two thirds of the
clips show other combinations, described but without an emotion. Tested on people who were never seen: the description
of a clip asks for one image, or one voice, among one of each of all eight emotions (chance 0.125).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from emohead.datamodules.synthetic.corpus import SyntheticConfig, prepare_synthetic

UNSEEN = ("disgusted", "fear")
CORPUS = SyntheticConfig(
    identities=200, clips=2000, frames=50, acted=0.65, seed=5, val_identities=6, test_identities=24, workers=2
)
SETTINGS = [
    "trainer.max_steps=3000",
    "trainer.val_every=1500",
    "trainer.checkpoint_every=1500",
    "optimizer.lr=8e-4",  # at 1.4e-3 images stay at chance for a thousand steps of this corpus
    "augmentation=0.15",
    "tracking.wandb=disabled",
]


def emohead(*words: object) -> None:
    command = [sys.executable, "-m", "emohead.apps.cli", *map(str, words)]
    if code := subprocess.run(command).returncode:
        sys.exit(f"{' '.join(command)}: exit code {code}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/unseen"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "unseen.json")
    parser.add_argument("settings", nargs="*", help="key=value for the training of the emotion stage")
    options = parser.parse_args()
    data, run = options.work / "data", options.work / "emotion"
    if not (data / "manifest.json").exists():
        prepare_synthetic(data, CORPUS, progress=lambda done, total, _: print(f"\rdraw {done}/{total}", end=""))
        print()
    held_out = f"data.holdout_emotions=[{','.join(UNSEEN)}]"
    started = time.time()
    emohead(
        "train", "emotion", "-c", "emotion-debug", f"data.shards=[{data}]", f"run={run}", held_out, *SETTINGS,
        *options.settings,
    )  # fmt: skip
    seconds = time.time() - started
    emohead("evaluate", run / "export" / "emotion.safetensors", data, "--out", options.work)
    metrics = json.loads((options.work / "metrics.json").read_text())["metrics"]
    result = {name: value for name, value in metrics.items() if name.endswith("top1")}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"unseen": UNSEEN, "settings": [*SETTINGS, *options.settings], "training_seconds": seconds}
    options.out.write_text(json.dumps(content | {"metrics": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
