"""The demo's figures over seeds, on this processor and made to behave as one with AVX2 alone: mean and worst of each.

Each demo has one thread, and as many run side by side as there are cores: figures are wanted here, not times. Both
kinds have the same corpora, which do not hang on the processor. Results are added to those that the file holds already,
of other seeds and processors.

    python benchmarks/demo_seeds.py [--seeds 1 2 3 4 5] [--modes AVX2] [--work runs/seeds] [--readme]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from emohead.apps.demo_plan import FULL
from emohead.datamodules.dataset.manifest import MANIFEST
from emohead.datamodules.synthetic.corpus import SyntheticConfig, prepare_synthetic
from emohead.trainers.engines.precision import processor, settled
from precision import AVX2

CORPORA: dict[int, Lock] = defaultdict(Lock)
MODES: dict[str, dict[str, str]] = {"as it is": {}, "AVX2": AVX2}
README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- figures:start -->\n", "<!-- figures:end -->\n"


def corpus(work: Path, seed: int) -> Path:
    out = work / f"corpus-{seed}"
    with CORPORA[seed]:
        if not (out / MANIFEST).exists():
            prepare_synthetic(out, SyntheticConfig(seed=seed, workers=2, **FULL.corpus), codec="mjpeg")
    return out.resolve()


def folder(work: Path, mode: str, seed: int) -> Path:
    return work / f"{mode.replace(' ', '-')}-{seed}"


def demo(work: Path, mode: str, seed: int) -> dict[str, float]:
    """The figures of one demo by name; what is there already is not made again."""
    out = folder(work, mode, seed)
    if not (out / "metrics.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "data").exists():
            (out / "data").symlink_to(corpus(work, seed))
        command = [sys.executable, "-m", "emohead.apps.cli", "demo", "--out", str(out), "--seed", str(seed)]
        with open(out.with_suffix(".log"), "w") as log:
            environment = os.environ | MODES[mode] | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
        print(f"{mode}, seed {seed}: done", file=sys.stderr, flush=True)
    figures = json.loads((out / "metrics.json").read_text())["figures"]
    return {figure["name"]: figure["value"] for figure in figures}


def kind(mode: str) -> str:
    """The column of the table: the arithmetic that the figures hang on."""
    if mode != "as it is":
        return mode
    bf16 = settled("auto", "cpu") == "bf16-mixed"
    return "with avx512_bf16" if bf16 else torch.backends.cpu.get_cpu_capability().replace("AVX512", "AVX-512")


def table(figures: list[dict[str, Any]], runs: list[dict[str, Any]]) -> str:
    """Markdown: mean and worst of each figure for each kind of processor."""
    kinds = {name: [run["figures"] for run in runs if run["kind"] == name] for name in {run["kind"]: 0 for run in runs}}
    counts = {name: f"{len(found)} seed" + "s" * (len(found) > 1) for name, found in kinds.items()}
    head = " | ".join(f"{name}, {count}: mean | worst" for name, count in counts.items())
    lines = [f"| figure | {head} | baseline | wanted |", "|---|" + "---:|" * (2 * len(kinds) + 2)]
    for figure in figures:
        name, cells = figure["name"], []
        for found in kinds.values():
            values = [run[name] for run in found]
            cells += [f"{statistics.mean(values):.2f}", f"{min(values):.2f}"]
        measured = name.startswith("PSNR")  # its baseline differs from seed to seed, and has a row of its own
        baseline = "" if measured or figure["baseline"] is None else f"{figure['baseline']:.2f}"
        wanted = "" if figure["target"] is None else f"≥ {figure['target']:.2f}"
        lines.append(f"| {name}, {figure['unit']} | {' | '.join(cells)} | {baseline} | {wanted} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--work", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "demo_seeds.json")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    asked = [(mode, seed) for seed in options.seeds for mode in options.modes]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(lambda one: demo(options.work, *one), asked))
    runs = json.loads(options.out.read_text())["runs"] if options.out.exists() else []
    for (mode, seed), figures in zip(asked, done, strict=True):
        runs = [run for run in runs if (run["kind"], run["seed"]) != (kind(mode), seed)]
        runs.append({"kind": kind(mode), "seed": seed, "processor": processor(), "figures": figures})
    first = json.loads((folder(options.work, *asked[0]) / "metrics.json").read_text())
    written = table(first["figures"], runs)
    print(written)
    options.out.write_text(json.dumps({"corpus": first["corpus"], "runs": runs}, indent=1) + "\n")
    if options.readme:
        before, _, rest = README.read_text().partition(START)
        README.write_text(before + START + written + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
