"""Jobs in child processes, each of which may crash or hang without taking the others along.

A pool of concurrent.futures is broken as a whole by one crash, and waits for a hanging job without end.
"""

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import cv2

from .processes import follow_parent

Job = TypeVar("Job")

START_SECONDS = 300.0  # a child may take to import what it needs
LOOK_SECONDS = 60.0  # between two looks at what runs, at most


@dataclass
class Lost:
    """What a job has in place of a result: why there is none, such as "ended by SIGSEGV"."""

    reason: str


@dataclass
class Answer:
    """What a job gave, wrapped so that None is an answer too."""

    value: Any


def run_jobs(
    function: Callable[[Job], Any],
    jobs: Sequence[Job],
    *,
    workers: int,  # 0: in this process, where a crash is a crash
    patience: Callable[[Job], float],  # seconds that a job may take
) -> Iterator[tuple[Job, Any]]:
    """Each job with what `function` makes of it, or with `Lost`, as they get ready; the children get `function`."""
    if workers == 0:
        yield from ((job, function(job)) for job in jobs)
        return
    waiting = deque(jobs)
    children: list[Child[Job]] = [Child(function) for _ in range(min(workers, len(jobs)))]
    try:
        while waiting or any(child.job for child in children):
            for child in children:
                if child.idle and waiting:
                    job = waiting.popleft()
                    child.give(job, patience(job))
            time_left = min(child.deadline for child in children) - time.monotonic()
            wait([child.connection for child in children], timeout=min(max(0.0, time_left), LOOK_SECONDS))
            for child in list(children):
                result = child.result()
                if child.dead:
                    child.stop()
                    children.remove(child)
                    children += [Child(function)] * bool(waiting)
                if result is not None:
                    yield result
    finally:
        for child in children:
            child.stop()


class Child(Generic[Job]):
    """One child process and the job that it has."""

    def __init__(self, function: Callable[[Job], Any]) -> None:
        context = get_context("spawn")  # forking after libraries have started threads can hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()  # or the end of the child would not be seen here
        self.job: tuple[Job] | tuple[()] = ()
        self.started = self.idle = self.dead = False
        self.seconds = START_SECONDS
        self.deadline = time.monotonic() + self.seconds

    def give(self, job: Job, seconds: float) -> None:
        """Start a job that may take so long."""
        self.job, self.idle, self.seconds = (job,), False, seconds
        self.deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError):  # it has died; the next look says so
            self.connection.send(job)

    def result(self) -> tuple[Job, Any] | None:
        """The job that has come to an end since the last look, if one has, and its result."""
        answer = self._answer()
        if answer is None:
            return None
        if self.dead and not self.started:  # the next one would fare no better
            raise RuntimeError(f"a child process did not start: {answer.value.reason}")
        done, self.job, self.deadline = self.job, (), float("inf")
        self.idle, self.started = not self.dead, True
        return (done[0], answer.value) if done else None

    def _answer(self) -> Answer | None:
        try:
            if self.connection.poll():
                return self.connection.recv()
        except (EOFError, OSError):
            self.process.join(START_SECONDS)
            code = self.process.exitcode or 0
            self.dead = True
            return Answer(Lost(f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"))
        if time.monotonic() < self.deadline:
            return None
        self.dead = True
        return Answer(Lost(f"no answer within {self.seconds:.0f} s"))

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets it too, ends its children
    threading.Thread(target=follow_parent, daemon=True).start()
    cv2.setNumThreads(1)
    connection.send(Answer(None))  # ready
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(Answer(function(job)))
        except Exception as error:  # a result all the same: who reads the results can name the job
            connection.send(Answer(Lost(f"{type(error).__name__}: {error}")))
