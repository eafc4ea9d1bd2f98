"""One acceptance run of a machine with a GPU: whether it computes what a CPU does, how fast, and what survives.

Each row is a process of its own, the most valuable first. What it found is written when it ends, so that a machine that
is taken away leaves what was found until then. `--device cpu --tiny` goes through the same code without a GPU; gpu.sh
calls this.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tables import put_into_results

HERE = Path(__file__).parent
SLOW = 240  # seconds that a row may take
SHORT = 5  # seconds for which no row is begun any more


class Row(NamedTuple):
    file: str
    words: str  # the function in it and its arguments


ROWS = [
    Row("gpu_speed", "ceilings"),
    *(Row("gpu_truth", f"same {stage}") for stage in ("motion", "face", "emotion", "distill")),
    Row("gpu_truth", "chain"),
    Row("gpu_truth", "resume"),
    *(Row("gpu_speed", f"steps {stage} bf16-mixed") for stage in ("face", "emotion", "motion", "distill")),
    Row("gpu_speed", "yardstick"),
    Row("gpu_truth", "engines"),
    Row("gpu_truth", "checkpoints"),
    Row("gpu_speed", "waits face"),
    Row("gpu_speed", "waits motion"),
    Row("gpu_speed", "steps face bf16-mixed compile"),
    *(Row("gpu_speed", f"steps {stage} bf16-mixed times=4") for stage in ("face", "emotion", "motion")),
    Row("gpu_data", "loader face"),
    *(Row("gpu_truth", f"half {stage}") for stage in ("face", "distill")),
    Row("gpu_truth", "memory"),
    Row("gpu_speed", "kernels"),
    *(Row("gpu_speed", f"steps {stage} 32-true") for stage in ("face", "emotion", "motion", "distill")),
    *(Row("gpu_speed", f"steps motion bf16-mixed zero={zero}") for zero in (0, 1, 2, 3)),
    Row("gpu_speed", "steps face bf16-mixed trainer.recompute=true"),
    *(Row("gpu_speed", f"waits {stage}") for stage in ("emotion", "distill")),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="debug sizes and a few steps: shows that it runs")
    parser.add_argument("--seconds", type=float, default=540, help="time for all rows; those left over are named")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="rows that have one of these words")
    parser.add_argument("--results", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    machine = describe(options.device)
    if machine is None:
        print("no GPU here: nothing was measured (--device cpu --tiny goes through the same code)")
        return
    chosen = [row for row in ROWS if not options.only or set(row.words.split()) & set(options.only)]
    found = measure(chosen, machine, options)
    failed = [row["row"] for row in found["rows"] if row["failed"]]
    print(f"{len(found['rows'])} rows in {found['seconds']:.0f} s, failed: {', '.join(failed) or 'none'}")
    if found["left_out"]:
        print(f"left out for want of time: {', '.join(found['left_out'])}")
    if options.results:
        put_into_results("gpu", table(found))
    sys.exit(1 if failed else 0)


def describe(device: str) -> dict[str, Any] | None:
    """The device and the versions; None if there is no such device. Asked of another process: importing takes long."""
    code = """
import json, torch
from emohead.trainers.engines.precision import processor
cuda = torch.cuda.is_available()
name = torch.cuda.get_device_name() if cuda else None
print(json.dumps({"gpu": name, "processor": processor(), "torch": torch.__version__, "cuda": torch.version.cuda}))
"""
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    machine = json.loads(told.splitlines()[-1])
    return None if device == "cuda" and machine["gpu"] is None else machine | {"device": device}


def measure(rows: list[Row], machine: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Run rows while there is time; what was found is in the file after each."""
    began = time.monotonic()
    found: dict[str, Any] = machine | {"tiny": options.tiny, "seconds": 0.0, "rows": [], "left_out": []}
    with tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(rows):
            left = options.seconds - (time.monotonic() - began)
            if left < SHORT:
                found["left_out"] = [row.words for row in rows[number:]]
                break
            print(f"[{number + 1}/{len(rows)}, {left:.0f} s left] {row.words}", flush=True)
            found["rows"].append(run(row, folder, options, min(left, SLOW)))
            found["seconds"] = round(time.monotonic() - began, 1)
            write(options.out, found)
    write(options.out, found)
    return found


def run(row: Row, folder: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """One row in a process of its own; what it found, or the last line that it said."""
    command = [sys.executable, str(HERE / f"{row.file}.py"), *row.words.split()]
    command += ["--device", options.device, "--folder", folder, *(["--tiny"] if options.tiny else [])]
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        out, error = done.stdout, done.stderr.strip() if done.returncode else ""
    except subprocess.TimeoutExpired as late:
        out, error = (late.stdout or b"").decode(), f"took more than {seconds:.0f} s"
    findings = [json.loads(line) for line in out.splitlines() if line.startswith('{"what"')]
    for finding in findings:
        print("   ", words_of(finding), flush=True)
    if error:
        print("    failed:", error.splitlines()[-1], flush=True)
    took = round(time.monotonic() - began, 1)
    return {"row": row.words, "seconds": took, "found": findings, "failed": error[-2000:]}


def words_of(finding: dict[str, Any]) -> str:
    figures = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in finding.items()}
    return f"{figures.pop('what')}: " + ", ".join(f"{key} {value}" for key, value in figures.items())


def table(found: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    lines = [f"{found['gpu'] or found['processor']}, torch {found['torch']}:", "", "| row | found |", "|---|---|"]
    for row in found["rows"]:
        told = [words_of(finding) for finding in row["found"]] + (["failed"] if row["failed"] else [])
        lines.append(f"| `{row['row']}` | {'<br>'.join(told)} |")
    return "\n".join(lines)


def write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(partial, path)


if __name__ == "__main__":
    main()
