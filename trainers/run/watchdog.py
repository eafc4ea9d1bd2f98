"""Ends a job in which a rank has died or hangs, and says which one, at what step, with which samples.

A collective operation waits for all ranks, so one rank that stands still stops them all. About once a second each rank
tells the others, through the store of the process group, where it is and that it is alive. Each looks after the next
one, which has died or is frozen if it gives no sign for long; NCCL alone would often not notice, and hold all GPUs.
What all ranks told is read only when something is wrong.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from ..engines.deepspeed import DeepSpeedEngine
from ..engines.late import Late
from ..engines.plain import PlainEngine
from ..engines.ranks import mean_of_all
from .background import Background
from .strategy import Agreement

INTERVAL = 1.0  # seconds between two signs of life
LOOK = 3.0  # seconds in which a living rank gives one
CHECK = 10.0  # seconds between two looks at the next rank
SILENCE = 30.0  # seconds without a sign after which a rank is lost
ANSWER = timedelta(seconds=10)  # that the store may take
MAX_KEYS = 8
LAST_RESORT = 40.0  # seconds that leaving may take
PEER_GONE = ("connection closed by peer", "connection reset by peer", "gloo", "nccl", "broken pipe", "socket timeout")


NEVER = 0  # in place of the count: no sign yet
UNHEARD: tuple = (0, [], "unknown", NEVER, False)
OVER = "watchdog/over"  # in the store once a rank has ended the job
LEFT = -1  # in place of the count: the rank has ended its training, and gives no more signs


WAITS = {  # functions in which a rank reads what needs all ranks
    function.__code__
    for function in (
        PlainEngine.step,
        DeepSpeedEngine.step,
        Late.read,
        mean_of_all,
        Agreement.greatest,
        Agreement.at_once,
        Background.wait_for_others,
    )
}


class Sign(NamedTuple):
    """A rank's last report of itself."""

    step: int
    keys: list[str]
    host: str
    alive: int  # counts up
    waiting: bool  # for the others, in a collective operation

    @property
    def left(self) -> bool:
        return self.alive == LEFT

    @property
    def samples(self) -> str:
        return f"its last samples: {', '.join(self.keys) or 'none yet'}"


