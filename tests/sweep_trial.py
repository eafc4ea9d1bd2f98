"""In place of a trial's training, for tests of what is around it: `--launch "python sweep_trial.py"`.

Gets the words of `emohead train`, takes steps that cost nothing, saves each, goes on where it was, and validates like a
run does. The figure follows from optimizer.lr alone, so that the best trial is known.
"""

import json
import os
import sys
import time
from math import log10
from pathlib import Path

from emohead.trainers.sweeps.trial import watch

STEPS, VAL_EVERY = 18, 2


def value(lr: float, step: int) -> float:
    return (log10(lr) + 3) ** 2 + 1 / step


def lives(pid: str) -> bool:
    """Whether a process is there, and has not merely died unnoticed by its parent."""
    try:
        return bool(pid) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def main() -> None:
    given = dict(word.split("=", 1) for word in sys.argv if "=" in word)
    run, lr = Path(given["run"]), float(given["optimizer.lr"])
    run.mkdir(parents=True, exist_ok=True)
    pid = run / "pid"
    assert not (pid.exists() and lives(pid.read_text())), "two at once"
    pid.write_text(str(os.getpid()))
    metrics, report = run / "metrics.jsonl", watch()
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    done = [0, *(json.loads(line)["step"] for line in lines)]
    for step in range(done[-1] + 1, STEPS + 1):
        time.sleep(float(os.environ.get("STEP_SECONDS", 0)))
        told = None
        if step % VAL_EVERY == 0 and report:
            told = report(step, {"val/lip_loss": value(lr, step)})
        with open(metrics, "a") as file:
            row = {"step": step} | ({"val/lip_loss": value(lr, step)} if step % VAL_EVERY == 0 else {})
            file.write(json.dumps(row) + "\n")
        if told:
            return
    assert not (run / "ends").exists(), "run twice to its end"
    (run / "ends").touch()
    if lr > 0.05:
        print("emohead: out of memory in stage motion: try less", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
