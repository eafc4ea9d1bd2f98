"""A worker: takes one trial after another, trains it in a process of its own, and tells the study how it ended.

Workers come, go and are killed at any time. A trial whose worker is gone is taken up by another from its checkpoint. A
trial that fails, also for want of memory, is told as failed with its reason, and the worker goes on.
"""

import contextlib
import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from ...models.errors import Failure, UserError
from ...models.lock import held
from ..run.checkpoints import Checkpoints
from ..run.curves import read_metrics
from ..run.preemption import EXIT_CODE, INTERRUPTED, SIGNALS
from ..run.settings import CHECKPOINTS, report
from .leases import Lease, Leases
from .study import REASON, Folder, best, claim, resume
from .trial import verdict

POLL = 0.1  # seconds between two looks at a trial's process
RECHECK = 1.0  # seconds between two looks at the leases of others
GRACE = 2.0  # seconds before a killed trial counts as failed: whoever killed it may be about to kill its worker too
PR_SET_PDEATHSIG = 1  # of Linux's prctl
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: after a fork it might wait for ever
OUT_OF_MEMORY = (
    "emohead: out of memory"  # of run/memory_error.py; the other ranks are then killed, and the code is theirs
)


class Orders:
    """Signals that this worker got."""

    def __init__(self) -> None:
        self.number: int | None = None

    def listen(self) -> None:
        for number in (*SIGNALS, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as in a shell's background
                signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number

    @property
    def exit_code(self) -> int:
        return INTERRUPTED if self.number == signal.SIGINT else EXIT_CODE


class Worker:
    """Works on a sweep until nothing is left for it to do."""

    def __init__(self, folder: Folder, *, launch: list[str], max_failures: int) -> None:
        self.folder, self.launch, self.max_failures = folder, launch, max_failures
        self.study = folder.open()
        self.leases = Leases(folder.path / "leases")
        self.orders = Orders()
        self.logged = 0  # bytes of the trial's log before its process started

    def work(self) -> int:
        """Returns the exit code: 0 nothing is left to do, 75 told to leave, 130 Ctrl-C.

        Raises:
            Failure: more trials failed than may.
        """
        self.orders.listen()
        while self.orders.number is None:
            self.check_failures()
            taken = self.take()
            if taken is None:
                return 0 if self.orders.number is None else self.orders.exit_code
            number, lease = taken
            try:
                code = self.run(number, lease)
            finally:
                lease.release()
            if code is not None:
                return code
        return self.orders.exit_code

    def take(self) -> tuple[int, Lease] | None:
        """A trial that its worker has left, or else a new one; None if there is none, nor will be."""
        while self.orders.number is None:
            running = [t.number for t in self.trials(TrialState.RUNNING)]
            for number in running:
                lease = self.leases.take(number)
                if lease and self.state(number) == TrialState.RUNNING:
                    report(f"trial {number}: taken up again")
                    return number, lease
                if lease:  # it ended in this moment
                    lease.release()
            fresh = None if self.reached() else claim(self.study)
            if fresh is not None:
                lease = self.leases.take(fresh)
                if lease:
                    return fresh, lease
                continue
            if not any(self.leases.undecided(number) for number in running):
                return None
            time.sleep(RECHECK)
        return None

    def run(self, number: int, lease: Lease) -> int | None:
        """Train a trial to its end; an exit code if the worker is to leave with it."""
        folder = self.folder.run(number)
        self.check_access(folder)
        while held(folder) and self.orders.number is None and not lease.lost.is_set():
            time.sleep(RECHECK)  # ranks of a worker that died may outlive it
        if self.orders.number is not None:
            return self.orders.exit_code
        settings, words = resume(self.folder, self.study, number)
        if verdict(folder) is None:
            report(f"trial {number} of {len(self.study.get_trials(deepcopy=False))}: {shown(settings)}")
            code = self.train(number, words, lease)
            if lease.lost.is_set():
                report(f"trial {number}: another worker took this one for dead, and goes on with it")
                return None
            if self.orders.number is not None and code in (EXIT_CODE, INTERRUPTED, -signal.SIGINT):
                return self.orders.exit_code
            if code in (EXIT_CODE, INTERRUPTED):  # the trial alone was told to leave
                return code
            if signal_of(code) in {number.name for number in SIGNALS}:  # told so before it could save
                return EXIT_CODE
            if signal_of(code):
                time.sleep(GRACE)
                if self.orders.number is not None:
                    return self.orders.exit_code
            if code:
                self.tell(number, TrialState.FAIL, reason=self.reason(number, code))
                return None
        if verdict(folder) is not None:
            self.tell(number, TrialState.PRUNED)
        else:
            value = value_of(folder, self.folder.sweep.metric)
            if value is None:
                self.tell(number, TrialState.FAIL, reason=f"no validation with a finite {self.folder.sweep.metric}")
            else:
                self.tell(number, TrialState.COMPLETE, value)
        return None

    def train(self, number: int, words: list[str], lease: Lease) -> int:
        """`emohead train` in a process of its own; its exit code. It ends with this worker."""
        sweep, folder = self.folder.sweep, self.folder.run(number)
        train = [sys.executable, "-m", "emohead.apps.cli", "train", *sweep.command]
        command = [*self.launch, *train, *self.folder.own, *words, f"run={folder}"]
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.logged = self.folder.log(number).stat().st_size if self.folder.log(number).exists() else 0
        environment = {"WANDB_RUN_GROUP": sweep.name, **os.environ, **self.folder.trial(number).to_environment()}
        with open(self.folder.log(number), "ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                preexec_fn=partial(end_with, os.getpid()),
            )
        passed_on = False
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(POLL)
            if lease.lost.is_set():
                child.kill()
            if self.orders.number in SIGNALS and not passed_on:  # Ctrl-C reaches it by itself
                child.send_signal(self.orders.number)
                passed_on = True

    def tell(self, number: int, state: TrialState, value: float | None = None, reason: str = "") -> None:
        with contextlib.suppress(UpdateFinishedTrialError):  # told by another, while this worker stood still
            if reason:
                trial = optuna.Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)
                trial.set_user_attr(REASON, reason)
            self.study.tell(number, values=value, state=state, skip_if_finished=True)
        metric, first = self.folder.sweep.metric, best(self.study)
        ending = {
            TrialState.COMPLETE: f"{metric} {value:.5g}" if value is not None else "",
            TrialState.PRUNED: "ended early",
            TrialState.FAIL: f"failed: {reason}",
        }[state]
        leader = f"; best is trial {first.number} with {first.value:.5g}" if first else ""
        ended = sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))
        report(f"trial {number}: {ending}{leader}; {ended} of {self.folder.sweep.num_trials} have ended")

    def reason(self, number: int, code: int) -> str:
        """Why a trial's process failed, in one line: its own last words, or the signal that ended it."""
        with open(self.folder.log(number), "rb") as log:
            log.seek(self.logged)  # earlier legs had other reasons
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        own = next((line for line in reversed(lines) if line.startswith(OUT_OF_MEMORY)), None)
        name = signal_of(code)
        if own is None and name:
            return f"killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
        return (own or (lines or [f"exit code {code}"])[-1]).removeprefix("emohead: ")[:500]

    def check_failures(self) -> None:
        failed = self.trials(TrialState.FAIL)
        if len(failed) > self.max_failures:
            last = max(failed, key=lambda trial: trial.datetime_complete or trial.number)
            told = f"{len(failed)} trials have failed, the last (trial {last.number}): {last.user_attrs.get(REASON)}"
            raise Failure(f"{self.folder.path}: {told}; --max-failures allows {self.max_failures}")

    def check_access(self, folder: Path) -> None:
        """Raises UserError if a trial that another user began cannot be gone on with."""
        for path in (folder, folder.with_suffix(".log")):
            if path.exists() and not os.access(path, os.R_OK | os.W_OK):
                remedy = f"its owner must allow it: chmod -R g+rwX {self.folder.path}, and umask 002 for workers"
                raise UserError(path, "belongs to another user who lets nobody write there", remedy)

    def reached(self) -> bool:
        """Whether the value that the file names as its target has been found."""
        target, first = self.folder.sweep.target, best(self.study)
        if target is None or first is None or first.value is None:
            return False
        return first.value >= target if self.folder.sweep.maximize else first.value <= target

    def trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def state(self, number: int) -> TrialState:
        return self.study.get_trials(deepcopy=False)[number].state


def signal_of(code: int) -> str:
    """The signal that ended a process, by its exit code or by that of a shell or srun around it; empty if none did."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in set(signal.Signals) else ""


def end_with(parent: int) -> None:
    """In a new process: have it killed when its parent dies, so that nobody trains a trial that another took up."""
    if LIBC:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has died already
            os._exit(1)


def shown(settings: dict[str, Any]) -> str:
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items()
    )


def value_of(run: Path, metric: str) -> float | None:
    """The figure of what a run has exported: of its best checkpoint by the stage's metric; of its last validation if it
    kept none. None if there is none, or it is not finite."""
    path = run / "metrics.jsonl"
    curve = read_metrics(path).get(metric, []) if path.exists() else []
    best = [step for _, step in Checkpoints(run / CHECKPOINTS).best()][:1]
    found = [value for step, value in curve if [step] == best] or [value for _, value in curve[-1:]]
    return found[-1] if found and math.isfinite(found[-1]) else None
