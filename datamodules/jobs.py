"""Jobs in child processes, each of which may crash or hang without taking the others along.

A pool of concurrent.futures is broken as a whole by one crash, and waits for a hanging job without end. Children go
when the process that started them is killed.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import cv2
import torch
from threadpoolctl import threadpool_limits

from ..models.errors import UserError
from ..models.files import FULL

Job = TypeVar("Job")
Progress = Callable[[int, int, str], None]  # hears of long work: done, in all, label

START_SECONDS = 300.0  # a child may take to import what it needs
LOOK_SECONDS = 60.0  # between two looks at what runs, at most
BEAT_SECONDS = 0.5  # between two messages of a child that say how far it is, at least

_count: Callable[[], None] = lambda: None  # noqa: E731 (what `count_one` does in this process)


def no_progress(done: int, total: int, label: str) -> None:
    """Report to nobody."""


@dataclass
class Lost:
    """Stands in for the result that a job did not give, with the reason, such as "ended by SIGSEGV"."""

    reason: str


@dataclass
class Answer:
    """The result of a job, wrapped so that None can be a result too."""

    value: Any


@dataclass
class PartsDone:
    """A message on the way: so many parts of the job are done since the last one."""

    count: int


def count_one() -> None:
    """Say from within a job that one more part of it is done."""
    _count()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra on one thread: more threads sum in another order, and the result must not depend on the machine.

    Processes, not threads, use the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def run_jobs(
    function: Callable[[Job], Any],
    jobs: Sequence[Job],
    *,
    workers: int,  # 0: in this process, which a crash then ends
    patience: Callable[[Job], float] = lambda job: float("inf"),  # seconds that a job may take
    beat: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[Job, Any]]:
    """Yields each job with the result of `function`, or with `Lost`, as jobs end; `function` is sent to the children.

    `beat` is told now and then how often the jobs have called `count_one` so far. A UserError of a job
    is raised, and so is the error of a full disk.
    """
    if workers == 0:
        yield from _run_here(function, jobs, beat)
        return
    waiting, count = deque(jobs), 0
    children = [Child(function) for _ in range(min(workers, len(jobs)))]
    try:
        while waiting or any(child.job for child in children):
            for child in [child for child in children if child.idle][: len(waiting)]:
                child.give(job := waiting.popleft(), patience(job))
            time_left = min(child.deadline for child in children) - time.monotonic()
            wait([child.connection for child in children], timeout=min(max(0.0, time_left), LOOK_SECONDS))
            for child in list(children):
                result = child.result()
                if child.counted:
                    count, child.counted = count + child.counted, 0
                    beat(count)
                if child.dead:
                    child.stop()
                    children.remove(child)
                    children += [Child(function)] * bool(waiting)
                if result is not None:
                    if isinstance(result[1], UserError | OSError):
                        raise result[1]
                    yield result
    finally:
        for child in children:
            child.stop()


def _run_here(
    function: Callable[[Job], Any], jobs: Sequence[Job], beat: Callable[[int], None]
) -> Iterator[tuple[Job, Any]]:
    global _count
    count, before = 0, _count

    def heard() -> None:
        nonlocal count
        count += 1
        beat(count)

    for job in jobs:
        _count = heard
        try:
            result = function(job)
        finally:
            _count = before
        yield job, result


class Child(Generic[Job]):
    """One child process and the job that it has."""

    def __init__(self, function: Callable[[Job], Any]) -> None:
        context = multiprocessing.get_context("spawn")  # forking after libraries have started threads can hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()  # or the end of the child would not be seen here
        self.job: tuple[Job] | tuple[()] = ()
        self.started = self.idle = self.dead = False
        self.counted = 0  # parts of jobs done, not yet told to `beat`
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
            while self.connection.poll():
                message = self.connection.recv()
                if isinstance(message, Answer):
                    return message
                self.counted += message.count
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
    threading.Thread(target=_follow_parent, daemon=True).start()
    cv2.setNumThreads(1)
    global _count
    _count = counter = Counter(connection)
    connection.send(Answer(None))  # ready
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            with one_thread():  # each time: the first job may load libraries that have threads of their own
                answer = function(job)
        except UserError as error:
            answer = error
        except OSError as error:
            answer = error if error.errno in FULL else Lost(f"{type(error).__name__}: {error}")
        except Exception as error:  # a result all the same: who reads the results can name the job
            answer = Lost(f"{type(error).__name__}: {error}")
        counter.tell()
        connection.send(Answer(answer))


class Counter:
    """`count_one` in a child: tells the parent, but not each time."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.count, self.told = connection, 0, 0.0

    def __call__(self) -> None:
        self.count += 1
        if time.monotonic() - self.told >= BEAT_SECONDS:
            self.tell()

    def tell(self) -> None:
        if self.count:
            self.connection.send(PartsDone(self.count))
            self.count, self.told = 0, time.monotonic()


def _follow_parent() -> None:
    """Run in a thread of a child: ends the child if its parent was killed; else it would go on, or wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
