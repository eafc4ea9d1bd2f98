"""Steps of the debug stages in both precisions, on this processor and made to behave as one with AVX2 alone.

A made-up batch of the configured size goes through whole training steps, the precisions in turns, so that the machine's
moods hit both. AVX2: the same in a process of its own with ONEDNN_MAX_CPU_ISA and ATEN_CPU_CAPABILITY set.

    python benchmarks/precision.py [--out benchmarks/results/precision.json]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from emohead.datamodules.batch import made_up_batch
from emohead.trainers.engines.precision import processor, settled
from emohead.trainers.face import FaceStage
from emohead.trainers.run.cpu import spare_cpu
from emohead.trainers.run.train import quieten
from engines import attach_engines
from overhead import make_stage

STAGES = ("emotion", "motion", "face", "distill")
PRECISIONS = ("32-true", "bf16-mixed")
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
WARM_UP, SECONDS = 2, 4.0  # steps, and how long each precision is measured
LINE = "{mode:6} {stage:8} {fp32:9.1f} {bf16:9.1f} samples/s {ratio:6.2f}   auto: {auto}"


def measure(name: str, folder: Path) -> dict[str, float]:
    """Samples a second of each precision, of the median step."""
    stages = {p: make_stage(name, folder, f"trainer.precision={p}").train() for p in PRECISIONS}
    for stage in stages.values():
        attach_engines(stage)
        if isinstance(stage, FaceStage):
            stage.config.adversary.start = 1_000_000  # without the adversary, as most of the demo's steps are
    size = stages["32-true"].config.data.batch_size
    batch = made_up_batch(name, batch_size=size, size=128, num_frames=40)
    taken: dict[str, list[float]] = {p: [] for p in PRECISIONS}
    while min(map(sum, taken.values())) < SECONDS or min(map(len, taken.values())) < WARM_UP + 3:
        for precision, stage in stages.items():
            started = time.perf_counter()
            stage.training_step(batch, 0)
            stage.num_batches += 1
            taken[precision].append(time.perf_counter() - started)
    return {p: size / statistics.median(times[WARM_UP:]) for p, times in taken.items()}


def measure_here(mode: str) -> list[dict[str, Any]]:
    spare_cpu()
    quieten()
    warnings.filterwarnings("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stage in ("emotion", "motion", "face"):
            make_stage(stage, folder).export(folder / f"{stage}.safetensors", {})
        for stage in STAGES:
            found = measure(stage, folder)
            ratio = found["bf16-mixed"] / found["32-true"]
            row = {"mode": mode, "stage": stage, "fp32": found["32-true"], "bf16": found["bf16-mixed"], "ratio": ratio}
            rows.append(row | {"auto": settled("auto", "cpu")})
            print(LINE.format(**rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "precision.json")
    parser.add_argument("--mode", help=argparse.SUPPRESS)  # of a process that this one starts
    options = parser.parse_args()
    if options.mode:
        print(json.dumps(measure_here(options.mode)))
        return
    rows: list[dict[str, Any]] = []
    for mode, changed in (("as it is", {}), ("AVX2", AVX2)):
        command = [sys.executable, __file__, "--mode", mode]
        done = subprocess.run(command, env=os.environ | changed, stdout=subprocess.PIPE, text=True, check=True)
        rows += json.loads(done.stdout.splitlines()[-1])
    result = {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
