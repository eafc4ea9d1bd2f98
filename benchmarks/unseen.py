"""Emotions that no stage ever saw, on the synthetic corpus: are they found by their names, and by descriptions?

    python benchmarks/unseen.py [--quick] [--folds 5] [--work runs/unseen] [--results] [key=value …]

Each fold keeps two of the eight emotions from training: their clips, their words in all texts, and, of the clips that
show facial actions without an emotion (two thirds), the combinations that look like an emotion and a quarter of the
others. Tested on people who were never seen: what is asked for is one item among one of each of all eight emotions
(chance 0.125). Every emotion but neutral is held out at least once.

A fold takes about thirteen minutes on one core of an EPYC (Zen 3), after a corpus that is drawn once. `--quick` takes
about three, of which the figures say only that the way works. `--results` writes the tables of docs/results.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emohead.apps.evaluation_retrieval import DIRECTIONS, GROUPS, KINDS, RETRIEVED
from emohead.datamodules.synthetic.corpus import SyntheticConfig, prepare_synthetic
from emohead.models.checkpoint import load_checkpoint
from tables import put_into_results

FOLDS = (
    # Three pairs with little in common, one of which is easy to describe.
    ("disgusted", "fear"),
    ("angry", "happy"),
    ("contempt", "sad"),
    # Two pairs of neighbours, by raised and by lowered brows: without either, nothing has shown how they differ.
    ("fear", "surprised"),
    ("angry", "disgusted"),
)
CORPUS = SyntheticConfig(
    identities=200, clips=2000, frames=50, acted=0.65, seed=5, val_identities=6, test_identities=24, workers=2
)
QUICK_CORPUS = SyntheticConfig(
    identities=48, clips=384, frames=40, size=64, acted=0.5, seed=5, val_identities=2, test_identities=12, workers=2
)
STEPS, QUICK_STEPS = 2000, 300
SETTINGS = (
    "optimizer.lr=8e-4",  # at 1.4e-3 images stay at chance for a thousand steps of this corpus
    "augmentation=0.15",
    "tracking.wandb=disabled",
)
SHOWN = ("text_image", "text_audio", "description_image", "description_audio")  # of each fold by itself


def emohead(*words: object) -> None:
    command = [sys.executable, "-m", "emohead.apps.cli", *map(str, words)]
    if code := subprocess.run(command).returncode:
        sys.exit(f"{' '.join(command)}: exit code {code}")


def run_fold(data: Path, work: Path, unseen: Sequence[str], settings: Sequence[str]) -> dict[str, Any]:
    """Train without two emotions, or go on with it, and ask for all of them."""
    run = work / "-".join(unseen)
    held_out = f"data.holdout_emotions=[{','.join(unseen)}]"
    emohead("train", "emotion", "-c", "emotion-debug", f"data.shards=[{data}]", f"run={run}", held_out, *settings)
    export = run / "export" / "emotion.safetensors"
    emohead("evaluate", export, data, "--out", run / "evaluation")
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())["metrics"]
    found = {name: value for name, value in metrics.items() if name.endswith(RETRIEVED)}
    return {"unseen": list(unseen), "training_seconds": load_checkpoint(export).provenance["seconds"], "metrics": found}


def summary(folds: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation (0 of a single fold) of each figure that all folds have."""
    found = {}
    for name in folds[0]["metrics"]:
        values = [fold["metrics"][name] for fold in folds if name in fold["metrics"]]
        if len(values) == len(folds):
            sd = statistics.stdev(values) if len(values) > 1 else 0.0
            found[name] = {"mean": statistics.fmean(values), "sd": sd}
    return found


def table_of_directions(means: dict[str, dict[str, float]], num_folds: int) -> str:
    """Mean ± standard deviation over the folds: a row for each direction, a column for each group of emotions."""
    groups = [group for group in GROUPS if group]
    lines = [f"| found, top-1 of 8, {num_folds} folds | {' | '.join(GROUPS[group] for group in groups)} |"]
    lines.append("|---|" + "---:|" * len(groups))
    for a, b in DIRECTIONS:
        cells = [means.get(f"{group}{a}_{b}{RETRIEVED}") for group in groups]
        if any(cells):
            shown = ("–" if cell is None else f"{cell['mean']:.2f} ± {cell['sd']:.2f}" for cell in cells)
            lines.append(f"| {KINDS[a]} → {KINDS[b]} | {' | '.join(shown)} |")
    return "\n".join(lines)


def table_of_folds(folds: Sequence[dict[str, Any]]) -> str:
    """The unseen emotions of each fold."""
    names = [" → ".join(KINDS[kind] for kind in name.split("_")) for name in SHOWN]
    lines = [f"| unseen emotions | {' | '.join(names)} |", "|---|" + "---:|" * len(SHOWN)]
    for fold in folds:
        values = (fold["metrics"].get(f"unseen_{name}{RETRIEVED}") for name in SHOWN)
        cells = " | ".join("–" if value is None else f"{value:.2f}" for value in values)
        lines.append(f"| {', '.join(fold['unseen'])} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small corpus and few steps")
    parser.add_argument("--folds", type=int, default=len(FOLDS), help="how many of the folds, from the first")
    parser.add_argument("--work", type=Path, help="default: runs/unseen, or runs/unseen-quick")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/unseen.json, or in the folder of --work")
    parser.add_argument("--results", action="store_true", help="write the tables of docs/results.md")
    parser.add_argument("settings", nargs="*", help="key=value for the training of the emotion stage")
    options = parser.parse_args()
    work = options.work or Path("runs/unseen-quick" if options.quick else "runs/unseen")
    out = options.out or (work if options.quick else Path(__file__).parent / "results") / "unseen.json"
    steps = QUICK_STEPS if options.quick else STEPS
    settings = [f"trainer.max_steps={steps}", f"trainer.val_every={steps // 2}", *SETTINGS, *options.settings]
    if not (work / "data" / "manifest.json").exists():
        corpus = QUICK_CORPUS if options.quick else CORPUS
        prepare_synthetic(
            work / "data", corpus, progress=lambda done, total, _: print(f"\rdraw {done}/{total}", end="")
        )
        print()
    folds: list[dict[str, Any]] = []
    for unseen in FOLDS[: options.folds]:
        folds.append(run_fold(work / "data", work, unseen, settings))
        content = {"settings": settings, "quick": options.quick, "folds": folds, "summary": summary(folds)}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1) + "\n")
    tables = [table_of_directions(summary(folds), len(folds)), table_of_folds(folds)]
    print("\n\n".join(tables))
    if options.results:
        put_into_results("unseen", "\n\n".join(tables))


if __name__ == "__main__":
    main()
