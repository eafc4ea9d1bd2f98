"""The discriminator's steps as its gradient is and cut down to optimizer.clip_norm, on a small synthetic corpus.

    python benchmarks/clipping.py [--work runs/clipping] [--steps 160] [--start 40] [--out FILE] [key=value ...]

face-debug twice, with an adversary that begins early and at its usual weight. Figures are over the second half of its
steps: norms of the gradients of the discriminator and of its lazy penalty, the penalty itself, and by how much the
logits of true frames are above those of made ones. About 3 seconds for each step of `--steps` on two cores of an EPYC.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from emohead.datamodules.synthetic.corpus import SyntheticConfig, prepare_synthetic
from emohead.trainers.face import FaceStage
from emohead.trainers.run.curves import read_metrics
from emohead.trainers.run.train import train
from emohead.trainers.stage import Stage

CORPUS = SyntheticConfig(identities=24, clips=72, frames=40, size=128, val_identities=2, test_identities=1, workers=2)
WAYS = {"cut down": Stage.clip_norm, "as it is": FaceStage.clip_norm}
COLUMNS = {  # of a row of the table, and the figure of metrics.jsonl that it is the median of
    "norm, discriminator": "grad_norm_discriminator",
    "norm, penalty": "grad_norm_gradient_penalty",
    "penalty": "gradient_penalty",
    "true logit": "real_logit",
    "made logit": "fake_logit",
}


def measure(run: Path, way: str, start: int, settings: list[str]) -> dict[str, float]:
    """Medians over the second half of the adversary's steps, and the greatest norms there."""
    if not (run / "export").exists():
        FaceStage.clip_norm = WAYS[way]  # type: ignore[method-assign]
        train("face", [Path("face-debug")], [*settings, f"run={run}"])
    curves = read_metrics(run / "metrics.jsonl")
    last = max(step for step, _ in curves["train/loss"])
    late = {
        column: [value for step, value in curves[f"train/{name}"] if step > (start + last) / 2]
        for column, name in COLUMNS.items()
    }
    found = {column: statistics.median(values) for column, values in late.items()}
    gaps = [true - made for true, made in zip(late["true logit"], late["made logit"], strict=True)]
    greatest = {f"greatest {column}": max(late[column]) for column in list(COLUMNS)[:2]}
    return found | greatest | {"gap of logits": statistics.median(gaps)}


def table(rows: dict[str, dict[str, float]]) -> str:
    columns = [*COLUMNS, "gap of logits"]
    lines = ["| gradient of the discriminator | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for way, found in rows.items():
        cells = [f"{found[c]:.3g} (≤ {found[f'greatest {c}']:.3g})" for c in columns[:2]]
        lines.append(f"| {way} | " + " | ".join([*cells, *(f"{found[c]:.3g}" for c in columns[2:])]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/clipping"))
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--start", type=int, default=40, help="the first step of the adversary")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "clipping.json")
    parser.add_argument("settings", nargs="*", help="key=value for both trainings")
    options = parser.parse_args()
    if options.steps - options.start < 32:
        parser.error("--steps must be 32 more than --start, so that a penalty lies in the second half")
    data = options.work / "data"
    if not (data / "manifest.json").exists():
        prepare_synthetic(data, CORPUS)
    settings = [f"data.shards=[{data}]", f"trainer.max_steps={options.steps}", f"trainer.val_every={options.steps}"]
    settings += [f"adversary.start={options.start}", "trainer.log_every=1", "tracking.wandb=disabled"]
    settings += options.settings
    rows: dict[str, Any] = {}
    for way in WAYS:
        rows[way] = measure(options.work / way.replace(" ", "-"), way, options.start, settings)
        print(way, json.dumps(rows[way], indent=1), flush=True)
    print(table(rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"settings": settings[1:], "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
