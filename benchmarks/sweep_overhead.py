"""What a sweep costs beside its training: 200 trials that train nothing, by 16 workers at once on one machine.

    python benchmarks/sweep_overhead.py [--trials 200] [--workers 16] [--out benchmarks/results/sweep_overhead.json]

In place of `emohead train` each trial starts tests/sweep_trial.py, which reports nine validations and ends. Measured,
for one worker and for all, are the seconds of a worker a trial, less the trial's own process; how long an append to the
journal waits for its lock; the size of the journal.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from emohead.trainers.sweeps import journal
from emohead.trainers.sweeps.study import begin
from emohead.trainers.sweeps.worker import Worker

ROOT = Path(__file__).parents[1]
SWEEP = """
method: bayes
metric: {name: val/lip_loss, goal: minimize}
run_cap: TRIALS
early_terminate: {type: hyperband, min_iter: 1, eta: 3}
command: [emohead, train, motion, -c, motion-debug, trainer.max_steps=18, trainer.val_every=2, "${args_no_hyphens}"]
parameters:
  optimizer.lr: {distribution: log_uniform_values, min: 1.0e-5, max: 2.0e-2}
  gain: {min: 0.1, max: 1.0}
"""


class Timed(journal.TwofoldJournal):
    """Notes how long each append waits for the lock, and how long it takes in all."""

    waits: list[float]
    takes: list[float]

    def append_logs(self, logs: list[dict]) -> None:
        started = time.perf_counter()
        acquire = self.lock.acquire

        def timed() -> bool:
            got = acquire()
            Timed.waits.append(time.perf_counter() - started)
            return got

        self.lock.acquire = timed  # type: ignore[method-assign]
        super().append_logs(logs)
        self.lock.acquire = acquire  # type: ignore[method-assign]
        Timed.takes.append(time.perf_counter() - started)


class TimedWorker(Worker):
    """Notes the seconds within trials' processes."""

    training = 0.0

    def train(self, number: int, words: list[str], lease) -> int:
        started = time.perf_counter()
        code = super().train(number, words, lease)
        self.training += time.perf_counter() - started
        return code


def work(file: Path, out: Path, found: Path) -> None:
    journal.TwofoldJournal = Timed  # type: ignore[misc]
    Timed.waits, Timed.takes = [], []
    os.chdir(ROOT)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    worker = TimedWorker(begin(file, out, [], 0), launch=[sys.executable, "-m", "tests.sweep_trial"], max_failures=0)
    started = time.perf_counter()
    code = worker.work()
    seconds = time.perf_counter() - started
    found.write_text(json.dumps([seconds, worker.training, Timed.waits, Timed.takes]))
    os._exit(code)


def measure(folder: Path, trials: int, workers: int) -> dict[str, float]:
    folder.mkdir()
    file = folder / "sweep.yaml"
    file.write_text(SWEEP.replace("TRIALS", str(trials)))
    fork = multiprocessing.get_context("fork")
    started = time.perf_counter()
    processes = [
        fork.Process(target=work, args=(file, folder / "out", folder / f"{number}.json")) for number in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    seconds = time.perf_counter() - started
    parts = [json.loads((folder / f"{number}.json").read_text()) for number in range(workers)]
    waits, takes = (np.concatenate([part[i] for part in parts]) for i in (2, 3))
    return {
        "seconds": seconds,
        "worker_seconds_a_trial": sum(part[0] - part[1] for part in parts) / trials,
        "lock_wait_median_ms": float(np.median(waits)) * 1000,
        "lock_wait_p99_ms": float(np.quantile(waits, 0.99)) * 1000,
        "append_median_ms": float(np.median(takes)) * 1000,
        "journal_kb_a_trial": (folder / "out" / journal.JOURNAL).stat().st_size / trials / 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "sweep_overhead.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        alone = measure(Path(folder) / "one", max(1, given.trials // given.workers), 1)
        together = measure(Path(folder) / "many", given.trials, given.workers)
    found = {"trials": given.trials, "workers": given.workers, "one_worker": alone, "all_workers": together}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