class Watchdog:
    """Watches over one rank, from a thread of its own.

    timeout: seconds that a step may take.
    host: the name of this machine in what is told.
    blame: called with the machines of the ranks that hold up the run, once they are found.
    """

    def __init__(
        self,
        *,
        num_ranks: int,
        timeout: float,
        host: str | None = None,
        blame: Callable[[list[str]], None] | None = None,
    ) -> None:
        self.rank, self.num_ranks, self.timeout = 0, num_ranks, timeout
        self.host, self.blame = host or socket.gethostname(), blame
        self.step = 0
        self.keys: list[str] = []
        self.moved = time.monotonic()
        self.alive = 0
        self.over = ""  # the words of another rank that has ended the job
        self.explaining = False  # an error, after which this rank leaves by itself
        self.answered = self.moved  # the store, last
        self.next_alive = NEVER  # the last sign of the next rank
        self.next_heard = self.moved
        self.store: Any = None
        self.stopped, self.well = threading.Event(), True
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        """Once the ranks have joined, if there are several."""
        if self.num_ranks > 1:
            self.rank = dist.get_rank()
            # A connection of its own: the process group blocks on the one it has.
            store: Any = dist.distributed_c10d._get_default_store()  # torch's stub lacks `clone`
            self.store = store.clone()
            self.store.set_timeout(ANSWER)
        self.moved = self.answered = self.next_heard = time.monotonic()
        for work in (self._tell, self._watch):  # a rank that judges the others must still give signs itself
            self.threads.append(threading.Thread(target=work, name=f"watchdog{work.__name__}", daemon=True))
            self.threads[-1].start()

    def beat(self, step: int, keys: Sequence[str] | None = None) -> None:
        """Something moves: a step begins, with these samples, or a part of a validation or a checkpoint."""
        self.step, self.moved = step, time.monotonic()
        self.keys = self.keys if keys is None else list(keys[:MAX_KEYS])

    def stop(self, *, well: bool = True) -> None:
        """Give no more signs: the training has ended; or it has failed (not `well`), and the others are to miss it."""
        self.well = well
        self.stopped.set()
        for thread in self.threads:
            thread.join(timeout=INTERVAL)

    def _tell(self) -> None:
        looked = time.monotonic()
        while self.store is not None:
            stopped = self.stopped.is_set()
            if stopped and not self.well:
                return
            self.alive += 1
            sign = Sign(self.step, self.keys, self.host, LEFT if stopped else self.alive, in_collective())
            try:
                self.store.set(f"watchdog/{self.rank}", json.dumps(sign))
                self.over = self._words()
                self.answered = time.monotonic()
                if self.answered - looked > CHECK:
                    looked = self.answered
                    self._listen()
            except Exception:  # it may answer again; if it does not, rank 0 is lost
                pass
            if stopped:
                return
            self.stopped.wait(INTERVAL)

    def _words(self) -> str:
        """Those of the rank that has ended the job, if one has."""
        return self.store.get(OVER).decode() if self.store.check([OVER]) else ""

    def _first_words(self) -> str:
        try:
            return "" if self._store_is_lost() else self._words()
        except Exception:  # the store is gone
            return ""

    def _listen(self) -> None:
        """Note whether the next rank has given a sign since the last time."""
        key = f"watchdog/{(self.rank + 1) % self.num_ranks}"
        alive = Sign(*json.loads(self.store.get(key))).alive if self.store.check([key]) else self.next_alive
        if alive != self.next_alive or alive in (NEVER, LEFT):
            self.next_heard = time.monotonic()
        self.next_alive = alive

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self.stopped.wait(INTERVAL):
            now = time.monotonic()
            if now - looked > 10 * INTERVAL:  # this process itself was stopped: it has heard nothing meanwhile
                self.answered = self.next_heard = now
            looked, still = now, now - self.moved
            if still > self.timeout:
                self._leave(f"{self.verdict(still)} (trainer.timeout={self.timeout:g})")
            elif not self.explaining and (self.over or self._lost()):
                self._leave(self.over or self.verdict(still))

    def _leave(self, line: str) -> None:
        """Say why, tell the others, and end this process: nothing less leaves a collective that hangs."""
        last_resort = threading.Timer(LAST_RESORT, os._exit, (1,))  # if the store or a disk hangs as well
        last_resort.daemon = True
        last_resort.start()
        print(f"emohead: {line}", file=sys.stderr, flush=True)
        self._end_all(line)
        if trace := self._keep_trace():
            print(f"emohead: {trace}", file=sys.stderr, flush=True)
        self.let_others_look()
        os._exit(1)

    def _keep_trace(self) -> str:
        """Write down what NCCL's flight recorder holds; a line that names the file, if there is one."""
        try:
            if self.num_ranks == 1 or dist.get_backend() != "nccl":
                return ""
            path = Path(f"{os.environ['TORCH_FR_DUMP_TEMP_FILE']}{self.rank}")
            c10d: Any = torch._C._distributed_c10d  # a build without NCCL lacks it
            path.write_bytes(c10d._dump_nccl_trace())
        except Exception:  # nothing may keep this process from leaving
            return ""
        return f"{path} holds the last collective operations of rank {self.rank}; torchfrtrace reads it"

    def _lost(self) -> bool:
        """Whether the next rank is lost, or the store, which is rank 0's."""
        if self.num_ranks == 1:
            return False
        heard = self.next_alive in (NEVER, LEFT) or time.monotonic() - self.next_heard < SILENCE
        return self._store_is_lost() or not heard

    def _store_is_lost(self) -> bool:
        return time.monotonic() - self.answered > SILENCE

    def _end_all(self, line: str) -> None:
        """Have the other ranks leave, with the same words: with NCCL they may not notice that this one is gone."""
        if self.num_ranks > 1 and not self._store_is_lost():
            with contextlib.suppress(Exception):
                self.store.set(OVER, line)

    def let_others_look(self) -> None:
        """The ranks' reports are gone with rank 0: it leaves last."""
        if self.rank == 0 and self.num_ranks > 1:
            time.sleep(2 * LOOK)

    def verdict(self, still: float) -> str:
        """Who holds up the run, in one line; takes some seconds."""
        if self.num_ranks == 1:
            own = Sign(self.step, self.keys, self.host, 0, False)
            return f"the run stands at step {self.step} for {still:.0f} s; {own.samples}"
        first = self._signs()
        time.sleep(LOOK)
        second = self._signs()
        if first is None or second is None:
            return f"rank 0, which holds the ranks together, does not answer; rank {self.rank} is at step {self.step}"
        silent = [
            rank for rank in second if rank != self.rank and second[rank] == first[rank] and not second[rank].left
        ]
        if silent:
            self._blame(silent, second)
            return "; ".join(f"{who(rank, second)} has died or is frozen, {second[rank].samples}" for rank in silent)
        last = min(sign.step for sign in second.values())
        slowest = [rank for rank, sign in second.items() if sign.step == last]
        behind = [rank for rank in slowest if not second[rank].waiting] or slowest
        if len(behind) == len(second):
            return f"all ranks stand at step {last} for {still:.0f} s; {second[self.rank].samples}"
        self._blame(behind, second)
        held_up = ", ".join(str(rank) for rank in second if rank not in behind)
        named = "; ".join(f"{who(rank, second)} stands still, {second[rank].samples}" for rank in behind)
        return f"{named}; ranks {held_up} have waited for {still:.0f} s"

    def _blame(self, ranks: list[int], signs: dict[int, Sign]) -> None:
        if self.blame is not None:
            self.blame(sorted({signs[rank].host for rank in ranks} - {UNHEARD[2]}))

    def _signs(self) -> dict[int, Sign] | None:
        """The last reports of all ranks; None if the store does not answer."""
        if self._store_is_lost():  # a look into it might take for ever
            return None
        try:
            keys = [f"watchdog/{rank}" for rank in range(self.num_ranks)]
            told = [json.loads(self.store.get(key)) if self.store.check([key]) else UNHEARD for key in keys]
            return {rank: Sign(*sign) for rank, sign in enumerate(told)}
        except Exception:
            return None

    def explain(self, error: BaseException) -> str | None:
        """The rank that is missing, if the error is one of a collective operation; None for other errors.

        All ranks say what the first says: those that have explained it leave, and would be missed by a slower one.
        """
        if self.num_ranks == 1 or not isinstance(error, RuntimeError):
            return None
        if not any(part in str(error).lower() for part in PEER_GONE):
            return None
        self.explaining = True
        verdict = self._first_words() or self.verdict(time.monotonic() - self.moved)
        verdict = self._first_words() or verdict  # another may have been faster
        self._end_all(verdict)
        self.let_others_look()
        return verdict


def in_collective() -> bool:
    """Whether the main thread waits for the others just now: within torch.distributed, or for what a GPU exchanges.

    Calls of NCCL return at once. A rank is then held up where it reads a number that needs all ranks.
    """
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_filename.endswith("distributed_c10d.py") or frame.f_code in WAITS:
            return True
        frame = frame.f_back
    return False


def who(rank: int, signs: dict[int, Sign]) -> str:
    return f"rank {rank} (host {signs[rank].host}) at step {signs[rank].step}"
