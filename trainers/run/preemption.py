"""Leaving in good order: a signal or the end of a job's time sets a flag, all ranks see it a step later.

A handler does nothing but set the flag: saving within it would happen in the middle of a backward pass, on one rank.
While a process starts up, the command line holds the scheduler's signals back; they arrive when a `Notice` is made.
Ctrl-C is such a signal too, with two differences: a second one ends the process at once, and the job is not put back
into the queue, since somebody wanted it stopped.
"""

import signal
import sys
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)  # a scheduler's
EXIT_CODE = 75  # of a run that was saved and is to go on later; EX_TEMPFAIL of sysexits.h
INTERRUPTED = 128 + signal.SIGINT  # exit code of a run that was saved after Ctrl-C, as shells expect it


class Preempted(Exception):
    """The run was saved at a step and is to go on later."""

    def __init__(self, step: int, reason: str, *, by_hand: bool = False) -> None:
        super().__init__(f"saved at step {step} and left ({reason}); the same command goes on")
        self.by_hand = by_hand
        self.exit_code = INTERRUPTED if by_hand else EXIT_CODE


class Notice:
    """Whether this process has been told to leave."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.end: float | None = None  # of the job's time, as time.time()
        self.save_before = 0.0  # seconds before the end
        self.verdict: str | None = None  # why a run that others are compared with need not go on
        # A shell starts what runs in its background with SIGINT ignored: that stays so.
        by_hand = [] if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else [signal.SIGINT]
        self.before: dict[int, Any] = {number: signal.signal(number, self._note) for number in (*SIGNALS, *by_hand)}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def close(self, leaving: bool) -> None:
        """Give signals their old handlers back; or, if the process is `leaving`, let it ignore them."""
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_IGN if leaving else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.by_hand:  # whoever presses it again does not want to wait
            print("emohead: ended at once; the same command goes on from the last checkpoint", file=sys.stderr)
            raise SystemExit(INTERRUPTED)
        self.signal = self.signal or number

    @property
    def by_hand(self) -> bool:
        return self.signal == signal.SIGINT

    @property
    def reason(self) -> str | None:
        if self.signal is not None:
            return "Ctrl-C" if self.by_hand else signal.Signals(self.signal).name
        if self.end is not None and self.end - time.time() < self.save_before:
            return f"less than trainer.save_before={self.save_before:.0f} seconds of the job are left"
        return None
